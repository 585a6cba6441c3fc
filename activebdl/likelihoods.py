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

_LOG_VARIANCES = (-14.0, 14.0)  # beyond, a step of training could overflow


class Likelihood(Protocol):
    """p(target | outputs)."""

    @property
    def width(self) -> int:
        """O."""
        ...

    def nll(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch of ``-log p(target | outputs)``: ``[B, O], [B] -> []``."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What training minimises: `nll`, or something with the same minimum that is easier to reach."""
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

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`nll`."""
        return self.nll(outputs, targets)

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

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`nll`."""
        return self.nll(outputs, targets)

    def fisher(self, outputs: Tensor) -> Tensor:
        """``1 / noise^2``, also the Hessian itself."""
        return torch.full_like(outputs, self.noise**-2)[:, :, None]

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the target, ``[..., 1] -> [...]`` each."""
        return outputs[..., 0], torch.full_like(outputs[..., 0], self.noise**2)


@dataclass(frozen=True)
class HeteroscedasticGaussian:
    """A number with noise that depends on the input (Nix and Weigend 1994); the outputs are mean and log variance.

    Args:
        beta: Training weighs each item's term by its variance to this power (beta-NLL, Seitzer et al. 2022). At 0 the
            loss is the likelihood itself, which neglects the mean where it believes in noise; at 1 the mean is fitted
            as by least squares.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise UserError(f"beta of a heteroscedastic Gaussian is from 0 to 1, and is {self.beta}.")

    @property
    def width(self) -> int:
        """2."""
        return 2

    def nll(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``(log variance + (y - mean)^2 / variance + log 2 pi) / 2``."""
        return self._terms(outputs, targets).mean()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The beta-NLL; no gradient goes through its weights."""
        _, variance = self.moments(outputs)
        return (variance.detach() ** self.beta * self._terms(outputs, targets)).mean()

    def fisher(self, outputs: Tensor) -> Tensor:
        """``diag(1 / variance, 1 / 2)``."""
        _, variance = self.moments(outputs)
        return torch.diag_embed(torch.stack([1 / variance, torch.full_like(variance, 0.5)], dim=-1))

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the target, ``[..., 2] -> [...]`` each."""
        mean, log_variance = outputs.unbind(-1)
        return mean, log_variance.clamp(*_LOG_VARIANCES).exp()

    def _terms(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, variance = self.moments(outputs)
        return 0.5 * (variance.log() + (targets - mean).square() / variance + math.log(2 * math.pi))
