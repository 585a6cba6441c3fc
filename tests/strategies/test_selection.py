"""The selection rules, and the promises of every strategy to the loop."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from activebdl import Normalise, Query, Selection, UserError, resolve
from activebdl.scoring import Scorer
from activebdl.strategies import Strategy
from activebdl.strategies._selection import Rule, power, softmax, softrank, top_k

Known = Callable[[Tensor], Any]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.data())
def test_top_k_takes_the_highest_best_first(values: list[int], data: st.DataObject) -> None:
    quantity = data.draw(st.integers(1, len(values)))
    chosen = top_k(torch.tensor(values, dtype=torch.double), quantity, seeded(0))
    assert len(chosen.unique()) == quantity
    assert [values[i] for i in chosen.tolist()] == sorted(values, reverse=True)[:quantity]


def test_ties_are_broken_at_random_not_by_position() -> None:
    scores = torch.zeros(10, dtype=torch.double)
    firsts = [int(top_k(scores, 1, seeded(seed))) for seed in range(2000)]
    share = torch.tensor(firsts).bincount(minlength=10) / 2000
    assert bool(((share - 0.1).abs() < 0.03).all())  # 4.5 standard deviations


SCORES = torch.tensor([0.1, 0.4, 0.9, 0.2], dtype=torch.double)
WEIGHTS: list[tuple[Rule, list[float]]] = [
    (power(2.0), [s**2 for s in SCORES.tolist()]),
    (softmax(3.0), [math.exp(3 * s) for s in SCORES.tolist()]),
    (softrank(1.5), [rank**-1.5 for rank in (4, 2, 1, 3)]),
]


@pytest.mark.parametrize(("rule", "weights"), WEIGHTS)
def test_stochastic_rules_draw_pairs_in_proportion_without_replacement(rule: Rule, weights: list[float]) -> None:
    trials = 6000
    counts = dict.fromkeys(itertools.permutations(range(4), 2), 0)
    for seed in range(trials):
        counts[tuple(rule(SCORES, 2, seeded(seed)).tolist())] += 1  # type: ignore[index]
    total = sum(weights)
    for (first, second), count in counts.items():
        expected = weights[first] / total * weights[second] / (total - weights[first])
        assert count / trials == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / trials))


def test_power_takes_scores_of_zero_last() -> None:
    scores = torch.tensor([0.0, 1e-9, 0.0, 2.0], dtype=torch.double)
    for seed in range(50):
        assert set(power(1.0)(scores, 2, seeded(seed)).tolist()) == {1, 3}
    assert len(power(1.0)(scores, 4, seeded(0)).unique()) == 4


def test_what_scores_minus_infinity_is_never_drawn_while_there_is_anything_else() -> None:
    scores = torch.full((20,), -math.inf, dtype=torch.double)
    scores[[3, 5, 8]] = torch.tensor([0.1, 2.0, 1.0], dtype=torch.double)
    for rule in (top_k, power(1.0), softmax(1.0), softrank(1.0)):
        for seed in range(50):
            assert set(rule(scores, 3, seeded(seed)).tolist()) == {3, 5, 8}
        assert len(rule(scores, 20, seeded(0)).unique()) == 20


def test_rules_refuse_what_they_cannot_weigh() -> None:
    with pytest.raises(UserError, match="not negative"):
        power(1.0)(torch.tensor([-1.0, 2.0]), 1, seeded(0))
    for beta in (0.0, -1.0, math.inf, math.nan):
        for rule in (power, softmax, softrank):
            with pytest.raises(UserError, match="beta of a stochastic rule must be a number above 0"):
                rule(beta)


def test_a_high_beta_is_the_top() -> None:
    scores = torch.rand(100, generator=seeded(3), dtype=torch.double)
    best = set(top_k(scores, 5, seeded(0)).tolist())
    for rule in (power(1e6), softmax(1e6), softrank(1e6)):
        assert set(rule(scores, 5, seeded(1)).tolist()) == best


def test_a_stochastic_form_keeps_what_the_score_needs() -> None:
    assert resolve("power_bald").needs_disagreement
    assert not resolve("softmax_margin").needs_disagreement
    with pytest.raises(UserError, match="'random' has no scores"):
        resolve("power_random")
    with pytest.raises(UserError, match="Unknown strategy 'foo'"):
        resolve("power_foo")


def query(known_draws: Known, quantity: int = 3, n: int = 10) -> Query:
    table = torch.randn(n, 4, 3, generator=seeded(0), dtype=torch.double).log_softmax(-1)
    scorer = Scorer(known_draws(table), torch.arange(n)[:, None], Normalise(), torch.device("cpu"), 4)
    unlabelled = torch.tensor([i for i in range(n) if i != 5])
    return Query(unlabelled, torch.tensor([5]), quantity, seeded(1), scorer)


@pytest.mark.parametrize("name", ["bald", "power_bald", "softrank_margin", "random"])
@pytest.mark.parametrize("quantity", [1, 3, 9])
def test_ids_are_of_the_dataset_distinct_and_unlabelled(known_draws: Known, name: str, quantity: int) -> None:
    chosen = resolve(name).select(query(known_draws, quantity))
    assert len(chosen.ids) == len(chosen.ids.unique()) == quantity
    assert 5 not in chosen.ids.tolist()


def test_ids_are_not_positions_in_what_is_unlabelled(known_draws: Known) -> None:
    """The item with the highest score is chosen by its id, though its position is another."""
    wanted = query(known_draws, 1)
    scores = {int(id): float(wanted.model.scores(id[None], lambda lp: -lp[:, 0, 2])) for id in wanted.unlabelled}
    best = max(scores, key=lambda id: scores[id])
    strategy = resolve(lambda log_probs: -log_probs[:, 0, 2])
    assert strategy.select(query(known_draws, 1)).ids.tolist() == [best]
    assert best > 5  # so that position and id differ


LIST: Any = [0, 1, 2]
BAD: list[tuple[Callable[[Query], Any], str]] = [
    (lambda query: query.unlabelled[:2], "asked for 3 distinct ids"),
    (lambda query: query.unlabelled[:1].repeat(3), "asked for 3 distinct ids"),
    (lambda query: torch.tensor([0, 1, 5]), "item 5, which is not unlabelled"),
    (lambda query: torch.tensor([0, 1, 77]), "item 77, which is not unlabelled"),
    (lambda query: [0, 1, 2], "must return a tensor of ids, which are integers, not list"),
    (lambda query: query.unlabelled[:3].float(), "must return a tensor of ids, which are integers, not torch.float32"),
    (lambda query: Selection(LIST), "must return a tensor of ids, .* not list"),
    (lambda query: Selection(query.unlabelled[:3], torch.zeros(2)), r"one score for each of its 3 ids, not \[2\]"),
    (lambda query: int("some"), r"'mine' failed: ValueError: .*'some' \(test_selection.py, line \d+\)"),
]


@pytest.mark.parametrize(("joint", "message"), BAD)
def test_a_strategy_that_breaks_its_promise_is_refused(
    known_draws: Known, joint: Callable[[Query], Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Strategy("mine", joint=joint).select(query(known_draws))


def test_plain_functions_are_adopted_by_their_parameter(known_draws: Known) -> None:
    def by_score(log_probs: Tensor) -> Tensor:
        return log_probs[:, :, 0].mean(1)

    def by_query(query: Query) -> Selection:
        return Selection(query.unlabelled[: query.quantity], torch.ones(query.quantity))

    assert resolve(by_score).score is by_score
    assert resolve(by_query).joint is by_query  # type: ignore[arg-type]
    assert resolve(by_query).select(query(known_draws)).ids.tolist() == [0, 1, 2]  # type: ignore[arg-type]


def test_random_takes_every_pair_equally_often() -> None:
    strategy = resolve("random")
    counts = dict.fromkeys(itertools.combinations((2, 3, 7, 9), 2), 0)
    for seed in range(3000):
        chosen = strategy.select(Query(torch.tensor([2, 3, 7, 9]), torch.tensor([0]), 2, seeded(seed)))
        counts[tuple(sorted(chosen.ids.tolist()))] += 1  # type: ignore[index]
    assert all(abs(count / 3000 - 1 / 6) < 0.031 for count in counts.values())  # 4.5 standard deviations
