"""Epistemic variance: how much the draws' means of a number differ.

The split of the variance is that of Depeweg, Hernandez-Lobato, Doshi-Velez, Udluft 2018.
"""

from torch import Tensor

from activebdl.regression import Moments
from activebdl.strategies import strategy


@strategy("epistemic_variance", target="numbers", needs_disagreement=True, paper="Depeweg et al. 2018")
def epistemic_variance(moments: Moments) -> Tensor:
    """Variance of the draws' means: 0 (all agree) or more, in squared units of the target.

    ``Var_k[mean_k]``, by the law of total variance the part of the predictive's variance that labels take away. It asks
    where the function is not known, and unlike `gaussian_bald` does not mind how noisy an answer there will be.
    """
    return moments.epistemic
