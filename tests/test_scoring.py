import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from activebdl import MAP, ActiveDataset, ActiveLearning, MCDropout, Normalise, Numbers, Training, UserError
from activebdl.data import MappedInputs
from activebdl.scoring import Scorer, check_draws, entropy, predictive
from tests.conftest import KnownDraws

Known = Callable[[Tensor], Any]
CPU = torch.device("cpu")


def random_table(n: int = 50, k: int = 4, c: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, c, generator=generator, dtype=torch.double).log_softmax(-1)


def scorer(draws: Any, n: int, chunk: int | None = None) -> Scorer:
    return Scorer(draws, torch.arange(n)[:, None], Normalise(), CPU, chunk)


def first_class(log_probs: Tensor) -> Tensor:
    return log_probs[:, :, 0].exp().mean(1)


@given(st.integers(1, 60), st.permutations(range(50)))
def test_scores_do_not_depend_on_chunks_or_order(chunk: int, order: list[int]) -> None:
    table, ids = random_table(), torch.tensor(order)
    expected = table[:, :, 0].exp().mean(1)
    assert torch.equal(scorer(KnownDraws(table), 50, chunk).scores(ids, first_class), expected[ids])


def test_log_probs_come_in_the_order_of_the_ids(known_draws: Known) -> None:
    table, ids = random_table(), torch.tensor([7, 3, 49])
    assert torch.equal(scorer(known_draws(table), 50, chunk=2).predictions(ids), table[ids])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it there")
def test_scores_of_a_long_pool_take_no_memory_but_their_own(tmp_path: Path) -> None:
    n, size = 150_000, 784
    np.lib.format.open_memmap(tmp_path / "pool.npy", "w+", np.uint8, (n, size))  # a file of holes: it takes no room
    seen: list[int] = []

    class Sums:
        count = 2

        def log_probs(self, x: Tensor) -> Tensor:
            return -1.0 - x.sum(dim=1)[:, None, None].expand(-1, 2, 3)

    def look(count: int) -> None:
        seen.append(1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]))

    inputs = MappedInputs.open(tmp_path / "pool.npy")
    scores = Scorer(Sums(), inputs, Normalise(), CPU, 256, look).scores(torch.arange(n), first_class)
    assert scores.shape == (n,)
    assert max(seen) - seen[0] < n * size / 4  # a sixteenth of what the pool takes in float32
    assert len(seen) == -(-n // 256)


def test_progress_counts_every_item_once(known_draws: Known) -> None:
    seen: list[int] = []
    Scorer(known_draws(random_table()), torch.arange(50)[:, None], Normalise(), CPU, 8, seen.append).scores(
        torch.arange(50), first_class
    )
    assert sum(seen) == 50
    assert max(seen) == 8


IMPOSSIBLE = {
    "classes": [
        (torch.nan, 1, "The network gave NaN for item 33; look for NaN"),
        (-torch.inf, 1, "gave item 33 a log-probability of -inf, .* take log_softmax of the logits"),
        (torch.inf, 1, "gave item 33 a log-probability of inf, and none is above 0"),
        (2e-3, 1, "gave item 33 a log-probability of 0.002, and none is above 0"),
    ],
    "numbers": [
        (torch.nan, 0, "gave item 33 a mean or variance of nan"),
        (torch.nan, 1, "gave item 33 a mean or variance of nan"),
        (-torch.inf, 0, "gave item 33 a mean or variance of -inf"),
        (torch.inf, 1, "gave item 33 a mean or variance of inf"),
        (0.0, 1, "gave item 33 a variance of 0, and it must be above 0"),
        (-2.0, 1, "gave item 33 a variance of -2, and it must be above 0"),
    ],
}


@pytest.mark.parametrize(
    ("target", "value", "column", "message"), [(name, *case) for name, some in IMPOSSIBLE.items() for case in some]
)
@pytest.mark.parametrize("dtype", [torch.double, torch.float])
def test_what_cannot_be_is_refused_with_the_items_id(
    known_draws: Known, target: str, value: float, column: int, message: str, dtype: torch.dtype
) -> None:
    table = (random_table() if target == "classes" else torch.rand(50, 4, 2) + 0.1).to(dtype)
    looking = replace(scorer(known_draws(table), 50, chunk=10), target=target)
    ids = torch.arange(49, -1, -1)  # so that no position is an id
    looking.predictions(ids)
    table[33, 2, column] = value
    with pytest.raises(UserError, match=message):
        looking.scores(ids, first_class)
    with pytest.raises(UserError, match=message.replace("item", "test item")):
        replace(looking, called="test item").predictions(ids)
    assert len(looking.predictions(ids[ids != 33])) == 49


def test_what_can_only_just_be_is_taken(known_draws: Known) -> None:
    """Rounding of a sure class, an unlikely one in float32, means of any size, and the least variance."""
    sure = torch.tensor([[[1e-6, -3e38], [0.0, -1e4]]])
    assert scorer(known_draws(sure), 1).scores(torch.tensor([0]), first_class).tolist() == pytest.approx([1.0])
    far = torch.tensor([[[-3e38, 1e-45], [3e38, 3e38]]])
    assert torch.equal(replace(scorer(known_draws(far), 1), target="numbers").predictions(torch.tensor([0])), far)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_cannot_be_are_refused_with_the_items_id(known_draws: Known, value: float) -> None:
    features = torch.randn(50, 3)
    looking = replace(
        scorer(known_draws(random_table()), 50, chunk=10), read_features=lambda x: features[x[:, 0].long()]
    )
    ids = torch.arange(49, -1, -1)
    assert torch.equal(looking.features(ids), features.flip(0))
    features[33, 1] = value
    with pytest.raises(UserError, match="features of item 33 hold NaN or infinity"):
        looking.features(ids)


@pytest.mark.parametrize(
    "score", [lambda lp: lp[:, 0], lambda lp: lp.sum(), lambda lp: None, lambda lp: lp.mean((1, 2))[:-1]]
)
def test_a_score_that_is_not_one_number_per_item_is_refused(known_draws: Known, score: Any) -> None:
    with pytest.raises(UserError, match="one number per item"):
        scorer(known_draws(random_table()), 50).scores(torch.arange(50), score)


def test_a_score_that_is_nan_is_refused(known_draws: Known) -> None:
    with pytest.raises(UserError, match="score of item 4 is NaN"):
        scorer(known_draws(random_table()), 50).scores(
            torch.arange(4, 9), lambda lp: torch.where(torch.arange(len(lp)) == 0, torch.nan, 1.0)
        )


def test_predictive_and_entropy_in_closed_form() -> None:
    table = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]], dtype=torch.double).log()
    assert predictive(table).exp()[0].tolist() == pytest.approx([0.75, 0.25])
    assert entropy(table)[0].tolist() == pytest.approx([0.6931471805599453, 0.0])


