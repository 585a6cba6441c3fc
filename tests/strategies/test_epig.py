"""EPIG against a sum over all pairs of labels in float64, and the bounds that its docstring promises."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from activebdl import Selection, UserError, resolve
from activebdl.strategies import strategy_names
from activebdl.strategies.bald import bald
from activebdl.strategies.epig import information
from tests.strategies.fakes import keeps_its_promises, of_bit, saying, seeded, seeds, table

draws, classes = st.integers(2, 6), st.integers(2, 5)


def choose(
    log_probs: Tensor, quantity: int, seed: int = 0, labelled: list[int] | None = None, **options: Any
) -> Selection:
    return resolve("epig", **options).select(saying(log_probs, labelled or []).query(quantity, seed))


def enumerated(item: Tensor, target: Tensor) -> float:
    """I(y; y*) of two ``[K, C]``, the divergence of p(y, y*) from p(y) p(y*) written out."""
    p, q = item.exp().tolist(), target.exp().tolist()
    k, c = item.shape
    total = 0.0
    for y, z in itertools.product(range(c), repeat=2):
        joint = sum(p[j][y] * q[j][z] for j in range(k)) / k
        apart = sum(p[j][y] for j in range(k)) / k * sum(q[j][z] for j in range(k)) / k
        total += joint * math.log(joint / apart)
    return total


@given(seeds, draws, classes)
def test_brute_force_over_pairs_of_labels(seed: int, k: int, c: int) -> None:
    items, targets = table(4, k, c, seed), table(3, k, c, seed + 1)
    expected = [sum(enumerated(x, t) for t in targets) / 3 for x in items]
    assert information(items, targets).tolist() == pytest.approx(expected, abs=1e-10)


@given(seeds, draws, classes)
def test_it_lies_between_zero_and_bald(seed: int, k: int, c: int) -> None:
    items, targets = table(10, k, c, seed), table(5, k, c, seed + 1)
    scores = information(items, targets)
    assert bool((scores >= 0).all())
    assert bool((scores <= bald(items) + 1e-10).all())


@given(seeds, draws, classes)
def test_two_items_tell_each_other_the_same(seed: int, k: int, c: int) -> None:
    log_probs = table(2, k, c, seed)
    there, back = information(log_probs[:1], log_probs[1:]), information(log_probs[1:], log_probs[:1])
    torch.testing.assert_close(there, back, rtol=0, atol=1e-12)


def test_what_draws_agree_on_tells_nothing_and_nothing_tells_it() -> None:
    agreed, open_ = table(1, 1, 3, 0).expand(-1, 5, -1), table(1, 5, 3, 1)
    assert float(information(agreed, open_)) == pytest.approx(0, abs=1e-12)
    assert float(information(open_, agreed)) == pytest.approx(0, abs=1e-12)


def test_sure_draws_tell_their_copy_all() -> None:
    one_hot = torch.eye(4, dtype=torch.double).log()[None]
    assert float(information(one_hot, one_hot)) == pytest.approx(math.log(4))
    assert float(information(one_hot.float(), one_hot.float())) == pytest.approx(math.log(4), abs=1e-6)


def test_it_prefers_what_matters_to_the_targets_where_bald_does_not() -> None:
    """Draws are two bits. Item 0 tells the first for sure, the others the second with noise: they matter to most."""
    first, second = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])

    log_probs = torch.stack([of_bit(first, 1.0)] + [of_bit(second, 0.9)] * 5)
    assert int(bald(log_probs).argmax()) == 0
    assert 0 not in choose(log_probs, 5).ids.tolist()


@given(seeds, st.integers(1, 40))
def test_the_size_of_blocks_changes_nothing(seed: int, block: int) -> None:
    items, targets = table(9, 3, 3, seed), table(4, 3, 3, seed + 1)
    whole = information(items, targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("activebdl.strategies.epig.BLOCK", 8 * block)
        torch.testing.assert_close(information(items, targets), whole, rtol=0, atol=1e-12)


@given(seeds)
def test_scores_are_those_of_all_targets_where_there_are_no_more(seed: int) -> None:
    log_probs = table(12, 4, 3, seed)
    selection = choose(log_probs, 12)
    assert selection.scores is not None
    torch.testing.assert_close(selection.scores, information(log_probs, log_probs)[selection.ids], rtol=0, atol=1e-12)
    assert bool((selection.scores.diff() <= 0).all())  # best first


def test_targets_are_drawn_from_what_is_unlabelled_each_equally_often() -> None:
    log_probs = table(6, 4, 3, 0)
    counts = torch.zeros(6)
    for seed in range(600):
        selection = choose(log_probs, 5, seed, labelled=[2], targets=1)
        assert selection.scores is not None
        alone = torch.stack([information(log_probs[selection.ids], log_probs[i : i + 1]) for i in range(6)])
        counts[int((alone - selection.scores).abs().sum(1).argmin())] += 1
    assert counts[2] == 0
    assert bool(((counts[[0, 1, 3, 4, 5]] / 600 - 0.2).abs() < 0.074).all())  # 4.5 standard deviations


@given(st.data())
def test_it_keeps_the_promises_of_a_strategy(data: st.DataObject) -> None:
    kinds, n = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 9))
    log_probs = table(kinds, 3, 3, data.draw(seeds))[torch.arange(n) % kinds]
    labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    quantity = data.draw(st.integers(1, n - len(labelled)))
    targets = data.draw(st.integers(1, 12))
    keeps_its_promises("epig", saying(log_probs, labelled), quantity, 3, targets=targets)


@given(seeds)
def test_the_order_of_the_pool_changes_nothing(seed: int) -> None:
    log_probs = table(12, 4, 3, seed)
    order = torch.randperm(12, generator=seeded(seed))
    chosen, shuffled = choose(log_probs, 4), choose(log_probs[order], 4)
    assert order[shuffled.ids].tolist() == chosen.ids.tolist()


def test_what_cannot_work_is_refused() -> None:
    assert "epig" in strategy_names("classes") and "epig" not in strategy_names("numbers")
    with pytest.raises(UserError, match="at least 1 of the targets"):
        choose(table(5, 4, 3, 0), 2, targets=0)


def test_target_inputs_of_the_data_set_are_what_predictions_are_wanted_for() -> None:
    """Half of the pool's draws disagree in one way and half in another; the targets are of the second kind."""
    votes = torch.tensor([[0.9, 0.9, 0.1, 0.1], [0.8, 0.2, 0.8, 0.2]], dtype=torch.double)  # of four draws
    log_probs = torch.stack([votes, 1 - votes], dim=2).log().repeat_interleave(4, dim=0)

    def chosen(target: int | None, seed: int) -> Selection:
        wanted = None if target is None else torch.tensor([[target]])
        query = replace(saying(log_probs).query(4, seed), target_inputs=wanted)
        return resolve("epig").select(query)

    for target in (0, 5):
        told = chosen(target, seed=target)
        expected = [enumerated(log_probs[i], log_probs[target]) for i in told.ids.tolist()]
        assert told.scores is not None and told.scores.tolist() == pytest.approx(expected, abs=1e-6)
        assert set(told.ids.tolist()) == (set(range(4)) if target < 4 else set(range(4, 8)))
    assert chosen(None, 0).scores is not None


def test_candidates_narrow_the_choice_and_not_what_is_predicted() -> None:
    votes = torch.tensor([[0.9, 0.9, 0.1, 0.1], [0.8, 0.2, 0.8, 0.2]], dtype=torch.double)
    log_probs = torch.stack([votes, 1 - votes], dim=2).log()[[0, 1, 1, 1, 1]]
    query = replace(saying(log_probs).query(1), unlabelled=torch.tensor([0, 1]))
    assert resolve("epig", targets=5).select(query).ids.tolist() == [0]
    narrowed = replace(query, chosen_from=torch.arange(5))  # most are like item 1
    assert resolve("epig", targets=5).select(narrowed).ids.tolist() == [1]
