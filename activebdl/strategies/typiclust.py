"""TypiClust: typical items of clusters that have no label yet (Hacohen, Dekel, Weinshall 2022), for the cold start."""

import torch
from torch import Tensor

from activebdl.errors import UserError
from activebdl.strategies import Query, joint_strategy
from activebdl.strategies._clusters import AT_A_TIME, check_components, in_turn, lloyd, points


def _check(components: int, max_clusters: int, neighbours: int) -> None:
    check_components(components)
    if max_clusters < 1 or neighbours < 1:
        raise UserError(f"typiclust needs at least 1 cluster and 1 neighbour, not {max_clusters} and {neighbours}.")


@joint_strategy("typiclust", needs=("items",), paper="Hacohen et al. 2022", memory="N P", check=_check)
def typiclust(query: Query, *, components: int = 50, max_clusters: int = 500, neighbours: int = 20) -> Tensor:
    """The most typical item of each of the largest clusters without a label.

    typicality(x) = ( 1/k sum_{j = 1..k} |x - its j-th nearest neighbour in the cluster| )^-1

    The clusters are those of k-means over labelled and unlabelled items: one for each label there is or is asked for,
    so that at least Q of them have none. Where they run out, it is the turn of those that have the fewest.

    x is the input as a network reads it, reduced to its principal components. The paper clusters features learned
    without labels, as x is with `pretraining`; inputs do in their place where what is near looks alike, as with digits,
    and not with photographs.

    Args:
        query: What is asked.
        components: Principal components that are kept, at most.
        max_clusters: Clusters, at most.
        neighbours: k, at most; a smaller cluster has fewer.
    """
    labelled = query.labelled.long()
    ids, x = points(query, torch.cat([labelled, query.unlabelled]).sort().values, components)
    count = min(len(labelled) + query.quantity, max_clusters)
    assigned, _ = lloyd(x, count, query.generator)
    known = torch.isin(ids, labelled)
    chosen = in_turn(
        assigned[~known],
        spacing(x, assigned, neighbours)[~known],
        labelled=assigned[known].bincount(minlength=count),
        sizes=assigned.bincount(minlength=count),
        quantity=query.quantity,
        generator=query.generator,
    )
    return ids[~known][chosen]


def spacing(x: Tensor, assigned: Tensor, neighbours: int) -> Tensor:
    """One over the typicality: the mean distance of each point from its nearest in the cluster, ``[N]``.

    Args:
        x: ``[N, P]``.
        assigned: Each point's cluster, ``[N]``.
        neighbours: k; as many as there are in a smaller cluster. A point alone has none, and 0.
    """
    mean = torch.zeros(len(x))
    for cluster in assigned.unique():
        members = (assigned == cluster).nonzero().flatten()
        k = min(neighbours, len(members) - 1)
        if k == 0:
            continue
        for some in members.split(max(1, AT_A_TIME // len(members))):
            # From differences, not from a product: equal points are at 0 exactly. So is a point from itself, the first
            # of its k + 1 nearest, which adds nothing to the sum.
            distances = torch.cdist(x[some], x[members], compute_mode="donot_use_mm_for_euclid_dist")
            mean[some] = distances.topk(k + 1, largest=False).values.sum(dim=1) / k
    return mean
