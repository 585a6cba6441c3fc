"""Least confidence (Lewis and Gale 1994; Culotta and McCallum 2005)."""

from torch import Tensor

from activebdl.scoring import predictive
from activebdl.strategies import strategy


@strategy("least_confidence", paper="Lewis and Gale 1994")
def least_confidence(log_probs: Tensor) -> Tensor:
    """One minus the probability of the most probable class: 0 (sure) <= u <= 1 - 1/C.

    u[x] = 1 - max_c 1/K sum_k p_kc

    Some codes call this variation ratios; here that name means disagreement with the modal vote (Gal 2017).
    """
    return 1 - predictive(log_probs).amax(dim=1).exp()
