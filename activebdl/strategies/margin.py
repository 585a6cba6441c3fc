"""Margin sampling (Scheffer, Decomain, Wrobel 2001)."""

from torch import Tensor

from activebdl.scoring import predictive
from activebdl.strategies import strategy


@strategy("margin", paper="Scheffer et al. 2001")
def margin(log_probs: Tensor) -> Tensor:
    """One minus the lead of the likeliest class over the second: 0 (sure) <= m <= 1 (a tie).

    m[x] = 1 - (p_(1) - p_(2)),  p = 1/K sum_k p_k
    """
    best_two = predictive(log_probs).topk(2, dim=1).values.exp()
    return 1 - (best_two[:, 0] - best_two[:, 1])
