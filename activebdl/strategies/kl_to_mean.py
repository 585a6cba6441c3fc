"""Divergence of the draws from their mean (McCallum and Nigam 1998): query by committee. The same score as BALD."""

import torch
from torch import Tensor

from activebdl.scoring import predictive
from activebdl.strategies import strategy


@strategy("kl_to_mean", needs_disagreement=True, paper="McCallum and Nigam 1998")
def kl_to_mean(log_probs: Tensor) -> Tensor:
    """Mean divergence of the draws from their mean, in nats: 0 (all agree) to log C, as BALD.

    1/K sum_k KL( p_k || m ) = 1/K sum_k sum_c p_kc ( log p_kc - log m_c ),  m = 1/K sum_k p_k

    As 1/K sum_k p_kc is m_c, the second part is H[m] and the whole H[m] - 1/K sum_k H[p_k], which is BALD: with exact
    arithmetic they are equal. It is here under the name that the literature of committees gives it.
    """
    least = torch.finfo(log_probs.dtype).min  # in place of -inf, so that 0 log 0 is 0
    p, m = log_probs.clamp_min(least), predictive(log_probs).clamp_min(least)
    return (log_probs.exp() * (p - m[:, None])).sum(dim=2).mean(dim=1).clamp_min(0)  # rounding may go below 0
