"""k-centre against the traversal written out, and against the best cover that there is."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from activebdl import resolve
from activebdl.strategies import k_centre as module
from tests.strategies.fakes import Known, pool, seeds


def distances(known: Known) -> list[list[float]]:
    """Between all items, one by one."""
    return [[math.dist(a, b) for b in known.h.tolist()] for a in known.h.tolist()]


def radius(apart: list[list[float]], centres: list[int]) -> float:
    """How far the farthest item lies from its nearest centre."""
    return max(min(row[c] for c in centres) for row in apart)


def farthest(apart: list[list[float]], centres: list[int], among: list[int]) -> float:
    return max(min(apart[i][c] for c in centres) for i in among)


@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_it_is_the_traversal_written_out(seed: int, labelled: int, quantity: int) -> None:
    known = pool(14, seed, labelled)
    apart, centres, expected = distances(known), list(known.labelled), list[int]()
    for _ in range(quantity):
        left = [i for i in known.unlabelled if i not in expected]
        expected.append(max(left, key=lambda i: min(apart[i][c] for c in centres)))
        centres.append(expected[-1])
    assert known.choose("k_centre", quantity) == expected


@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_the_order_of_the_pool_does_not_matter(seed: int, labelled: int, quantity: int) -> None:
    known = pool(14, seed, labelled)
    order = torch.randperm(14, generator=torch.Generator().manual_seed(seed))
    chosen = known.in_order(order).choose("k_centre", quantity, seed=1)
    assert order[chosen].tolist() == known.choose("k_centre", quantity)


@given(
    st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=4, max_size=12),
    st.integers(0, 2),
    st.integers(1, 4),
    seeds,
)
def test_it_covers_within_twice_the_best(
    points: list[tuple[int, int]], labelled: int, quantity: int, seed: int
) -> None:
    """On a grid, which has many ties and duplicates: each choice is a farthest one, and the cover is good enough."""
    quantity = min(quantity, len(points) - labelled)
    known = Known(pool(len(points), 0).log_probs, torch.tensor(points, dtype=torch.float), list(range(labelled)))
    apart, chosen = distances(known), known.choose("k_centre", quantity, seed)
    for i, id in enumerate(chosen):
        centres = [*known.labelled, *chosen[:i]]
        if centres:
            left = [j for j in known.unlabelled if j not in chosen[:i]]
            assert min(apart[id][c] for c in centres) == pytest.approx(farthest(apart, centres, left))
    batches = itertools.combinations(known.unlabelled, quantity)
    best = min(radius(apart, [*known.labelled, *batch]) for batch in batches)
    assert radius(apart, [*known.labelled, *chosen]) <= 2 * best + 1e-9


def test_with_none_labelled_the_first_is_any_and_the_second_the_farthest_from_it() -> None:
    known, firsts = pool(5, seed=0), list[int]()
    apart = distances(known)
    for seed in range(1000):
        first, second = known.choose("k_centre", 2, seed)
        assert apart[first][second] == max(apart[first])
        firsts.append(first)
    share = torch.tensor(firsts).bincount(minlength=5) / 1000
    assert bool(((share - 0.2).abs() < 4.5 * (0.2 * 0.8 / 1000) ** 0.5).all())


def test_its_scores_are_the_distances_when_chosen() -> None:
    known = pool(12, seed=5, labelled=2)
    chosen, apart = resolve("k_centre").select(known.query(5)), distances(known)
    assert chosen.scores is not None
    for i, id in enumerate(chosen.ids.tolist()):
        centres = [*known.labelled, *chosen.ids[:i].tolist()]
        assert float(chosen.scores[i]) == pytest.approx(min(apart[id][c] for c in centres), rel=1e-6)


def test_the_sizes_of_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    known = pool(40, seed=2, labelled=11)
    expected = known.choose("k_centre", 9)
    monkeypatch.setattr(module, "CENTRES", 4)
    monkeypatch.setattr(module, "BLOCK", 12)
    assert known.choose("k_centre", 9) == expected


def spread(offset: float) -> Tensor:
    """Points on a line at 0, 1, 3, 7 and a duplicate of each, far from the origin."""
    at = torch.tensor([0.0, 1, 3, 7]).repeat(2)
    return torch.stack([at, torch.full_like(at, offset)], dim=1)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_duplicates_come_last_also_far_from_the_origin(offset: float) -> None:
    known = Known(pool(8, 0).log_probs, spread(offset), [0])
    chosen = known.choose("k_centre", 7)
    assert [i % 4 for i in chosen[:3]] == [3, 2, 1]


@given(seeds, st.floats(0, 3e-7))
def test_items_that_differ_by_rounding_alone_are_at_no_distance(seed: int, noise: float) -> None:
    features = pool(8, seed, width=50).features
    wobble = 1 + noise * (2 * torch.rand(8, 50, generator=torch.Generator().manual_seed(seed)) - 1)
    assert module.squared_distances(features * wobble, features[2:]).tolist()[2:] == [0] * 6
    assert module.squared_distances(features * wobble, features[2:])[:2].min() > 1


def test_it_looks_at_no_predictions() -> None:
    """So it is for numbers too."""
    known = pool(6, seed=0, labelled=1)
    moments = Known(torch.full((6, 4, 2), torch.inf), known.features, known.labelled)
    assert moments.choose("k_centre", 3) == known.choose("k_centre", 3)
