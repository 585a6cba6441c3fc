"""Epistemic variance: how much the draws' means of a number differ."""

from torch import Tensor

from activebdl.regression import Moments
from activebdl.strategies import strategy


@strategy("epistemic_variance", target="numbers", needs_disagreement=True, paper="Depeweg et al. 2018")
def epistemic_variance(moments: Moments) -> Tensor:
    """The part of the predictive's variance that labels take away, in units of the target squared.

    ``Var_k[mean_k]``, by the law of total variance (Depeweg et al. 2018). It asks where the function is not known, and
    unlike `gaussian_bald` does not mind how noisy an answer there will be.
    """
    return moments.epistemic
