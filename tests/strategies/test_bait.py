"""BAIT against explicit matrices: information by autograd, the trace by inverses, the greedy choice written out."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from activebdl import UserError, resolve
from activebdl.strategies import bait as module
from activebdl.strategies.bait import Trace, factors, fisher
from tests.strategies.fakes import Known, breaks_ties_at_random, keeps_its_promises, pool, pools, seeds


def informations(known: Known) -> Tensor:
    """Of every item, ``[N, C D, C D]``, as the sum over labels of outer products of gradients."""
    C = known.p.shape[1]
    gradients = torch.einsum("nyc,nd->nycd", known.p[:, None, :] - torch.eye(C), known.h).flatten(2)
    return torch.einsum("ny,nyi,nyj->nij", known.p, gradients, gradients)


def objective(known: Known, batch: list[int], regularisation: float = 1.0) -> float:
    """What BAIT minimises, with a matrix inverse."""
    each = informations(known)
    inside = each[[*known.labelled, *batch]].sum(0) + regularisation * torch.eye(each.shape[1])
    return float(torch.trace(each[known.unlabelled].mean(0) @ torch.linalg.inv(inside)))


def written_out(known: Known, quantity: int, more: int, regularisation: float = 1.0) -> list[int]:
    """Greedy forward and backward, every objective anew."""
    chosen: list[int] = []
    while len(chosen) < more:
        left = [i for i in known.unlabelled if i not in chosen]
        chosen.append(min(left, key=lambda i: objective(known, [*chosen, i], regularisation)))
    while len(chosen) > quantity:
        without = [[i for i in chosen if i != drop] for drop in chosen]
        chosen = min(without, key=lambda batch: objective(known, batch, regularisation))
    return chosen


@settings(max_examples=40)
@given(pools(), st.data())
def test_it_keeps_the_promises_of_a_strategy(known: Known, data: st.DataObject) -> None:
    quantity = data.draw(st.integers(1, len(known.unlabelled)))
    options = data.draw(st.sampled_from([{}, {"oversample": 1}, {"candidates": 3}, {"components": 2}]))
    keeps_its_promises("bait", known, quantity, data.draw(seeds), **options)


@pytest.mark.parametrize("oversample", [1, 2])
def test_ties_are_broken_at_random(oversample: int) -> None:
    """Also where backward pruning has to choose between equals."""
    breaks_ties_at_random("bait", oversample=oversample)


def test_the_information_of_an_item_is_that_of_its_gradients() -> None:
    layer = nn.Linear(5, 3, bias=False, dtype=torch.double)
    h = pool(4, seed=2, width=5).h
    log_probs = layer(h).log_softmax(-1)
    p = log_probs.exp().detach()
    for i in range(4):
        expected = torch.zeros(15, 15, dtype=torch.double)
        for y in range(3):
            (gradient,) = torch.autograd.grad(-log_probs[i, y], layer.weight, retain_graph=True)
            expected += p[i, y] * torch.outer(gradient.flatten(), gradient.flatten())
        torch.testing.assert_close(fisher(p[i : i + 1], h[i : i + 1]), expected)
        v = (factors(p[i : i + 1])[0][:, None, :] * h[i][None, :, None]).reshape(15, 3)
        torch.testing.assert_close(v @ v.T, expected)


@given(pools())
def test_the_information_of_many_is_the_sum(known: Known) -> None:
    torch.testing.assert_close(fisher(known.p, known.h), informations(known).sum(0))


def explicit(known: Known, inside: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """``V^T P V`` and ``V^T P U P V`` of every item, with V formed and the matrix inverted."""
    p, h, inverse = known.p, known.h, torch.linalg.inv(inside)
    columns = torch.einsum("nyc,nd->nycd", p[:, None, :] - torch.eye(p.shape[1]), h).flatten(2)
    v = (p.sqrt()[:, :, None] * columns).mT  # [N, C D, C]
    return v.mT @ inverse @ v, v.mT @ inverse @ target @ inverse @ v


@given(pools(), st.lists(st.integers(0, 100), min_size=1, max_size=6), st.sampled_from([0.01, 1.0, 30.0]))
def test_updates_equal_inverses(known: Known, additions: list[int], regularisation: float) -> None:
    """Items are added, some twice, and taken away again in another order; all is as if computed anew each time."""
    each = informations(known)
    target, inside = each.mean(0), regularisation * torch.eye(each.shape[1], dtype=torch.double)
    trace = Trace(inside, target, known.p, known.h)
    added = [i % len(each) for i in additions]
    for i, sign in [*((i, 1) for i in added), *((i, -1) for i in sorted(added)[1:])]:
        before = trace.value()
        change = float(trace.changes(sign)[i])
        trace.update(i, sign)
        inside = inside + sign * each[i]
        off = 1e-6 / regularisation  # P was at most 1 / lambda, and taking away loses digits of that
        torch.testing.assert_close(trace.inverse, torch.linalg.inv(inside), rtol=1e-6, atol=off)
        inner, outer = explicit(known, inside, target)
        torch.testing.assert_close(trace.inner, inner, rtol=1e-6, atol=off)
        torch.testing.assert_close(trace.outer, outer, rtol=1e-6, atol=off / regularisation)
        value = float(torch.trace(target @ torch.linalg.inv(inside)))
        assert trace.value() == pytest.approx(value, rel=1e-6, abs=off)
        assert before + change == pytest.approx(value, rel=1e-6, abs=off)


@settings(max_examples=30)
@given(pools(duplicates=False))
def test_a_step_takes_the_least_objective(known: Known) -> None:
    (chosen,) = known.choose("bait", 1, oversample=1)
    best = min(objective(known, [i]) for i in known.unlabelled)
    assert objective(known, [chosen]) == pytest.approx(best, rel=1e-9)


@settings(max_examples=25)
@given(seeds, st.integers(0, 3), st.integers(1, 4), st.sampled_from([1, 1.4, 2]), st.sampled_from([0.05, 1.0]))
def test_the_batch_is_the_one_written_out(
    seed: int, labelled: int, quantity: int, oversample: float, regularisation: float
) -> None:
    known = pool(10 + labelled, seed, labelled)
    more = math.ceil(oversample * quantity)
    chosen = known.choose("bait", quantity, oversample=oversample, regularisation=regularisation)
    assert chosen == written_out(known, quantity, more, regularisation)


def test_it_is_close_to_the_best_batch_that_there_is() -> None:
    for seed in range(5):
        known = pool(9, seed, labelled=1)
        every = sorted(objective(known, list(batch)) for batch in itertools.combinations(known.unlabelled, 3))
        found = objective(known, known.choose("bait", 3))
        assert found <= every[len(every) // 20] + 1e-9  # among the best twentieth


@given(seeds, st.integers(1, 4))
def test_the_order_of_the_pool_does_not_matter(seed: int, quantity: int) -> None:
    known = pool(12, seed, labelled=2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    chosen = known.in_order(order).choose("bait", quantity, seed=1)
    assert order[chosen].tolist() == known.choose("bait", quantity)


def test_its_scores_are_what_the_trace_would_rise_by() -> None:
    known = pool(12, seed=4, labelled=2)
    chosen = resolve("bait").select(known.query(4))
    batch = chosen.ids.tolist()
    assert chosen.scores is not None
    for id, score in zip(batch, chosen.scores.tolist(), strict=True):
        rise = objective(known, [i for i in batch if i != id]) - objective(known, batch)
        assert score == pytest.approx(rise)


def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    known = pool(30, seed=2, labelled=5)
    expected = resolve("bait").select(known.query(6))
    monkeypatch.setattr(module, "BLOCK", 50)  # four items, then two
    chosen = resolve("bait").select(known.query(6))
    assert chosen.ids.tolist() == expected.ids.tolist()
    torch.testing.assert_close(chosen.scores, expected.scores)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that were said."""
    lines: list[str] = []
    monkeypatch.setattr(module, "say", lines.append)
    return lines