def test_draws_that_cannot_disagree_are_refused(known_draws: Known) -> None:
    ids = torch.arange(50)
    with pytest.raises(UserError, match="at least 2 draws"):
        check_draws(scorer(known_draws(random_table(k=1)), 50), ids)
    same = random_table(k=1).repeat(1, 5, 1)
    with pytest.raises(UserError, match="All 5 draws of the posterior are the same"):
        check_draws(scorer(known_draws(same), 50), ids)
    check_draws(scorer(known_draws(random_table()), 50), ids)


@pytest.mark.parametrize("item", [0, 31, 32, 49])
def test_draws_that_disagree_on_one_item_anywhere_are_taken(known_draws: Known, item: int) -> None:
    table = random_table(k=1).repeat(1, 5, 1)
    table[item, 3] = table[item, 3].flip(0)
    check_draws(scorer(known_draws(table), 50), torch.arange(50))


def test_a_look_for_disagreement_is_no_progress(known_draws: Known) -> None:
    seen: list[int] = []
    check_draws(replace(scorer(known_draws(random_table()), 50), on_items=seen.append), torch.arange(50))
    assert not seen


@pytest.mark.parametrize("wrong", ["pool", "test"])
def test_the_loop_tells_an_item_of_the_pool_from_one_of_the_test_set(
    dataset: ActiveDataset, network: Callable[[], nn.Module], wrong: str
) -> None:
    getattr(dataset, wrong)[17] = torch.nan
    method = MCDropout(Training(steps=2))
    rounds = ActiveLearning(dataset, network, counts=(3, 5), posterior=method, draws=4, test_draws=3, device="cpu")
    with pytest.raises(UserError, match="NaN for test item 17" if wrong == "test" else "NaN for item 17"):
        list(rounds)


def test_the_loop_tells_a_test_item_whose_number_cannot_be_predicted() -> None:
    x = torch.randn(40, 2)
    data = ActiveDataset.from_arrays(x[:30], x[:30, 0], x[30:], torch.zeros(10), numbers=Numbers(0.1))
    data.test[3] = torch.nan  # type: ignore[index]
    method = MAP(Training(steps=2))
    rounds = ActiveLearning(
        data, lambda: nn.Linear(2, 1), counts=(3, 5), posterior=method, strategy="random", device="cpu"
    )
    with pytest.raises(UserError, match="gave test item 3 a mean or variance of nan"):
        list(rounds)


# ---- memory ----


@dataclass(frozen=True)
class Greedy(KnownDraws):
    """Draws that find no memory for more than a few items at a time."""

    room: int = 3
    error: Exception = field(default_factory=MemoryError)
    sizes: list[int] = field(default_factory=list[int])

    def log_probs(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise self.error
        return super().log_probs(x)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("room", [1, 3, 7, 16])
def test_where_memory_runs_out_there_are_fewer_items_at_a_time(error: Exception, room: int) -> None:
    table, ids, seen = random_table(), torch.arange(50).flip(0), list[int]()
    draws = Greedy(table, room, error)
    looking = replace(scorer(draws, 50, chunk=16), on_items=seen.append)
    assert torch.equal(looking.scores(ids, first_class), first_class(table).double()[ids])
    assert sum(seen) == 50 and max(seen) <= room
    assert sum(size > room for size in draws.sizes) <= 4  # 16, 8, 4, 2: what was too many is not tried again


def test_one_item_that_does_not_fit_is_told() -> None:
    with pytest.raises(UserError, match="memory of cpu is too small for item 7 alone, seen by 4 draws; take fewer"):
        scorer(Greedy(random_table(k=4), room=0), 50).predictions(torch.tensor([7, 8]))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        scorer(Greedy(random_table(), 0, RuntimeError("shapes cannot be multiplied")), 50).predictions(torch.arange(3))


def test_a_reduction_gives_one_row_per_item() -> None:
    model = scorer(KnownDraws(random_table()), 50, chunk=8)
    wrong: list[Callable[[Tensor], Tensor]] = [lambda log_probs: log_probs.sum(), lambda log_probs: log_probs[:1]]
    for f in wrong:
        with pytest.raises(UserError, match="A reduction gives a row per item; for 8 it gave"):
            model.reduce(torch.arange(50), f)
    assert model.reduce(torch.arange(0), first_class).shape == (0,)
