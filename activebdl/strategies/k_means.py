"""The items nearest to the centres of k-means, for the cold start (Kang, Ryu, Kwon 2004)."""

import torch
from torch import Tensor

from activebdl.strategies import Query, joint_strategy
from activebdl.strategies._clusters import check_components, in_turn, lloyd, points


@joint_strategy("k_means", needs=("items",), paper="Kang et al. 2004", memory="N P", check=check_components)
def k_means(query: Query, *, components: int = 50) -> Tensor:
    """The item nearest to each of Q centres of k-means over the unlabelled items.

    argmin_{i in cluster q} |x_i - c_q|,  q = 1 .. Q

    x is the input as a network reads it, or with `pretraining` its features, reduced to principal components; k-means
    starts from k-means++ centres.
    Where fewer than Q items differ, the next nearest of each cluster follow.

    Args:
        query: What is asked.
        components: Principal components that are kept, at most.
    """
    ids, x = points(query, query.unlabelled, components)
    assigned, distances = lloyd(x, query.quantity, query.generator)
    sizes = assigned.bincount(minlength=query.quantity)
    none = torch.zeros_like(sizes)
    return ids[in_turn(assigned, distances, none, sizes, query.quantity, query.generator)]
