"""What the labels of a batch of items may turn out to be, and what one more label tells once they are known.

Given the weights, labels are independent, so an outcome ``m = (y_1, ..., y_b)`` of the batch has the probability

    p(m) = 1/K sum_k p_k(y_1) ... p_k(y_b)

and leaves the belief ``w_mk = p(draw k | m)`` in the draws, Bayes' rule over K functions that were equally likely. What
one more label tells of the draws is then the mean over outcomes of its mutual information under that belief,

    I(y; theta | y_1..y_b) = sum_m p(m) ( H[ sum_k w_mk p_k ] - sum_k w_mk H[p_k] )

By the chain rule these add up to the information of the batch. It is the difference of joint entropies, written so
that no large numbers cancel: each term lies between 0 and H[w_m], what is left to be known of the draws, so a sample
of outcomes has little variance when little is left. Beliefs sum to one, so nothing underflows, however long the batch.
All sums over draws are one matrix product, ``[M, K] @ [K, C n]``.

M: outcomes, K: draws, C: classes, n: candidates.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from activebdl.scoring import entropy

BLOCK = 2**21
"""Numbers in a block of working memory, 8 MiB in float32; a few blocks are alive at a time."""

_ROWS = 1024  # outcomes of a block: enough for the matrix product to run at full speed


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of a batch's labels: all of them, or a sample.

    Args:
        weights: Of each in means over outcomes, ``[M]`` in float64: how likely it is.
        beliefs: What it leaves of the draws, ``[M, K]``; each row sums to one.
        frequencies: How often each was drawn, ``[M]``, summing to one; None where the outcomes are all there are.
        samples: How many were drawn; 0 where the outcomes are all there are.
    """

    weights: Tensor
    beliefs: Tensor
    frequencies: Tensor | None = None
    samples: int = 0

    @staticmethod
    def of_nothing(probs: Tensor) -> "Outcomes":
        """Before any label: one outcome, and every draw as likely as the others.

        Args:
            probs: Some ``[..., K, C]``, for the number of draws and the precision.
        """
        k = probs.shape[-2]
        return Outcomes(torch.ones(1, dtype=torch.double), torch.full((1, k), 1 / k, dtype=probs.dtype))

    def extended(self, probs: Tensor, *, exact: int, samples: int, generator: torch.Generator) -> "Outcomes":
        """With the label of one more item.

        Outcomes are enumerated while there are at most ``exact``, those that cannot happen not counted. Then
        ``samples`` are drawn from the mixture of the draws, and every later label is drawn given the earlier ones.

        Args:
            probs: What the draws say of the item, ``[K, C]``.
            exact: The most outcomes that are enumerated.
            samples: How many are drawn afterwards.
            generator: Draws them.
        """
        joint = (self.weights[:, None] * (self.beliefs @ probs).double()).flatten()  # [M C]
        joint = joint / joint.sum()
        # All that is left out has together no more probability than one rounding error.
        kept = (joint > torch.finfo(probs.dtype).eps / len(joint)).nonzero()[:, 0]
        enumerated = self.frequencies is None and len(kept) <= exact
        if not enumerated:
            joint = stratified(joint, samples, generator)
            kept = joint.nonzero()[:, 0]
        row, label = kept // probs.shape[1], kept % probs.shape[1]
        beliefs = self.beliefs[row] * probs.t()[label]
        beliefs /= beliefs.sum(dim=1, keepdim=True)
        weights = joint[kept] / joint[kept].sum()
        return Outcomes(weights, beliefs) if enumerated else Outcomes(weights, beliefs, weights, samples)

    def telling(self, least: float) -> "Outcomes":
        """Those after which a label can still tell something: what the others leave to be told is below ``least`` nats.

        When the batch has told nearly all that K draws can tell, they are few. For `information` alone.
        """
        most, order = self._most().sort()
        kept = order[most.cumsum(0) >= least].sort().values
        frequencies = None if self.frequencies is None else self.frequencies[kept]
        return replace(self, weights=self.weights[kept], beliefs=self.beliefs[kept], frequencies=frequencies)

    def _most(self) -> Tensor:
        """The most that a label can tell after each outcome, times how likely that is: p(m) H[w_m], ``[M]``."""
        return self.weights * entropy(self.beliefs.log()).double().clamp_min(0)

    def sketch(self, samples: int, generator: torch.Generator) -> "Outcomes":
        """Fewer outcomes, for a first look: each drawn in proportion to the most that a label can tell after it."""
        most = self._most()
        if not float(most.sum()) > 0:  # nothing is left to be known
            return replace(self, weights=self.weights[:1], beliefs=self.beliefs[:1], frequencies=None, samples=0)
        counts = stratified(most, samples, generator)
        kept = counts.nonzero()[:, 0]
        frequencies = counts[kept] / samples
        weights = frequencies * most.sum() * (self.weights / most)[kept]
        return Outcomes(weights, self.beliefs[kept], frequencies, samples)

    def information(self, probs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """What the label of each candidate tells of the draws once the batch's labels are known, in nats.

        Args:
            probs: What the draws say of n candidates, ``[n, K, C]``; no more than `candidates_at_once`.
            noise: The entropies of that, H[p_k], ``[n, K]``.

        Returns:
            I(y; theta | y_1..y_b), ``[n]``, and its standard error, ``[n]``; both float64. The error is that of
            independent samples, which stratified ones do not exceed; 0 where the outcomes are all there are.
        """
        n, _, c = probs.shape
        by_draw = probs.permute(1, 2, 0).reshape(-1, c * n)  # [K, C n]: a sum over C then adds up rows
        mean, square = torch.zeros(n, dtype=torch.double), torch.zeros(n, dtype=torch.double)
        for start in range(0, len(self.weights), _ROWS):
            rows = slice(start, start + _ROWS)
            mixture = self.beliefs[rows] @ by_draw  # [M, C n]
            nats = mixture.clamp_min(torch.finfo(mixture.dtype).tiny).log_().mul_(mixture)
            told = (nats.view(-1, c, n).sum(dim=1) + self.beliefs[rows] @ noise.t()).neg_()  # [M, n]
            weights = self.weights[rows]
            mean += weights.to(told.dtype) @ told
            if self.frequencies is not None:
                square += (weights.square() / self.frequencies[rows]).to(told.dtype) @ told.square_()
        if self.frequencies is None:
            return mean, torch.zeros_like(mean)
        return mean, ((square - mean.square()).clamp_min(0) / self.samples).sqrt()


def candidates_at_once(draws: int, classes: int) -> int:
    """How many candidates `Outcomes.information` may be given, so that it stays within a few blocks."""
    return max(1, BLOCK // (classes * max(_ROWS, draws)))


def stratified(probabilities: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """How often each of ``probabilities [M]`` is drawn, ``[M]``: one draw from each of S strata of equal probability.

    Unbiased as independent draws are, and never with more variance. Outcomes are sorted by the earlier labels, so a
    sample of those goes on to one later label each.
    """
    strata = torch.arange(samples, dtype=torch.double)
    points = (strata + torch.rand(samples, generator=generator, dtype=torch.double)) / samples
    cumulated = probabilities.cumsum(0)
    drawn = torch.searchsorted(cumulated, points * cumulated[-1], right=True).clamp_max(len(probabilities) - 1)
    return drawn.bincount(minlength=len(probabilities)).double()