def test_candidates_are_all_that_it_looks_at_and_it_says_so(told: list[str]) -> None:
    seen: set[int] = set()
    for seed in range(30):
        known = pool(30, seed=0, labelled=4)  # anew: it notes what is looked at
        chosen = known.choose("bait", 3, seed, candidates=7)
        unlabelled = known.looked_at - set(known.labelled)
        assert len(unlabelled) == 7 and set(known.labelled) < known.looked_at and set(chosen) < unlabelled
        seen |= unlabelled
    assert seen == set(pool(30, seed=0, labelled=4).unlabelled)
    assert len(told) == 30 and "looks at 7 of 26 unlabelled items" in told[0]
    assert len(pool(30, seed=0).choose("bait", 9, candidates=7)) == 9  # never fewer than are asked for


def test_it_is_silent_where_nothing_is_cut(told: list[str]) -> None:
    known = pool(12, seed=0)
    assert known.choose("bait", 3) == known.choose("bait", 3, candidates=None) == known.choose("bait", 3, candidates=12)
    assert not told


def test_components_are_enough_where_the_features_have_no_more(told: list[str]) -> None:
    """Features of three dimensions, turned in eight: the objective, and the batch, are those of the three."""
    flat = pool(20, seed=6, labelled=3, width=3)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0][:3]
    known = Known(flat.log_probs, flat.features @ turn, flat.labelled)
    assert known.choose("bait", 4, components=3) == flat.choose("bait", 4)
    assert known.choose("bait", 4, components=99) == known.choose("bait", 4) == flat.choose("bait", 4)
    assert not told


