"""Variation ratios (Freeman 1965), as Gal, Islam and Ghahramani (2017) use them: disagreement with the modal vote."""

import torch.nn.functional as F
from torch import Tensor

from activebdl.strategies import strategy


@strategy("variation_ratios", needs_disagreement=True, paper="Freeman 1965")
def variation_ratios(log_probs: Tensor) -> Tensor:
    """The share of draws that do not vote as most draws do: 0 (all do) <= v <= 1 - 1/C.

    v[x] = 1 - max_c 1/K sum_k [ argmax p_k = c ]

    Other codes give this name to 1 - max mean p, which here is `least_confidence`.
    """
    votes = F.one_hot(log_probs.argmax(dim=2), log_probs.shape[2])  # [N, K, C]
    return 1 - votes.sum(dim=1).amax(dim=1).to(log_probs.dtype) / log_probs.shape[1]
