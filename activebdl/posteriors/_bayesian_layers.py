"""Linear and convolutional layers with a Gaussian on each weight, all independent (a mean field), and their priors.

    q(w) = prod_i N(w_i | mean_i, sd_i^2),  sd_i = softplus(rho_i)

B: items of a batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from activebdl.randomness import normal_like

Estimator = Callable[[nn.Module, Tensor, dict[str, Tensor]], Tensor]
"""``f(layer, x [B, ...], sds) -> output [B, ...]``, a draw of what the layer gives when its weights are drawn."""

_SMALLEST_VARIANCE = 1e-16  # where all inputs are 0 the variance is, and the slope of its root would be infinite


class Prior(Protocol):
    """A prior of weights that are independent, with mean 0."""

    def kl(self, mean: Tensor, sd: Tensor, unit: float) -> Tensor:
        """``KL(N(mean, sd^2) || prior)`` in nats, summed over the weights, or an unbiased draw of it.

        Args:
            mean: Of each weight.
            sd: Of each weight.
            unit: What the prior's scales are multiples of.
        """
        ...


@dataclass(frozen=True)
class GaussianPrior:
    """``N(0, (scale unit)^2)``; its KL is exact."""

    scale: float

    def kl(self, mean: Tensor, sd: Tensor, unit: float) -> Tensor:
        """``sum log(p / sd) + (sd^2 + mean^2) / (2 p^2) - 1/2``, where ``p = scale unit``."""
        p = self.scale * unit
        return (math.log(p) - sd.log() + (sd.square() + mean.square()) / (2 * p * p) - 0.5).sum()


@dataclass(frozen=True)
class MixturePrior:
    """``pi N(0, (sigma1 unit)^2) + (1 - pi) N(0, (sigma2 unit)^2)`` (Blundell 2015): a wide and a narrow one."""

    pi: float
    sigma1: float
    sigma2: float

    def log_prob(self, w: Tensor, unit: float) -> Tensor:
        """Of each weight on its own."""
        wide = math.log(self.pi) + _normal_log_prob(w, self.sigma1 * unit)
        narrow = math.log1p(-self.pi) + _normal_log_prob(w, self.sigma2 * unit)
        return torch.logaddexp(wide, narrow)

    def kl(self, mean: Tensor, sd: Tensor, unit: float) -> Tensor:
        """``sum - H[q] - log p(w)``, ``w ~ q`` drawn once: the entropy is known, and only the rest is drawn."""
        w = mean + sd * normal_like(sd)
        entropy = sd.log() + 0.5 * math.log(2 * math.pi * math.e)
        return -(entropy + self.log_prob(w, unit)).sum()


class MeanField(nn.Module):
    """A layer with an independent Gaussian on each of its weights and biases.

    In train mode, while ``sampling``, each output is drawn; otherwise it is what the means give.

    Args:
        layer: Linear or convolutional. Its own parameters are the means from now on.
        prior: Its scales are multiples of ``sqrt(2 / fan_in)``, with which a relu layer keeps the size of its inputs.
        initial_scale: Of the standard deviations at the start, a multiple of the same.
        estimator: How outputs are drawn.
    """

    def __init__(self, layer: nn.Module, prior: Prior, *, initial_scale: float, estimator: Estimator) -> None:
        super().__init__()
        self.layer, self.prior, self.estimator = layer, prior, estimator
        self.unit = math.sqrt(2 / layer.get_parameter("weight")[0].numel())
        rho = math.log(math.expm1(initial_scale * self.unit))
        self.rho = nn.ParameterDict({name: torch.full_like(mean, rho) for name, mean in layer.named_parameters()})
        self.sampling = True

    @property
    def weight(self) -> Tensor:
        """The means of the weights, for modules that look at their layers."""
        return self.layer.get_parameter("weight")

    @property
    def bias(self) -> Tensor | None:
        """The means of the biases."""
        return dict(self.layer.named_parameters()).get("bias")

    def sds(self) -> dict[str, Tensor]:
        """Standard deviations, by the name of the layer's parameter."""
        return {name: F.softplus(rho) for name, rho in self.rho.items()}

    def kl(self) -> Tensor:
        """``KL(q || prior)`` in nats, summed over weights and biases."""
        sds = self.sds()
        return torch.stack(
            [self.prior.kl(mean, sds[name], self.unit) for name, mean in self.layer.named_parameters()]
        ).sum()

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, drawn in train mode while ``sampling``."""
        return self.estimator(self.layer, x, self.sds()) if self.training and self.sampling else self.layer(x)


def local_reparametrisation(layer: nn.Module, x: Tensor, sds: dict[str, Tensor]) -> Tensor:
    """Draws the outputs in place of the weights (Kingma, Salimans and Welling 2015).

    A sum of independent Gaussians is Gaussian: ``N(layer(x; means), layer(x^2; sds^2))``. Every output has noise of its
    own, so the gradient has less of it. In a convolution, and in a linear layer on sequences, outputs at different
    places share weights and are correlated in truth; here they are drawn as if they were not. Each output on its own
    has the right distribution.
    """
    mean = layer(x)
    variance = functional_call(layer, {name: sd.square() for name, sd in sds.items()}, (x.square(),))
    return mean + variance.clamp_min(_SMALLEST_VARIANCE).sqrt() * normal_like(mean)


def flipout(layer: nn.Module, x: Tensor, sds: dict[str, Tensor]) -> Tensor:
    """One draw of the weights for the batch, its signs flipped at random for each item (Wen et al. 2018).

    ``layer(x; means) + s_out * layer(s_in * x; sds * eps)``: the sign of weight ``(o, i)`` is ``s_out_o s_in_i``, so
    every item has weights from q, the same at all places of a convolution, and two items' are uncorrelated.
    """
    drawn = {name: sd * normal_like(sd) for name, sd in sds.items()}
    mean = layer(x)
    channels = -1 if isinstance(layer, nn.Linear) else 1
    return mean + functional_call(layer, drawn, (x * _signs(x, channels),)) * _signs(mean, channels)


ESTIMATORS: dict[str, Estimator] = {"local": local_reparametrisation, "flipout": flipout}


def _signs(like: Tensor, channels: int) -> Tensor:
    """-1 or 1 for each item and channel, the same everywhere else: ``[B, 1, ..., channels, ..., 1]``."""
    shape = [1] * like.dim()
    shape[0], shape[channels] = like.shape[0], like.shape[channels]
    return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(0.5).mul_(2).sub_(1)


def _normal_log_prob(w: Tensor, sd: float) -> Tensor:
    return -0.5 * (w / sd).square() - math.log(sd) - 0.5 * math.log(2 * math.pi)
