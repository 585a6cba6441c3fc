"""What strategies that build a batch item by item share.

N: items, C: classes.
"""

import torch
from torch import Tensor

from activebdl.scoring import predictive
from activebdl.strategies import Query

BLOCK = 2**18
"""Numbers of float64 in a block of work: 2 MiB, which a cache holds."""

ROUNDING = 1e-12
"""A squared distance below this part of the squared lengths is that of float32 features which ought to be equal."""

TIE = 1e-9
"""Values that differ by less than this part of the largest are equal up to the rounding of float64 sums."""


def class_probabilities(query: Query, ids: Tensor) -> Tensor:
    """The posterior predictive of these items, ``1/K sum_k p_k``: ``[len(ids), C]``, float64."""
    return query.model.reduce(ids, lambda log_probs: predictive(log_probs).exp()).double()


def largest(values: Tensor, generator: torch.Generator) -> int:
    """The position of the largest of the values ``[N]``; of those tied with it one at random."""
    top = values.amax()
    tied = ((values >= top - TIE * top.abs()) | (values == top)).nonzero()[:, 0]  # the second for a top of infinity
    return int(tied[torch.randint(len(tied), (1,), generator=generator)])


def drawn(weights: Tensor, otherwise: Tensor, generator: torch.Generator) -> int:
    """A position in proportion to the weights ``[N]``, or to others where all of these are zero."""
    sums = (weights if bool(weights.any()) else otherwise).cumsum(0, dtype=torch.double)
    uniform = torch.rand((), generator=generator, dtype=torch.double)
    return int(torch.searchsorted(sums, uniform * sums[-1], right=True).clamp_max(len(sums) - 1))


def without_rounding(squared: Tensor, lengths: Tensor) -> Tensor:
    """Squared distances, exactly zero where ``|x|^2 + |y|^2 - 2 <x, y>`` is but rounding.

    Args:
        squared: Of any shape, as that difference gives them.
        lengths: ``|x|^2 + |y|^2``, of the same shape.
    """
    return torch.where(squared <= ROUNDING * lengths, 0.0, squared)
