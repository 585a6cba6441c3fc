"""BALD for numbers: what a label would tell of the weights, when noise differs from place to place."""

from torch import Tensor

from activebdl.regression import Moments
from activebdl.strategies import strategy


@strategy("gaussian_bald", target="numbers", needs_disagreement=True, paper="Houlsby et al. 2011")
def gaussian_bald(moments: Moments) -> Tensor:
    """The mutual information of number and weights in nats (Houlsby et al. 2011), the predictive taken as Gaussian.

    ``I(y; theta | x) <= 1/2 log Var[y] - 1/K sum_k 1/2 log variance_k``

    A Gaussian has the highest entropy of all densities with its variance, so this is an upper bound; it is exact where
    the draws' means are themselves Gaussian and their noise is the same.
    """
    return 0.5 * (moments.total.log() - moments.variance.log().mean(dim=1)).clamp_min(0)
