"""k-centre, the greedy core-set (Sener and Savarese 2018).

A batch S that covers the pool: with the labelled items L it is to minimise the farthest that any item lies from its
nearest centre,

    max_x  min_{c in L + S}  |h_x - h_c|

in the features h that the last layer reads. Farthest-first traversal takes, Q times, the item that is farthest from all
centres so far, which is within a factor 2 of the least there can be (Gonzalez 1985). It looks at no predictions, so
labels may be numbers too.

N: unlabelled items, M: centres, D: features, Q: items asked for.
"""

import torch
from torch import Tensor

from activebdl.strategies import Query, Selection, joint_strategy
from activebdl.strategies._batches import BLOCK, largest, without_rounding

CENTRES = 1024
"""Labelled items whose features are looked at together."""


@joint_strategy("k_centre", needs=("features",), paper="Sener and Savarese 2018", memory="N D")
def k_centre(query: Query) -> Selection:
    """Items that cover the pool: each the farthest, in features, from all labelled or chosen.

    The scores are the distances to the nearest centre; infinite for the first, at random, where nothing is labelled.
    """
    features = query.model.features(query.unlabelled)
    origin = features.mean(dim=0)  # distances lose fewer digits to rounding around it
    features = features - origin
    nearest = torch.full((len(features),), torch.inf, dtype=torch.double)
    for labelled in query.labelled.split(CENTRES):
        if len(labelled):
            centres = query.model.features(labelled) - origin
            nearest = torch.minimum(nearest, squared_distances(features, centres))
    chosen, scores = farthest_first(features, nearest, query.quantity, query.generator)
    return Selection(query.unlabelled[chosen], scores)


def farthest_first(
    features: Tensor, nearest: Tensor, quantity: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Positions ``[Q]``, distinct, each the farthest from all centres by then; ties are broken at random.

    Args:
        features: ``[N, D]``.
        nearest: Squared distance ``[N]`` to the nearest of the centres there are at the start; infinite without any.
        quantity: Q, at most N.
        generator: Breaks ties.

    Returns:
        The positions, and the distance ``[Q]`` of each to the nearest centre when it was chosen.
    """
    free = torch.ones_like(nearest, dtype=torch.bool)
    chosen: list[int] = []
    scores: list[Tensor] = []
    for _ in range(quantity):
        pick = largest(nearest.where(free, -1), generator)
        chosen.append(pick)
        scores.append(nearest[pick].sqrt())
        free[pick] = False
        nearest = torch.minimum(nearest, squared_distances(features, features[pick : pick + 1]))
    return torch.tensor(chosen), torch.stack(scores)


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distance ``[N]`` of each row of ``x [N, D]`` to the nearest of ``centres [M, D]``, float64, by blocks."""
    c = centres.double()
    heights = c.square().sum(dim=1)
    parts: list[Tensor] = []
    for part in x.split(max(1, BLOCK // max(c.shape))):
        block = part.double()
        length = block.square().sum(dim=1)
        squared = length + torch.addmm(heights, block, c.T, alpha=-2).amin(dim=1)
        parts.append(without_rounding(squared, 2 * length))  # a centre that is as good as equal is as long
    return torch.cat(parts)
