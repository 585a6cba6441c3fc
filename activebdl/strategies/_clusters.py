"""Clusters of the pool's own items, for strategies that need no model: principal components, and Lloyd's k-means.

N: items, D: features of an item, P: principal components, M: clusters, Q: items asked for. Memory is bounded by the
points ``[N, P]`` in float32; items are read, and distances taken, some at a time.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from activebdl.errors import UserError
from activebdl.strategies import Query
from activebdl.strategies._batches import drawn

WIDEST = 1024  # features whose covariance is made as it is: 8 MB
AT_A_TIME = 1 << 22  # numbers of items, or distances, in memory at once
ITERATIONS, TOLERANCE = 100, 1e-4  # Lloyd's end: so many, or a gain below this share


def check_components(components: int) -> None:
    """Refuses to keep no component."""
    if components < 1:
        raise UserError(f"Items are reduced to at least 1 of their components, not {components}.")


def points(query: Query, ids: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """The items' leading principal components, of their normalised inputs without the mean.

    Items of more than 1,024 features are hashed into so many first by a count sketch (Charikar, Chen, Farach-Colton
    2002), which keeps squared distances in expectation, to about 4 %.

    Args:
        query: Whose items they are.
        ids: Which, ``[N]``.
        components: P; all D features are kept where there are no more.

    Returns:
        The ids in the order of their points, so that the order of the pool has no say in what is made of them; and the
        points ``[N, P]`` in that order, float32.

    Raises:
        UserError: An item with NaN or infinity.
    """
    width = query.items(ids[:1]).numel()
    narrow = _count_sketch(width, query.generator) if width > WIDEST else None

    def read() -> Iterator[Tensor]:
        for some in ids.split(max(1, AT_A_TIME // width)):
            x = query.items(some).reshape(len(some), width)
            if not bool(torch.isfinite(x).all()):
                bad = ~torch.isfinite(x).all(dim=1)
                raise UserError(f"The input of item {int(some[bad][0])} holds NaN or infinity; mend or drop it.")
            exact = x.double()  # so that sums in another order are the same once they are rounded to float32
            yield exact if narrow is None else narrow(exact)

    mean, basis = principal_axes(read, components)
    x = torch.cat([((some - mean) if basis is None else (some - mean) @ basis).float() for some in read()])
    order = _sorted_by(*x.unbind(dim=1))
    return ids[order], x[order]


def principal_axes(read: Callable[[], Iterator[Tensor]], components: int) -> tuple[Tensor, Tensor | None]:
    """The mean ``[D]`` and the orthonormal axes of most variance ``[D, P]``, float64; None for all D as they are.

    Args:
        read: Gives the items, ``[n, D]`` float64 at a time.
        components: P.
    """
    count, total, gram = 0, torch.zeros(()), torch.zeros(())
    for x in read():
        count, total, gram = count + len(x), total + x.sum(dim=0), gram + x.T @ x
    mean = total / count
    if components >= len(mean):
        return mean, None
    axes = torch.linalg.eigh(gram / count - mean.outer(mean)).eigenvectors[:, -components:].flip(1)
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return mean, axes * largest.sign()  # of an axis' two directions, that in which its largest entry is positive


def lloyd(x: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """K-means (Lloyd 1982) from k-means++ centres: a partition of low ``sum_i |x_i - centre of i's cluster|^2``.

    Args:
        x: ``[N, P]``.
        count: M. Where fewer points differ, some clusters have no item.
        generator: Chooses the first centres.

    Returns:
        Each item's cluster ``[N]``, from 0 to M - 1, and its distance from the centre ``[N]``.
    """
    centres = plus_plus(x, count, generator)
    assigned, distances = nearest(x, centres)
    objective = sum_of_squares(distances)
    for _ in range(ITERATIONS):
        centres = means(x, assigned, centres)
        assigned, distances = nearest(x, centres)
        before, objective = objective, sum_of_squares(distances)
        if objective >= (1 - TOLERANCE) * before:
            break
    return assigned, distances


def plus_plus(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """First centres ``[M, P]``, items each (Arthur and Vassilvitskii 2007).

    The first is any item; each later one is drawn in proportion to the squared distance from the nearest centre so far.
    """
    anywhere = torch.ones(len(x))
    centres = torch.empty(count, x.shape[1])
    squares, weights = torch.full((len(x),), torch.inf), anywhere
    for centre in centres:
        centre.copy_(x[drawn(weights, anywhere, generator)])
        weights = squares = torch.minimum(squares, (x - centre).square().sum(dim=1))
    return centres


def nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of the centres ``[M, P]`` to each point: which ``[N]``, and how far ``[N]``."""
    c = centres.double()
    half = c.square().sum(dim=1) / 2  # |x - c|^2 / 2 is |c|^2 / 2 - x.c, but for what all centres share
    chunks = x.split(max(1, AT_A_TIME // len(c)))
    assigned = torch.cat([torch.addmm(half, some.double(), c.T, alpha=-1).argmin(dim=1) for some in chunks])
    return assigned, (x - centres[assigned]).square().sum(dim=1).sqrt()


def means(x: Tensor, assigned: Tensor, centres: Tensor) -> Tensor:
    """The mean of each cluster's points, ``[M, P]``; a centre without points stays where it is."""
    total = torch.zeros(centres.shape, dtype=torch.double)
    for some, cluster in zip(x.split(1 << 16), assigned.split(1 << 16), strict=True):
        total.index_add_(0, cluster, some.double())
    sizes = assigned.bincount(minlength=len(centres))[:, None]
    return torch.where(sizes > 0, (total / sizes.clamp_min(1)).float(), centres)


def sum_of_squares(distances: Tensor) -> float:
    """What k-means makes small."""
    return float(distances.double().square().sum())


def in_turn(
    assigned: Tensor, merit: Tensor, labelled: Tensor, sizes: Tensor, quantity: int, generator: torch.Generator
) -> Tensor:
    """Q items, each from the cluster that has the fewest labelled or chosen items by then, and is the largest of these.

    Args:
        assigned: Each item's cluster, ``[n]``.
        merit: The lowest of its cluster comes first, ``[n]``.
        labelled: How many items of each cluster have a label already, ``[M]``.
        sizes: How many items each cluster has, ``[M]``.
        quantity: Q.
        generator: Breaks ties, of merit and of sizes.

    Returns:
        Positions ``[Q]`` in ``assigned``.
    """
    tie = torch.randperm(len(assigned), generator=generator)
    grouped = _sorted_by(assigned, merit, tie)
    open = assigned.bincount(minlength=len(sizes))
    before = open.cumsum(0) - open  # items of the clusters in front
    turn = torch.empty_like(assigned)
    turn[grouped] = torch.arange(len(assigned)) - (before - labelled)[assigned[grouped]]
    return _sorted_by(turn, -sizes[assigned], tie)[:quantity]


def _sorted_by(*keys: Tensor) -> Tensor:
    """The positions in ascending order of the first key, among equals of the second, and so on; stable."""
    return torch.from_numpy(np.lexsort([key.numpy() for key in reversed(keys)]))


def _count_sketch(width: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Adds each of D features to one of 1,024 sums, or takes it away, at random once for all items."""
    bucket = torch.randint(WIDEST, (width,), generator=generator)
    sign = torch.randint(2, (width,), generator=generator) * 2.0 - 1.0
    return lambda x: x.new_zeros(len(x), WIDEST).index_add_(1, bucket, x * sign)
