"""Likelihoods: how a network's outputs become a distribution of the target, and what training minimises.

B: items of a batch, O: outputs of the network for one item. Everything is in nats.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from activebdl.errors import UserError


class Likelihood(Protocol):
    """p(target | outputs)."""

    @property
    def width(self) -> int:
        """O."""
        ...

    def nll(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch of ``-log p(target | outputs)``: ``[B, O], [B] -> []``."""
        ...

    def fisher(self, outputs: Tensor) -> Tensor:
        """Fisher information of the outputs, ``[B, O] -> [B, O, O]``: the Hessian that a Gauss-Newton step uses."""
        ...


@dataclass(frozen=True)
class Categorical:
    """One of C classes; the outputs are logits.

    Args:
        classes: C.
    """

    classes: int

    @property
    def width(self) -> int:
        """C."""
        return self.classes

    def nll(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy."""
        return F.cross_entropy(outputs, targets)

    def fisher(self, outputs: Tensor) -> Tensor:
        """``diag(p) - p p^T``, also the Hessian itself."""
        p = outputs.softmax(-1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


@dataclass(frozen=True)
class Gaussian:
    """A number with noise of one known size; the output is its mean.

    Args:
        noise: Standard deviation, above 0, in units of the target.
    """

    noise: float = 1.0

    def __post_init__(self) -> None:
        if not self.noise > 0:
            raise UserError(f"The noise of a Gaussian likelihood must be above 0, and is {self.noise}.")

    @property
    def width(self) -> int:
        """1."""
        return 1

    def nll(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``(y - mean)^2 / (2 noise^2) + log noise + log(2 pi) / 2``."""
        squares = (targets - outputs[:, 0]).square().mean() / (2 * self.noise**2)
        return squares + math.log(self.noise) + 0.5 * math.log(2 * math.pi)

    def fisher(self, outputs: Tensor) -> Tensor:
        """``1 / noise^2``, also the Hessian itself."""
        return torch.full_like(outputs, self.noise**-2)[:, :, None]
