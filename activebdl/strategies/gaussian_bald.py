"""BALD for numbers (Houlsby, Huszar, Ghahramani, Lengyel 2011), when noise differs from place to place."""

from torch import Tensor

from activebdl.regression import Moments
from activebdl.strategies import strategy


@strategy("gaussian_bald", target="numbers", needs_disagreement=True, paper="Houlsby et al. 2011")
def gaussian_bald(moments: Moments) -> Tensor:
    """Mutual information of number and weights, in nats: 0 (all agree) or more; a bound of it.

    ``I(y; theta | x) <= 1/2 log Var[y] - 1/K sum_k 1/2 log variance_k``

    The predictive is taken as Gaussian, which has the highest entropy of all densities with its variance. So this is an
    upper bound; it is exact where the draws' means are themselves Gaussian and their noise is the same.
    """
    return 0.5 * (moments.total.log() - moments.variance.log().mean(dim=1)).clamp_min(0)