def test_too_many_features_are_reduced_and_it_says_so(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    known = pool(20, seed=6, labelled=3, width=8)
    by_hand = known.choose("bait", 4, components=5)
    monkeypatch.setattr(module, "LARGEST", 17)  # 3 classes: 5 features
    assert known.choose("bait", 4) == by_hand != known.choose("bait", 4, components=8)
    values = torch.linalg.svdvals(known.h).square()
    assert len(told) == 1 and "3 classes x 8 features are more than 17; it looks at 5 principal" in told[0]
    assert f"{float(values[:5].sum() / values.sum()):.1%} of the features' squared length" in told[0]


# ---- very many classes ----


@given(pools(), st.data())
def test_two_classes_are_the_same_told_apart_or_not(known: Known, data: st.DataObject) -> None:
    two = replace(known, log_probs=known.log_probs[..., :2].log_softmax(-1))
    quantity = data.draw(st.integers(1, len(known.unlabelled)))
    all_of_them, most_probable = (resolve("bait", binary=b).select(two.query(quantity)) for b in (False, True))
    assert most_probable.ids.tolist() == all_of_them.ids.tolist()
    torch.testing.assert_close(most_probable.scores, all_of_them.scores, rtol=1e-6, atol=1e-9)


@settings(max_examples=25)
@given(seeds, st.integers(0, 3), st.integers(1, 4), st.sampled_from([0.1, 1.0]))
def test_the_binary_batch_is_greedy_in_the_information_of_a_bernoulli_variable(
    seed: int, labelled: int, quantity: int, regularisation: float
) -> None:
    """The difference of two weights that each have precision lambda has half of that."""
    known = pool(10 + labelled, seed, labelled, classes=6)
    top = known.p.amax(1)
    each = (top * (1 - top))[:, None, None] * known.h[:, :, None] * known.h[:, None, :]
    target = each[known.unlabelled].mean(0)
    chosen: list[int] = []
    while len(chosen) < quantity:
        left = [i for i in known.unlabelled if i not in chosen]
        inside = each[[*known.labelled, *chosen]].sum(0) + regularisation / 2 * torch.eye(4)
        chosen.append(min(left, key=lambda i: float(torch.trace(target @ torch.linalg.inv(inside + each[i])))))
    assert known.choose("bait", quantity, oversample=1, binary=True, regularisation=regularisation) == chosen


def test_a_thousand_classes_are_told_apart_as_two_and_it_says_so(told: list[str]) -> None:
    known = pool(40, seed=1, labelled=3, classes=1000, width=6)
    chosen = known.choose("bait", 4)
    assert len(told) == 1 and "1,000 classes are too many to tell all apart for 37 items" in told[0]
    assert known.choose("bait", 4, binary=True) == chosen
    assert len(told) == 1
    pool(40, seed=1, labelled=3, classes=100, width=6).choose("bait", 4)
    assert len(told) == 1


def test_what_would_not_fit_into_memory_is_told_before_it_is_tried() -> None:
    known = pool(6, seed=1, classes=40, width=600)
    with pytest.raises(UserError, match=r"17 GiB for 6 items, 40 classes and 600 features; its options 'candidates'"):
        known.choose("bait", 2, components=600)
    many = pool(60, seed=1, classes=5000, width=1, draws=2)
    with pytest.raises(UserError, match=r"23 GiB for 60 items, 5,000 classes and 1 features"):
        many.choose("bait", 2, binary=False)


def test_features_beside_which_the_regularisation_is_lost_are_told() -> None:
    known = pool(20, seed=0, labelled=3)
    with pytest.raises(UserError, match=r"'regularisation', 1, is lost beside features as large as \de\+19"):
        replace(known, features=known.features * 1e19).choose("bait", 2)


def test_sure_predictions_bring_nothing_and_are_chosen_last() -> None:
    known = pool(6, seed=1)
    known.log_probs[2:] = torch.tensor([0, -1e4, -1e4], dtype=torch.double)
    assert all({0, 1} <= set(known.choose("bait", 3, seed)) for seed in range(10))
    assert {known.choose("bait", 3, seed)[2] for seed in range(50)} == {2, 3, 4, 5}


@pytest.mark.parametrize(
    "wrong",
    [{"candidates": 0}, {"oversample": 0.5}, {"oversample": math.nan}, {"regularisation": 0.0}, {"components": 0}],
)
def test_options_out_of_range_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"option '{next(iter(wrong))}' must be"):
        resolve("bait", **wrong).select(pool(6, seed=0).query(2))
