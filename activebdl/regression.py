"""Predictions of numbers: what K draws say of mean and noise, and how good that is.

A draw gives each item a Gaussian, ``N(mean_k, variance_k)``; the predictive is their mixture. Its variance splits:

    Var[y] = 1/K sum_k variance_k     aleatoric: noise, which no label takes away
           + Var_k[mean_k]            epistemic: what the draws disagree about, which labels take away

N: items, K: draws. Means and deviations are in units of the target, entropies in nats.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

COVERAGES = (0.5, 0.9, 0.95)
"""Of the central intervals whose coverage is told."""


@dataclass(frozen=True)
class Moments:
    """What K draws say of N targets: ``mean [N, K]`` and ``variance [N, K]``, of each draw's own Gaussian."""

    mean: Tensor
    variance: Tensor

    @staticmethod
    def of(predictions: Tensor) -> "Moments":
        """Of ``[N, K, 2]``, mean and variance, as `activebdl.targets.Task.predict` gives them."""
        return Moments(predictions[..., 0], predictions[..., 1])

    @property
    def predicted(self) -> Tensor:
        """The predictive mean ``[N]``."""
        return self.mean.mean(dim=1)

    @property
    def aleatoric(self) -> Tensor:
        """The variance ``[N]`` that every draw expects, on average."""
        return self.variance.mean(dim=1)

    @property
    def epistemic(self) -> Tensor:
        """The variance ``[N]`` of the draws' means."""
        return self.mean.var(dim=1, correction=0)

    @property
    def total(self) -> Tensor:
        """The variance ``[N]`` of the predictive: aleatoric plus epistemic."""
        return self.aleatoric + self.epistemic


def evaluate(moments: Moments, targets: Tensor) -> dict[str, float]:
    """How good the predictions of ``targets [N]`` are: rmse, nll, and the coverage of central intervals.

    The interval of coverage c runs from the (1 - c) / 2 to the (1 + c) / 2 quantile of the predictive mixture; a
    share c of the targets should lie inside.
    """
    mean, sd, y = moments.mean.double(), moments.variance.double().sqrt(), targets.double()[:, None]
    log_density = -0.5 * ((y - mean) / sd).square() - sd.log() - 0.5 * math.log(2 * math.pi)  # [N, K]
    nll = math.log(mean.shape[1]) - log_density.logsumexp(dim=1)
    rank = torch.special.ndtr((y - mean) / sd).mean(dim=1)  # the mixture's distribution function at the target
    inside = {f"coverage_{100 * c:g}": float(((rank - 0.5).abs() <= c / 2).double().mean()) for c in COVERAGES}
    rmse = float((moments.predicted.double() - targets.double()).square().mean().sqrt())
    return {"rmse": rmse, "nll": float(nll.mean()), **inside}
