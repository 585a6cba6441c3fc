"""BatchBALD against joint entropies by enumeration in float64, naive greedy choice, and what a batch must be."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from activebdl import Selection, UserError, resolve
from activebdl.scoring import entropy
from activebdl.strategies import strategy_names
from activebdl.strategies._joint_entropy import Outcomes, stratified
from activebdl.strategies.bald import bald
from activebdl.strategies.batchbald import greedy
from tests.strategies.fakes import keeps_its_promises, of_bit, saying, seeded, seeds, table


def choose(log_probs: Tensor, quantity: int, seed: int = 0, **options: Any) -> Selection:
    return resolve("batchbald", **options).select(saying(log_probs).query(quantity, seed))


def enumerated(log_probs: Tensor) -> float:
    """I(y_1..y_b; theta) of ``[b, K, C]``, a sum over all outcomes written out."""
    p = log_probs.exp().tolist()
    b, k, c = log_probs.shape
    joint = noise = 0.0
    for outcome in itertools.product(range(c), repeat=b):
        of_draws = [math.prod(p[i][j][y] for i, y in enumerate(outcome)) for j in range(k)]
        mean = sum(of_draws) / k
        joint -= mean * math.log(mean)
        noise -= sum(q * math.log(q) for q in of_draws) / k
    return joint - noise


def naive(log_probs: Tensor, quantity: int) -> tuple[list[int], list[float]]:
    """Greedy choice by the joint entropy of the batch with each item, all evaluated in each step."""
    p = log_probs.exp()
    noise = entropy(log_probs).mean(1)
    joint = torch.ones(1, p.shape[1], dtype=p.dtype)  # [M, K]
    chosen: list[int] = []
    total: list[float] = [0.0]
    for _ in range(quantity):
        with_each = torch.einsum("mk,nkc->nmc", joint, p) / p.shape[1]
        information = -torch.xlogy(with_each, with_each).sum((1, 2)) - noise - noise[chosen].sum()
        information[chosen] = -math.inf
        chosen.append(int(information.argmax()))
        total.append(float(information.max()))
        joint = (joint[:, None] * p[chosen[-1]].t()).flatten(0, 1)
    return chosen, [after - before for before, after in itertools.pairwise(total)]


@given(seeds, st.integers(2, 5), st.integers(2, 4), st.integers(1, 4))
def test_the_scores_add_up_to_the_information_of_the_batch(seed: int, k: int, c: int, b: int) -> None:
    log_probs = table(8, k, c, seed)
    selection = choose(log_probs, b)
    assert selection.scores is not None
    for i in range(1, b + 1):  # the chain rule, at every length
        expected = enumerated(log_probs[selection.ids[:i]])
        assert float(selection.scores[:i].sum()) == pytest.approx(expected, abs=1e-10)
    assert bool((selection.scores >= 0).all())
    assert bool((selection.scores.diff() <= 1e-10).all())
    assert float(selection.scores.sum()) <= math.log(k) + 1e-10


def test_lazy_choice_equals_the_naive_one_in_a_thousand_cases() -> None:
    for seed in range(1000):
        k, c, b = 2 + seed % 5, 2 + seed % 3, 2 + seed % 2
        log_probs = table(40, k, c, seed, spread=0.3 + seed % 7)
        ids, gains = naive(log_probs, b)
        chosen, scores = greedy(log_probs, b, seeded(seed), exact=10_000, samples=2)
        assert scores.tolist() == pytest.approx(gains, abs=1e-9)
        assert min(gains) < 1e-12 or chosen.tolist() == ids  # nothing left to tell: any item


@pytest.mark.parametrize("dtype", [torch.double, torch.float])
def test_sketches_of_a_thousand_outcomes_lose_no_best_item(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activebdl.strategies.batchbald._SKETCHES", (40, 160))  # rough, so that they are often wrong
    for seed in range(12):
        log_probs = table(150, 30, 10, seed, spread=1 + seed % 3)
        ids, gains = naive(log_probs, 4)
        chosen, scores = greedy(log_probs.to(dtype), 4, seeded(seed), exact=1000, samples=2)
        assert chosen.tolist() == ids
        assert scores.tolist() == pytest.approx(gains, abs=1e-9 if dtype == torch.double else 1e-5)


@given(seeds, st.integers(2, 6), st.integers(2, 4))
def test_one_item_is_that_with_the_highest_bald(seed: int, k: int, c: int) -> None:
    log_probs = table(20, k, c, seed)
    selection = choose(log_probs, 1)
    assert selection.scores is not None
    torch.testing.assert_close(selection.scores, bald(log_probs).max()[None], rtol=0, atol=1e-10)
    assert int(selection.ids) == int(bald(log_probs).argmax())


def outcomes_of(items: Tensor, exact: int, samples: int, generator: torch.Generator) -> Outcomes:
    outcomes = Outcomes.of_nothing(items)
    for item in items:
        outcomes = outcomes.extended(item.exp(), exact=exact, samples=samples, generator=generator)
    return outcomes


SAMPLED: list[Callable[[Tensor, torch.Generator], Outcomes]] = [
    lambda items, generator: outcomes_of(items, 1, 50, generator),  # from the first label on
    lambda items, generator: outcomes_of(items, 30, 50, generator),  # when 27 outcomes become 81
    lambda items, generator: outcomes_of(items, 10_000, 2, generator).sketch(50, generator),
    lambda items, generator: outcomes_of(items, 30, 70, generator).sketch(50, generator),
]


@pytest.mark.parametrize("sampled", SAMPLED)
def test_sampled_information_is_unbiased_and_its_error_is_told(
    sampled: Callable[[Tensor, torch.Generator], Outcomes],
) -> None:
    items, candidates = table(4, 6, 3, 1, spread=1.5), table(5, 6, 3, 2)
    noise, generator = entropy(candidates), seeded(3)
    truth = torch.tensor([enumerated(torch.cat([items, x[None]])) - enumerated(items) for x in candidates])
    runs = [sampled(items, generator).information(candidates.exp(), noise) for _ in range(600)]
    estimates, errors = (torch.stack(parts) for parts in zip(*runs, strict=True))
    standard_error = estimates.std(0) / math.sqrt(len(runs))
    assert bool(((estimates.mean(0) - truth).abs() < 4.5 * standard_error).all())
    assert bool((errors > 0).all())
    # The last kind samples from a sample, whose own error it does not know.
    if sampled is not SAMPLED[3]:
        assert bool((estimates.std(0) < 1.15 * errors.square().mean(0).sqrt()).all())


def test_sampled_batches_tell_nearly_as_much_as_enumerated_ones() -> None:
    log_probs = table(60, 20, 3, 5, spread=1.0)
    exact, sampled = choose(log_probs, 5), choose(log_probs, 5, exact=9, samples=3000)
    assert exact.scores is not None and sampled.scores is not None
    total = enumerated(log_probs[exact.ids])
    assert float(exact.scores.sum()) == pytest.approx(total, abs=1e-9)
    assert float(sampled.scores.sum()) == pytest.approx(enumerated(log_probs[sampled.ids]), abs=0.03)
    assert enumerated(log_probs[sampled.ids]) > total - 0.01


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12).filter(any), st.integers(2, 50), seeds)
def test_each_stratum_has_one_draw(weights: list[int], samples: int, seed: int) -> None:
    probabilities = torch.tensor(weights, dtype=torch.double) / sum(weights)
    counts = stratified(probabilities, samples, seeded(seed))
    assert float(counts.sum()) == samples
    assert bool((counts[probabilities == 0] == 0).all())
    assert float((counts - samples * probabilities).abs().max()) < 2  # one at either end


def test_what_is_told_already_is_not_asked_for_again() -> None:
    """Draws are two bits; items 0 and 1 tell the first, item 2 the second, with some noise."""
    first, second = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])

    log_probs = torch.stack([of_bit(first, 1.0), of_bit(first, 1.0), of_bit(second, 0.9), of_bit(second, 0.8)])
    assert set(resolve("bald").select(saying(log_probs).query(2)).ids.tolist()) == {0, 1}
    for seed in range(20):
        selection = choose(log_probs, 2, seed)
        assert selection.scores is not None
        assert int(selection.ids[0]) in (0, 1) and int(selection.ids[1]) == 2
        noise = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
        assert selection.scores.tolist() == pytest.approx([math.log(2), math.log(2) - noise])


@given(st.data())
def test_it_keeps_the_promises_of_a_strategy(data: st.DataObject) -> None:
    """With duplicates, with all items equal, and with all that is left asked for."""
    kinds, n = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 9))
    log_probs = table(kinds, 3, 3, data.draw(seeds))[torch.arange(n) % kinds]
    labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    quantity = data.draw(st.integers(1, n - len(labelled)))
    options = data.draw(st.sampled_from([{}, {"exact": 1, "samples": 10}]))
    keeps_its_promises("batchbald", saying(log_probs, labelled), quantity, 3, **options)


@given(seeds, st.sampled_from([{}, {"exact": 3, "samples": 200}]))
def test_the_order_of_the_pool_changes_nothing(seed: int, options: dict[str, int]) -> None:
    log_probs = table(12, 6, 3, seed, spread=1.0)
    order = torch.randperm(12, generator=seeded(seed))
    chosen, shuffled = choose(log_probs, 3, **options), choose(log_probs[order], 3, **options)
    assert order[shuffled.ids].tolist() == chosen.ids.tolist()


def test_ties_are_broken_at_random_not_by_position() -> None:
    log_probs = table(1, 5, 3, 0).float().expand(10, -1, -1)
    pairs = torch.stack([choose(log_probs, 2, seed).ids for seed in range(600)])
    for ids in pairs.t():
        assert bool(((ids.bincount(minlength=10) / 600 - 0.1).abs() < 0.056).all())  # 4.5 standard deviations


def test_items_that_tell_nothing_add_no_outcomes() -> None:
    sure = torch.tensor([1.0, 0.0, 0.0], dtype=torch.double).log().expand(4, 3)
    outcomes = outcomes_of(torch.stack([sure, table(1, 4, 3, 0)[0], sure]), 3, 2, seeded(0))
    assert len(outcomes.weights) == 3 and outcomes.samples == 0


def test_outcomes_that_leave_one_draw_leave_nothing_to_tell() -> None:
    one_hot = torch.eye(3, dtype=torch.double).log()
    outcomes = outcomes_of(one_hot[None], 100, 2, seeded(0))
    candidates = table(4, 3, 3, 0)
    for some in (outcomes, outcomes.sketch(10, seeded(0))):
        told, errors = some.information(candidates.exp(), entropy(candidates))
        assert float(told.abs().max()) < 1e-12 and float(errors.max()) == 0


@given(seeds, st.integers(2, 6), st.floats(0.5, 8))
def test_outcomes_that_leave_little_to_tell_can_be_left_out(seed: int, k: int, spread: float) -> None:
    outcomes = outcomes_of(table(5, k, 3, seed, spread), 1000, 2, seeded(seed))
    candidates = table(4, k, 3, seed + 1, spread)
    noise = entropy(candidates)
    whole, _ = outcomes.information(candidates.exp(), noise)
    for least in (1e-9, 1e-3, 0.1):
        told, _ = outcomes.telling(least).information(candidates.exp(), noise)
        assert bool((told <= whole + 1e-12).all()) and bool((told >= whole - least - 1e-12).all())


def test_of_outcomes_that_leave_one_draw_none_is_telling() -> None:
    """The first item tells two of three draws apart for sure; the third answers either way."""
    item = torch.tensor([[1, 0], [0, 1], [0.5, 0.5]], dtype=torch.double).clamp_min(1e-300).log()
    other = torch.tensor([[1, 0], [0, 1], [0, 1]], dtype=torch.double).clamp_min(1e-300).log()
    outcomes = outcomes_of(torch.stack([item, other]), 1000, 2, seeded(0))
    assert len(outcomes.weights) == 3 and len(outcomes.telling(1e-9).weights) == 1  # (1, 1) leaves the last two


def test_too_few_draws_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    choose(table(30, 4, 3, 0), 5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "4 draws are too few for a batch of 5" in lines[0] and "log 4 = 1.39 nats" in lines[0]
    choose(table(30, 50, 3, 0, spread=0.3), 5)
    choose(table(30, 4, 3, 0), 1)
    assert capsys.readouterr().out == ""


def test_what_cannot_work_is_refused() -> None:
    assert "batchbald" in strategy_names("classes") and "batchbald" not in strategy_names("numbers")
    with pytest.raises(UserError, match="exact >= 1 and samples >= 2"):
        choose(table(5, 4, 3, 0), 2, exact=0)
    with pytest.raises(UserError, match="exact >= 1 and samples >= 2"):
        choose(table(5, 4, 3, 0), 2, samples=1)


def test_impossible_labels_and_float32_keep_the_scores_finite() -> None:
    log_probs = table(20, 6, 4, 0).float()
    log_probs[::3, :, 1] = -1e4  # of which the exponential is 0
    log_probs = log_probs.log_softmax(-1)
    _, gains = naive(log_probs.double(), 4)
    scores = choose(log_probs, 4).scores
    assert scores is not None
    assert scores.tolist() == pytest.approx(gains, abs=1e-5)


def test_batchbald_redux_chooses_the_same() -> None:
    redux = pytest.importorskip("batchbald_redux.batchbald")
    for seed in range(2):
        log_probs = table(30, 20, 4, seed)
        theirs = redux.get_batchbald_batch(log_probs, 4, 10_000, dtype=torch.double)
        ours = choose(log_probs, 4)
        assert ours.scores is not None
        assert ours.ids.tolist() == theirs.indices
        total = theirs.scores[-1]  # redux gives the information of the batch so far
        assert float(ours.scores.sum()) == pytest.approx(total, abs=1e-5)
