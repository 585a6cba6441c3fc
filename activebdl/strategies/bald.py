"""Bayesian active learning by disagreement (Houlsby, Huszar, Ghahramani, Lengyel 2011; Gal, Islam, Ghahramani 2017)."""

from torch import Tensor

from activebdl.scoring import entropy, predictive
from activebdl.strategies import strategy


@strategy("bald", needs_disagreement=True, paper="Houlsby et al. 2011")
def bald(log_probs: Tensor) -> Tensor:
    """Mutual information of label and weights, in nats: 0 (all agree) <= BALD <= log C.

    I(y; theta | x) = H[ 1/K sum_k p_k ] - 1/K sum_k H[ p_k ]

    High where each draw is sure and the draws disagree; low where all agree that the item is ambiguous.
    """
    return (entropy(predictive(log_probs)) - entropy(log_probs).mean(dim=1)).clamp_min(0)  # rounding may go below 0
