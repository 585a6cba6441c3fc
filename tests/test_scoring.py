from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from activebdl import Normalise, UserError
from activebdl.scoring import Scorer, check_draws, entropy, predictive

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
    from tests.conftest import KnownDraws

    table, ids = random_table(), torch.tensor(order)
    expected = table[:, :, 0].exp().mean(1)
    assert torch.equal(scorer(KnownDraws(table), 50, chunk).scores(ids, first_class), expected[ids])


def test_log_probs_come_in_the_order_of_the_ids(known_draws: Known) -> None:
    table, ids = random_table(), torch.tensor([7, 3, 49])
    assert torch.equal(scorer(known_draws(table), 50, chunk=2).predictions(ids), table[ids])


def test_progress_counts_every_item_once(known_draws: Known) -> None:
    seen: list[int] = []
    Scorer(known_draws(random_table()), torch.arange(50)[:, None], Normalise(), CPU, 8, seen.append).scores(
        torch.arange(50), first_class
    )
    assert sum(seen) == 50
    assert max(seen) == 8


def test_nan_is_refused_with_the_items_id(known_draws: Known) -> None:
    table = random_table()
    table[33, 2, 1] = torch.nan
    with pytest.raises(UserError, match="NaN for item 33"):
        scorer(known_draws(table), 50, chunk=10).scores(torch.arange(50), first_class)


def test_impossible_classes_are_no_nan(known_draws: Known) -> None:
    table = torch.tensor([[[0.0, -torch.inf], [0.0, -torch.inf]]])
    assert scorer(known_draws(table), 1).scores(torch.tensor([0]), first_class).tolist() == [1.0]


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
    table = random_table(k=1)
    with pytest.raises(UserError, match="at least 2 draws"):
        check_draws(known_draws(table), table)
    same = table.repeat(1, 5, 1)
    with pytest.raises(UserError, match="All 5 draws of the posterior are the same"):
        check_draws(known_draws(same), same)
    check_draws(known_draws(random_table()), random_table())
