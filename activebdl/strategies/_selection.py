"""How scores become a choice of Q items: the top Q, or one of the stochastic rules.

The stochastic rules (Kirsch, Farquhar, Atighehchian, Jesson, Branchaud-Charron, Gal 2021, "Stochastic Batch
Acquisition") add Gumbel noise to a transformed score and take the top Q, which samples Q items without replacement with
probabilities in proportion to

    power     s_i ^ beta
    softmax   exp(beta s_i)
    softrank  rank_i ^ -beta        (the best has rank 1)

so that a batch is less redundant, at no cost. What scores -inf has no weight under any of them.

N: items, Q: items chosen.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from activebdl.errors import UserError

DEFAULT_BETA = 1.0

Rule = Callable[[Tensor, int, torch.Generator], Tensor]
"""``f(scores [N], Q, generator) -> positions [Q]`` in the scores, best first."""


def top_k(scores: Tensor, quantity: int, generator: torch.Generator) -> Tensor:
    """The Q highest, best first; ties are broken at random, not by position."""
    shuffled = torch.randperm(len(scores), generator=generator)
    order = scores[shuffled].sort(descending=True, stable=True).indices
    return shuffled[order[:quantity]]


def power(beta: float = DEFAULT_BETA) -> Rule:
    """Samples in proportion to score ^ beta, where no score is negative. Scores of 0 come last."""
    beta = _positive(beta)

    def rule(scores: Tensor, quantity: int, generator: torch.Generator) -> Tensor:
        # Scores such as BALD are >= 0 up to rounding; a truly negative score has no power.
        if bool(((scores < -1e-4) & (scores != -math.inf)).any()):
            raise UserError("The power rule needs scores that are not negative; take softmax or softrank.")
        return _gumbel_top_k(beta * scores.clamp_min(0).log(), quantity, generator)

    return rule


def softmax(beta: float = DEFAULT_BETA) -> Rule:
    """Samples in proportion to exp(beta score)."""
    beta = _positive(beta)
    return lambda scores, quantity, generator: _gumbel_top_k(beta * scores, quantity, generator)


def softrank(beta: float = DEFAULT_BETA) -> Rule:
    """Samples in proportion to rank ^ -beta. Only the order of the scores matters."""
    beta = _positive(beta)

    def rule(scores: Tensor, quantity: int, generator: torch.Generator) -> Tensor:
        best_first = top_k(scores, len(scores), generator)
        ranks = torch.empty_like(scores)
        ranks[best_first] = torch.arange(1, len(scores) + 1, dtype=scores.dtype)
        log_weights = (-beta * ranks.log()).masked_fill(scores == -math.inf, -math.inf)
        return _gumbel_top_k(log_weights, quantity, generator)

    return rule


RULES: dict[str, Callable[[float], Rule]] = {"power": power, "softmax": softmax, "softrank": softrank}
PAPER = "Kirsch et al. 2021"


def _gumbel_top_k(log_weights: Tensor, quantity: int, generator: torch.Generator) -> Tensor:
    """Q items without replacement, in proportion to ``exp(log_weights)`` (Kool et al. 2019)."""
    uniform = torch.rand(len(log_weights), generator=generator, dtype=torch.double)
    tiny = torch.finfo(torch.double).tiny
    gumbel = -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
    return top_k(log_weights + gumbel, quantity, generator)


def _positive(beta: float) -> float:
    if not 0 < beta < math.inf:  # at infinity weights are 0 or infinite, and all that are alike are drawn at random
        raise UserError(f"The beta of a stochastic rule must be a number above 0, and is {beta}.")
    return beta
