"""Maximum entropy (Shannon 1948), also called predictive entropy or uncertainty sampling."""

from torch import Tensor

from activebdl.scoring import entropy, predictive
from activebdl.strategies import strategy


@strategy("max_entropy", paper="Shannon 1948")
def max_entropy(log_probs: Tensor) -> Tensor:
    """Entropy of the posterior predictive, in nats: 0 (sure) <= H <= log C.

    H[y | x] = H[ 1/K sum_k p_k ]

    It does not tell what the model could learn (epistemic) from what is ambiguous in itself (aleatoric).
    """
    return entropy(predictive(log_probs))
