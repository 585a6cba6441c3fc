"""The plain network: one point, the weights that training found. The baseline every posterior is measured against.

    theta* = argmin_theta  - sum_n log p(y_n | x_n, theta) + weight decay

It knows no epistemic uncertainty: BALD of its draws is zero, and scoring says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from activebdl.data.dataset import Labelled
from activebdl.modes import evaluating
from activebdl.posteriors import posterior
from activebdl.posteriors._shared import OutputDraws
from activebdl.training import Training, train


@posterior("map")
@dataclass(frozen=True)
class MAP:
    """The plain network (maximum a posteriori): the baseline, without epistemic uncertainty.

    Args:
        training: How the network is trained.
    """

    draws_agree: ClassVar[bool] = True
    training: Training = field(default_factory=Training)

    def fit(
        self,
        network: Callable[[], nn.Module],
        labelled: Labelled,
        *,
        generator: torch.Generator,
        on_step: Callable[[], object] | None = None,
    ) -> "PointPosterior":
        """Trains one network; see `activebdl.posteriors.InferenceMethod.fit`."""
        return PointPosterior(train(network, labelled, self.training, generator=generator, on_step=on_step))

    def check(self, module: nn.Module, example: Tensor) -> None:
        """Refuses a network without the parameters that the prior is on."""
        del example
        self.training.has_prior(module)

    def steps(self, n: int) -> int:
        """Optimiser steps that a fit to ``n`` labels takes."""
        return self.training.total_steps(n)


@dataclass(frozen=True)
class PointPosterior:
    """All the mass on one network."""

    module: nn.Module

    def draw(self, k: int, *, generator: torch.Generator) -> "PointDraws":
        """K times the same function."""
        del generator  # there is nothing to draw
        return PointDraws(self.module, k)


@dataclass(frozen=True)
class PointDraws(OutputDraws):
    """K times the same function, computed once."""

    module: nn.Module
    k: int

    @property
    def count(self) -> int:
        """K."""
        return self.k

    def outputs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, O]``; the K entries share their memory."""
        with evaluating(self.module), torch.inference_mode():
            return self.module(x)[:, None, :].expand(-1, self.k, -1)
