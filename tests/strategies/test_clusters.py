"""k_means, typiclust and what they share, against sums written out, known clusters, and the promises to the loop."""

import importlib
import itertools
import math
from collections import Counter
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from activebdl import Normalise, Query, UserError, resolve
from activebdl.strategies._clusters import (
    in_turn,
    lloyd,
    means,
    nearest,
    plus_plus,
    points,
    principal_axes,
    sum_of_squares,
)
from activebdl.strategies.typiclust import spacing

NAMES = ["k_means", "typiclust"]
seeds = st.integers(0, 10_000)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def query_of(x: Tensor, quantity: int = 1, labelled: list[int] | None = None, seed: int = 0) -> Query:
    known = torch.tensor(labelled or [], dtype=torch.long)
    rest = torch.tensor([i for i in range(len(x)) if i not in (labelled or [])])
    return Query(rest, known, quantity, seeded(seed), None, x, Normalise())


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=seeded(seed))


def islands(sizes: list[int], d: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Small clouds a thousand radii apart, shuffled, and which cloud each point is of."""
    which = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    which = which[torch.randperm(len(which), generator=seeded(seed))]
    return 1000 * normal(len(sizes), d, seed + 1)[which] + normal(len(which), d, seed + 2), which


@st.composite
def pools(draw: st.DrawFn) -> tuple[Tensor, int, list[int]]:
    """Items of which several may be equal, how many to ask for, and which have a label."""
    n = draw(st.integers(2, 14))
    distinct = normal(draw(st.integers(1, n)), draw(st.integers(1, 4)), draw(seeds))
    x = distinct[torch.tensor(draw(st.lists(st.integers(0, len(distinct) - 1), min_size=n, max_size=n)))]
    labelled = sorted(draw(st.sets(st.integers(0, n - 1), max_size=n - 1)))
    return x, draw(st.integers(1, n - len(labelled))), labelled


# ---- what every strategy promises ----


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("components", [1, 50])
@given(pools(), seeds)
def test_distinct_unlabelled_ids_that_the_seed_decides(
    name: str, components: int, pool: tuple[Tensor, int, list[int]], seed: int
) -> None:
    x, quantity, labelled = pool
    strategy = resolve(name, components=components)
    ids = strategy.select(query_of(x, quantity, labelled, seed)).ids.tolist()
    assert len(set(ids)) == quantity
    assert not set(ids) & set(labelled) and set(ids) <= set(range(len(x)))
    assert strategy.select(query_of(x, quantity, labelled, seed)).ids.tolist() == ids


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("components", [1, 50])
@given(pools(), seeds)
def test_the_order_of_the_pool_has_no_say(
    name: str, components: int, pool: tuple[Tensor, int, list[int]], seed: int
) -> None:
    """The same items are chosen, in the same order, wherever they lie; equal ones stand for one another."""
    x, quantity, labelled = pool
    moved = torch.randperm(len(x), generator=seeded(seed))  # item i lies at place[i]
    place = moved.argsort()
    strategy = resolve(name, components=components)
    chosen = strategy.select(query_of(x, quantity, labelled, seed)).ids
    again = strategy.select(query_of(x[moved], quantity, sorted(place[labelled].tolist()), seed)).ids
    assert torch.equal(x[moved][again], x[chosen])


@pytest.mark.parametrize("name", NAMES)
def test_equal_items_are_chosen_equally_often(name: str) -> None:
    x = torch.cat([torch.ones(4, 2), torch.tensor([[9.0, 9.0]])])  # four that are equal, one far away
    trials = 500
    count = Counter(id for seed in range(trials) for id in resolve(name).select(query_of(x, 2, seed=seed)).ids.tolist())
    assert count[4] == trials
    assert all(abs(count[i] / trials - 1 / 4) < 4.5 * math.sqrt(3 / 16 / trials) for i in range(4))


@pytest.mark.parametrize("name", NAMES)
def test_no_model_is_needed_and_options_are_checked(name: str) -> None:
    assert not resolve(name).needs_model
    with pytest.raises(UserError, match="at least 1 of their components, not 0"):
        resolve(name, components=0).select(query_of(normal(5, 2, 0)))
    x = normal(5, 2, 0)
    x[3, 1] = torch.nan
    with pytest.raises(UserError, match="item 3 holds NaN"):
        resolve(name).select(query_of(x))


# ---- principal components ----


@given(seeds, st.integers(2, 8), st.integers(1, 7))
def test_the_axes_are_those_of_the_singular_values(seed: int, d: int, p: int) -> None:
    x = (normal(40, d, seed) * torch.arange(1, d + 1) + 5).double()
    mean, axes = principal_axes(lambda: iter(x.split(7)), p)
    torch.testing.assert_close(mean, x.mean(0))
    if p >= d:
        assert axes is None
        return
    assert axes is not None
    rows = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:p]
    torch.testing.assert_close((rows @ axes).abs(), torch.eye(p, dtype=torch.double), rtol=0, atol=1e-8)


def test_points_keep_the_distances_that_their_components_span() -> None:
    flat = normal(30, 3, 0) @ normal(3, 200, 1)  # 30 items in a space of 3 dimensions
    for x in (flat, flat.view(30, 2, 10, 10)):
        ids, found = points(query_of(x), torch.arange(30), 3)
        assert found.shape == (30, 3) and sorted(ids.tolist()) == list(range(30))
        torch.testing.assert_close(torch.pdist(found), torch.pdist(flat[ids]), rtol=1e-4, atol=1e-4)


def test_few_features_are_kept_as_they_are_and_in_the_order_of_the_points() -> None:
    x = torch.randint(3, (50, 2), generator=seeded(0)).float()
    ids, found = points(query_of(x), torch.arange(50), 2)
    torch.testing.assert_close(found, x[ids] - x.mean(0))
    assert x[ids].tolist() == sorted(x.tolist())


def test_items_are_read_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, most = normal(60, 20, 0), [0]

    class Spy:
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, ids: Tensor) -> Tensor:
            most[0] = max(most[0], len(ids))
            return x[ids]

    whole = points(query_of(x), torch.arange(60), 5)
    monkeypatch.setattr("activebdl.strategies._clusters.AT_A_TIME", 140)
    spied = Query(torch.arange(60), torch.tensor([]), 1, seeded(0), None, Spy())
    ids, found = points(spied, torch.arange(60), 5)
    assert most == [7]
    assert torch.equal(ids, whole[0])
    torch.testing.assert_close(found, whole[1])


def test_wide_items_are_hashed_and_keep_their_distances_nearly() -> None:
    x = normal(8, 3000, 0)
    x[7] = x[2]
    ids, found = points(query_of(x), torch.arange(8), 50)
    ratio = torch.cdist(found, found) / torch.cdist(x[ids], x[ids])
    same = torch.isin(ids, torch.tensor([2, 7]))
    assert torch.equal(*found[same])
    ratio = ratio[ratio.isfinite() & (ratio > 0)]
    assert len(ratio) >= 8 * 7 - 2
    assert bool(((ratio - 1).abs() < 5 * math.sqrt(2 / 1024) / 2).all())  # five deviations of a root of a square


# ---- k-means ----


@given(seeds, st.integers(1, 30), st.integers(1, 6), st.integers(1, 4))
def test_the_objective_never_rises(seed: int, n: int, m: int, p: int) -> None:
    x = normal(n, p, seed)
    centres, last = plus_plus(x, m, seeded(seed)), math.inf
    for _ in range(8):
        assigned, distances = nearest(x, centres)
        objective = sum_of_squares(distances)
        assert objective <= last * (1 + 1e-6)
        centres = means(x, assigned, centres)
        last = sum((x[i] - centres[c]).double().square().sum().item() for i, c in enumerate(assigned.tolist()))
        assert last <= objective * (1 + 1e-6)


@given(seeds, st.integers(1, 40), st.integers(1, 9), st.integers(1, 5))
def test_assignments_and_means_by_brute_force(seed: int, n: int, m: int, p: int) -> None:
    x, centres = normal(n, p, seed), normal(m, p, seed + 1)
    assigned, distances = nearest(x, centres)
    table = [[math.dist(a, c) for c in centres.tolist()] for a in x.tolist()]
    assert distances.tolist() == pytest.approx([min(row) for row in table], rel=1e-5)
    assert [row[c] for row, c in zip(table, assigned.tolist(), strict=True)] == pytest.approx([min(r) for r in table])
    moved = means(x, assigned, centres)
    for c in range(m):
        own = x[assigned == c]
        torch.testing.assert_close(moved[c], own.double().mean(0).float() if len(own) else centres[c])


def test_far_clouds_are_recovered_from_any_seed() -> None:
    for seed in range(20):
        x, which = islands([3, 17, 8, 40, 1], seed=seed)
        assigned, distances = lloyd(x, 5, seeded(seed))
        pairs = {(int(a), int(w)) for a, w in zip(assigned, which, strict=True)}
        assert len(pairs) == 5
        means_of_clouds = torch.stack([x[which == w].mean(0) for w in range(5)])
        torch.testing.assert_close(distances, (x - means_of_clouds[which]).norm(dim=1), rtol=1e-3, atol=1e-3)


def test_lloyd_ends_where_another_step_gains_next_to_nothing() -> None:
    x = normal(500, 4, 0)
    assigned, distances = lloyd(x, 7, seeded(0))
    centres = means(x, assigned, torch.zeros(7, 4))
    own = torch.stack([x[assigned == c].mean(0) for c in range(7)])
    torch.testing.assert_close(centres, own, rtol=1e-4, atol=1e-5)
    after = sum_of_squares(nearest(x, centres)[1])
    assert 0 <= sum_of_squares(distances) - after < 2e-3 * after


def test_the_best_of_some_seeds_is_the_best_of_all_partitions() -> None:
    x = normal(8, 2, 3)
    partitions = (torch.tensor(p) for p in itertools.product(range(3), repeat=8))
    spread = [
        sum((x[p == c] - x[p == c].mean(0)).square().sum().item() for c in range(3) if bool((p == c).any()))
        for p in partitions
    ]
    found = [sum_of_squares(lloyd(x, 3, seeded(seed))[1]) for seed in range(30)]
    assert min(found) == pytest.approx(min(spread), rel=1e-5)
    assert sorted(found)[15] < 1.5 * min(spread)


def test_first_centres_are_drawn_in_proportion_to_squared_distances() -> None:
    x, trials = torch.tensor([[0.0], [1.0], [3.0]]), 4000
    count = Counter(tuple(plus_plus(x, 2, seeded(seed)).flatten().tolist()) for seed in range(trials))
    squares = {(a, b): (a - b) ** 2 for a in (0.0, 1.0, 3.0) for b in (0.0, 1.0, 3.0)}
    for (a, b), square in squares.items():
        expected = square / sum(squares[a, c] for c in (0.0, 1.0, 3.0)) / 3
        assert abs(count[a, b] / trials - expected) <= 4.5 * math.sqrt(expected * (1 - expected) / trials)


@given(pools(), seeds)
def test_no_point_is_a_first_centre_twice_while_others_differ(pool: tuple[Tensor, int, list[int]], seed: int) -> None:
    x, m, _ = pool
    assert len(plus_plus(x, m, seeded(seed)).unique(dim=0)) == min(m, len(x.unique(dim=0)))


# ---- turns and typicality ----


@given(st.data(), st.integers(1, 5), st.integers(1, 25), seeds)
def test_each_turn_takes_the_best_of_the_poorest_then_largest_cluster(
    data: st.DataObject, m: int, n: int, seed: int
) -> None:
    few = st.integers(0, 3)
    assigned, merit = (
        torch.tensor(data.draw(st.lists(s, min_size=n, max_size=n))) for s in (st.integers(0, m - 1), few)
    )
    labelled = torch.tensor(data.draw(st.lists(few, min_size=m, max_size=m)))
    sizes = labelled + assigned.bincount(minlength=m)
    quantity = data.draw(st.integers(1, n))
    chosen = in_turn(assigned, merit, labelled, sizes, quantity, seeded(seed)).tolist()
    assert len(chosen) == quantity
    known, open = labelled.tolist(), set(range(n))
    for position in chosen:
        cluster = int(assigned[position])
        can = {int(assigned[i]) for i in open}
        assert (known[cluster], -int(sizes[cluster])) == min((known[c], -int(sizes[c])) for c in can)
        assert merit[position] == min(int(merit[i]) for i in open if assigned[i] == cluster)
        open.remove(position)  # and so no position comes twice
        known[cluster] += 1


@pytest.mark.parametrize("at_a_time", [10, 1 << 22])
def test_typicality_by_brute_force(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("activebdl.strategies.typiclust"), "AT_A_TIME", at_a_time)
    x = normal(60, 3, 0)
    x[10] = x[11]
    assigned = torch.tensor([0] * 30 + [1] * 20 + [2] * 9 + [3])
    for k in (1, 4, 20):
        found = spacing(x, assigned, k)
        for i in range(59):
            own = [j for j in range(60) if assigned[j] == assigned[i] and j != i]
            nearest = sorted(math.dist(x[i].tolist(), x[j].tolist()) for j in own)[: min(k, len(own))]
            assert found[i].item() == pytest.approx(sum(nearest) / len(nearest), rel=1e-5)
        assert found[59] == 0  # alone


def clusters_seen(x: Tensor, quantity: int, labelled: list[int], seed: int, **options: Any) -> tuple[Tensor, Tensor]:
    """What typiclust chose, and its cluster of each item ``[N]``."""
    seen: list[Tensor] = []
    module = importlib.import_module("activebdl.strategies.typiclust")

    def spied(found: Any) -> Any:
        def call(*given: Any) -> Any:
            seen.append(found(*given)[0])
            return found(*given)

        return call

    with patch.object(module, "points", spied(points)), patch.object(module, "spacing", wraps=spacing) as typical:
        chosen = resolve("typiclust", **options).select(query_of(x, quantity, labelled, seed)).ids
    by_id = torch.empty(len(x), dtype=torch.long)
    by_id[points(query_of(x, quantity, labelled, seed), torch.arange(len(x)), 50)[0]] = typical.call_args.args[1]
    return chosen, by_id


@given(seeds, st.integers(5, 40), st.data())
def test_every_choice_of_typiclust_has_a_cluster_of_its_own(seed: int, n: int, data: st.DataObject) -> None:
    x = normal(n, 2, seed)
    labelled = sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=n // 2)))
    quantity = data.draw(st.integers(1, n - len(labelled)))
    chosen, cluster = clusters_seen(x, quantity, labelled, seed)
    covered, there = cluster[labelled].unique(), cluster.unique()
    # Lloyd may empty a cluster; as a rule there are as many as labels, those there are and those asked for.
    free = len(there) - len(covered)
    own = cluster[chosen]
    assert len(own.unique()) >= min(quantity, free)
    assert not torch.isin(own[: min(quantity, free)], covered).any()
    sizes = cluster.bincount()[own[: min(quantity, free)]]
    assert bool((sizes[:-1] >= sizes[1:]).all())  # the largest first
    if free >= quantity:
        assert len(own.unique()) == quantity


def test_typiclust_takes_the_densest_point_of_each_cloud_the_largest_first() -> None:
    sizes = [6, 30, 15, 60]
    x, which = islands(sizes)
    ids = resolve("typiclust").select(query_of(x, 4)).ids
    assert which[ids].tolist() == [3, 1, 2, 0]
    for id in ids.tolist():
        own = (which == which[id]).nonzero().flatten().tolist()
        k = min(20, len(own) - 1)
        typical = {i: -sum(sorted(math.dist(x[i].tolist(), x[j].tolist()) for j in own)[: k + 1]) for i in own}
        assert id == max(typical, key=lambda i: typical[i])


def test_k_means_takes_the_item_nearest_to_the_mean_of_each_cloud() -> None:
    x, which = islands([6, 30, 15, 60], d=70)
    ids = resolve("k_means", components=40).select(query_of(x, 4)).ids
    assert which[ids].tolist() == [3, 1, 2, 0]
    for id in ids.tolist():
        own = (which == which[id]).nonzero().flatten()
        middle = x[own].mean(0)
        near = own[(x[own] - middle).norm(dim=1).argsort()[:2]]
        assert id in near.tolist()  # the second where the components left out tell them apart


def test_later_rounds_go_where_there_is_no_label_yet() -> None:
    x, which = islands([20, 20, 20, 20, 20, 20])
    labelled = [int((which == w).nonzero()[0]) for w in range(4)]
    for seed in range(5):
        ids = resolve("typiclust").select(query_of(x, 2, sorted(labelled), seed)).ids
        assert sorted(which[ids].tolist()) == [4, 5]


def test_the_clusters_are_bounded_and_shared_out_evenly() -> None:
    x, which = islands([20, 40])
    ids = resolve("typiclust", max_clusters=2).select(query_of(x, 7)).ids
    assert which[ids].tolist() == [1, 0, 1, 0, 1, 0, 1]
    with pytest.raises(UserError, match="at least 1 cluster and 1 neighbour, not 0 and 20"):
        resolve("typiclust", max_clusters=0).select(query_of(x))


def test_stored_bytes_are_normalised_first() -> None:
    x = torch.from_numpy(np.array([[0, 0], [255, 0], [0, 2]], dtype=np.uint8))
    query = Query(torch.arange(3), torch.tensor([]), 1, seeded(0), None, x, Normalise(255.0, 0.0, (1.0, 1e-3)))
    _, found = points(query, torch.arange(3), 2)
    assert sorted(torch.pdist(found).tolist()) == pytest.approx([1, 7.843137, math.hypot(1, 7.843137)], rel=1e-5)
