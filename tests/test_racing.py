"""Racing: most items are seen by few draws, and the choice is that of all draws."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from activebdl import ActiveDataset, ActiveLearning, Race, UserError, resolve
from activebdl.build import build, make_scoring, resolved
from activebdl.data import Normalise
from activebdl.racing import Heat, make_race, race
from activebdl.runs import start
from activebdl.scoring import Scorer
from activebdl.spec import read_spec
from activebdl.strategies import Query
from tests.conftest import KnownDraws, small_network
from tests.test_loop import timeless

N, K, Q = 400, 50, 7
HEATS = ((5, 0.3), (20, 0.1))


def scorer(table: Tensor) -> Scorer:
    inputs = torch.arange(len(table)).float()[:, None]
    return Scorer(KnownDraws(table), inputs, Normalise(), torch.device("cpu"))


def random_table(seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    items = 3 * torch.randn(N, 1, 3, generator=rng)
    return (items + torch.randn(N, K, 3, generator=rng)).log_softmax(dim=-1)


def query(table: Tensor, heats: tuple[tuple[Tensor, float], ...], ids: Tensor, seed: int = 0) -> Query:
    return Query(
        ids, torch.empty(0, dtype=torch.long), Q, torch.Generator().manual_seed(seed), scorer(table),
        costs=1 + torch.arange(len(table)).double() / len(table),
        heats=tuple(Heat(scorer(part), share) for part, share in heats),
    )  # fmt: skip


def first_draws(table: Tensor) -> tuple[tuple[Tensor, float], ...]:
    return tuple((table[:, :draws], share) for draws, share in HEATS)


# ---- what is chosen


@pytest.mark.parametrize(
    "name", ["bald", "max_entropy", "power_bald", "softmax_bald", "softrank_bald", "per_cost_bald"]
)
@given(seed=st.integers(0, 10**6))
def test_where_few_draws_know_it_all_the_choice_is_the_same(name: str, seed: int) -> None:
    """Heats whose scores are those of all draws leave behind nobody who would have been chosen."""
    table = random_table(seed)
    ids = torch.randperm(N, generator=torch.Generator().manual_seed(seed))[: N // 2].sort().values
    told = tuple((table, share) for _, share in HEATS)  # all 50 draws in every heat, counted as fewer
    slow = resolve(name).select(query(table, (), ids, seed))
    counted = replace(query(table, told, ids, seed), scorer=scorer(torch.cat([table, table], dim=1)))
    fast = resolve(name).select(counted)
    assert fast.ids.tolist() == slow.ids.tolist()
    torch.testing.assert_close(fast.scores, slow.scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bald", "power_max_entropy", "per_cost_margin"])
@given(seed=st.integers(0, 10**6))
def test_what_is_chosen_was_seen_by_all_draws(name: str, seed: int) -> None:
    """Whatever the heats say, even nonsense, the scores of the chosen are those of the full count."""
    table, other = random_table(seed), random_table(seed + 1)
    ids = torch.arange(3, N)
    strategy = resolve(name)
    chosen = strategy.select(query(table, first_draws(other), ids, seed))
    scores = strategy.scores(table[chosen.ids]).double()
    if strategy.needs_costs:
        scores = scores / (1 + chosen.ids.double() / N)
    assert chosen.scores is not None
    torch.testing.assert_close(chosen.scores, scores)
    assert chosen.samples is not None
    assert len(ids) * 5 + 39 * K <= chosen.samples <= len(ids) * (5 + 20 + K)


def test_the_samples_of_a_race_are_counted() -> None:
    """5 draws for all 400, 20 for 120, 50 for 40; the 7 best are among these."""
    scores = torch.arange(N).double()
    looked: list[tuple[int, list[int]]] = []

    def score(scorer: Scorer, ids: Tensor) -> Tensor:
        looked.append((scorer.draws.count, ids.tolist()))
        return scores[ids]

    def choose(scores: Tensor, quantity: int) -> Tensor:
        return scores.argsort(descending=True)[:quantity]

    table = random_table(0)
    heats = tuple(Heat(scorer(part), share) for part, share in first_draws(table))
    chosen, found, samples = race(heats, scorer(table), torch.arange(N), score, choose, Q)
    assert looked == [(5, list(range(400))), (20, list(range(280, 400))), (50, list(range(360, 400)))]
    assert samples == 400 * 5 + 120 * 20 + 40 * 50
    assert chosen.tolist() == list(range(399, 392, -1)) and torch.equal(found, scores)


def test_who_was_left_behind_comes_back_when_those_ahead_fall() -> None:
    """The early favourites turn out to be worth nothing, so the choice falls on others, who are then seen by all."""
    early, late = torch.arange(N).double(), -torch.arange(N).double()

    def score(scorer: Scorer, ids: Tensor) -> Tensor:
        return (late if scorer.draws.count == K else early)[ids]

    def choose(scores: Tensor, quantity: int) -> Tensor:
        return scores.argsort(descending=True)[:quantity]

    table = random_table(0)
    heats = (Heat(scorer(table[:, :5]), 0.1),)
    chosen, found, samples = race(heats, scorer(table), torch.arange(N), score, choose, Q)
    assert samples == N * 5 + N * K  # nobody is better than he looked, so all had to be looked at
    assert chosen.tolist() == list(range(Q)) and torch.equal(found, late)


def test_never_fewer_go_on_than_are_asked_for() -> None:
    table = random_table(0)
    chosen = resolve("bald").select(query(table, ((table[:, :5], 1e-6),), torch.arange(N)))
    assert len(chosen.ids) == Q and chosen.samples is not None and chosen.samples >= N * 5 + Q * K


# ---- what a race may be


@pytest.mark.parametrize(
    "heats",
    [
        ((0, 0.2),), ((8, 0.2), (8, 0.1)), ((30, 0.2), (8, 0.1)), ((8, 1.0),), ((8, 0.2), (30, 0.2)), ((8, 0.0),),
        (8, 0.2), ((6.5, 0.3),), ((8, "few"),), 8,
    ],
)  # fmt: skip
def test_heats_that_cannot_be(heats: Any) -> None:
    with pytest.raises(UserError, match="draws that rise from 1 and shares that fall from below 1"):
        Race(heats)


def test_a_precision_that_cannot_be() -> None:
    with pytest.raises(UserError, match="precision of a race's heats is float32 or bfloat16, not 'half'"):
        Race(precision="half")  # type: ignore[arg-type]


def test_a_race_is_the_same_however_it_is_written() -> None:
    assert repr(Race([[torch.tensor(8), 0.25]])) == repr(Race(((8, 0.25),)))  # pyright: ignore[reportArgumentType]


def test_a_race_in_words() -> None:
    assert Race().told(100) == "8 draws for all, 32 draws for the first 20 %, 100 draws for the first 1.5 %"
    assert Race().told(20) == "8 draws for all, 20 draws for the first 20 %"
    rough = Race(((5, 0.5),), precision="bfloat16")
    assert rough.told(9) == "5 draws for all in bfloat16, 9 draws for the first 50 %"
    assert make_race("full").told(20) == "20 draws for all"
    for wrong in ("fast", None, 3):
        with pytest.raises(UserError, match="Scoring is 'full' or 'race'"):
            make_race(wrong)


def test_a_spec_says_how_to_score() -> None:
    assert make_scoring(read_spec("digits-small")).heats == ()
    own = read_spec("digits-small", {"scoring": {"heats": [[4, 0.5]]}})
    assert make_scoring(own) == Race(((4, 0.5),)) == make_scoring(resolved(own))
    both = read_spec("digits-small", {"scoring": "race", "scoring.precision": "bfloat16"})
    assert make_scoring(both) == Race(precision="bfloat16")
    raced = resolved(read_spec("digits-small", {"scoring": "race"}))
    heats = [list(heat) for heat in Race().heats]  # as they are, when defaults have changed
    assert raced.scoring == {"heats": heats, "precision": "float32"}
    for wrong, sentence in (
        (3, "scoring"),
        ({"precision": "float16"}, "should be 'float32' or 'bfloat16'"),
        ({"laps": 3}, "no setting 'laps'"),
        ("fast", "Scoring is 'full'"),
    ):
        with pytest.raises(UserError, match=sentence):
            build(read_spec("digits-small", {"scoring": wrong}))


# ---- in the cycle


def cycle(dataset: ActiveDataset, journal: Path | None = None, **changes: Any) -> ActiveLearning:
    options: dict[str, Any] = {"counts": (10, 14, 18), "draws": 40, "scoring": Race(((6, 0.3), (15, 0.1)))}
    return ActiveLearning(dataset, small_network, journal=journal, **(options | changes))


def test_a_cycle_races_and_counts(dataset: ActiveDataset, tmp_path: Path) -> None:
    rounds = list(cycle(dataset, tmp_path / "journal.sqlite"))
    assert rounds[0].samples is None  # of the start, which has no score
    for before, round in itertools.pairwise(rounds):
        left = 120 - before.n_labels
        heats = 6 * left + 15 * math.ceil(0.3 * left) + 40 * math.ceil(0.1 * left)
        assert round.samples is not None and heats - 40 <= round.samples < 40 * left
    assert list(cycle(dataset, tmp_path / "journal.sqlite")) == rounds  # as the journal has it
    with pytest.raises(UserError, match="its scoring is Race"):
        list(cycle(dataset, tmp_path / "journal.sqlite", scoring="full"))


@pytest.mark.parametrize("strategy", ["bald", "softrank_bald"])
@pytest.mark.parametrize("done", [1, 2])
def test_a_raced_run_goes_on_as_if_it_had_not_stopped(
    dataset: ActiveDataset, tmp_path: Path, strategy: str, done: int
) -> None:
    whole = timeless(list(cycle(dataset, strategy=strategy)))
    rounds = iter(cycle(dataset, tmp_path / "journal.sqlite", strategy=strategy))
    for _ in range(done):
        next(rounds)
    rounds.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert timeless(list(cycle(dataset, tmp_path / "journal.sqlite", strategy=strategy))) == whole


def first_query(dataset: ActiveDataset, **options: Any) -> list[Tensor]:
    """What draws say of items, heat by heat, where those of least entropy go on."""
    seen: list[Tensor] = []

    def watching(log_probs: Tensor) -> Tensor:
        if len(log_probs) > 8:  # there is a look at a few beforehand, for the user's mistakes
            seen.append(log_probs)
        return resolve("max_entropy").score(log_probs).neg()  # type: ignore[misc]

    rounds = iter(cycle(dataset, strategy=watching, **options))
    for _ in range(2):
        next(rounds)
    return seen


def test_the_draws_of_a_heat_are_the_first_of_all(dataset: ActiveDataset) -> None:
    """So an item that is ahead early has a head start in the full count too."""
    first, second, last = first_query(dataset)
    assert [len(seen) for seen in (first, second, last)] == [110, 33, 11]
    for early, later in ((first, second), (second, last)):
        same = (later[:, None, : early.shape[1]] - early[None]).abs().amax(dim=(2, 3)) < 1e-4  # [later, early]
        assert bool(same.any(dim=1).all())


def test_early_heats_may_be_in_bfloat16_and_the_last_is_not(dataset: ActiveDataset) -> None:
    heats = ((6, 0.3),)
    exact, last = first_query(dataset, scoring=Race(heats))
    rough, still = first_query(dataset, scoring=Race(heats, precision="bfloat16"))
    gap = float((exact.exp() - rough.exp()).abs().max())
    assert 1e-6 < gap < 0.1
    known = (still[:, None] - first_query(dataset, scoring="full")[0][None]).abs().amax(dim=(2, 3)) < 1e-4
    assert last.shape == still.shape and bool(known.any(dim=1).all())


def test_a_heat_that_the_score_cannot_use_costs_no_label(dataset: ActiveDataset) -> None:
    def ten_best(log_probs: Tensor) -> Tensor:
        return log_probs.topk(10, dim=1).values.sum(dim=(1, 2))

    with pytest.raises(UserError, match="'ten_best' fails on predictions"):
        cycle(dataset, strategy=ten_best)  # of which the first heat has 6
    with pytest.raises(UserError, match="'bald' measures how much draws of the posterior disagree"):
        cycle(dataset, strategy="bald", scoring=Race(((1, 0.1),)))


def test_full_scoring_counts_all(dataset: ActiveDataset) -> None:
    assert [round.samples for round in cycle(dataset, scoring="full")] == [None, 40 * 110, 40 * 106]
    assert [round.samples for round in cycle(dataset, strategy="batchbald")] == [None] * 3  # it looks at all together


def test_a_run_says_that_it_races(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = read_spec("digits-small", {"scoring": "race", "counts": [20, 22], "strategy": "bald", "draws": 40})
    start(spec, tmp_path / "run")
    told = capsys.readouterr().out
    assert (
        "bald sees all unlabelled items in each round, by a race: 8 draws for all, 32 draws for the first 20 %" in told
    )
