"""Mean standard deviation (Kampffmeyer, Salberg, Jenssen 2016; Kendall, Badrinarayanan, Cipolla 2017)."""

from torch import Tensor

from activebdl.strategies import strategy


@strategy("mean_std", needs_disagreement=True, paper="Kampffmeyer et al. 2016")
def mean_std(log_probs: Tensor) -> Tensor:
    """Standard deviation of class probabilities over the draws: 0 (all agree) <= sigma <= 1/2.

    sigma[x] = 1/C sum_c sqrt( 1/K sum_k p_kc^2 - (1/K sum_k p_kc)^2 )
    """
    return log_probs.exp().std(dim=1, correction=0).mean(dim=1)
