"""MC-dropout (Gal and Ghahramani 2016): dropout stays on after training, and each mask is a draw from a posterior.

    q(theta): W_l = M_l diag(z_l),  z_lj ~ Bernoulli(1 - p) / (1 - p)
    p(y | x, labels) ~= 1/K sum_k p(y | x, theta_k),  theta_k ~ q

A draw is ONE function: its masks are drawn once, and every item meets the same ones (what BatchBALD needs to be
right, and what lets the dropped parts of the network be left out, see `_thinning`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from activebdl.data.dataset import Labelled
from activebdl.errors import UserError
from activebdl.modes import evaluating
from activebdl.posteriors import posterior
from activebdl.posteriors._masks import Site, check_dropout, draw_masks, find_sites, run_with_masks
from activebdl.posteriors._shared import OutputDraws
from activebdl.posteriors._shared_masks import shared_masks_loss, training_graph
from activebdl.posteriors._thinning import DrawPlan, ThinnedGraph, thinned
from activebdl.randomness import global_rng_kept
from activebdl.training import Training, train


@posterior("mc_dropout")
@dataclass(frozen=True)
class MCDropout:
    """MC-dropout, for any module with nn.Dropout layers in it.

    Args:
        training: How the network is trained.
        thin: Leave out of each draw what its masks drop. Off, the masks are multiplied in: the same numbers, slower.
        masks_per_batch: How many masks the items of a training batch share, so that what these drop is not computed
            in training either, see `_shared_masks`; 2 or more. None gives every item its own, as dropout has it.
    """

    training: Training = field(default_factory=Training)
    thin: bool = True
    masks_per_batch: int | None = None

    def __post_init__(self) -> None:
        if self.masks_per_batch is not None and self.masks_per_batch < 2:
            raise UserError(
                f"masks_per_batch is {self.masks_per_batch}; it must be 2 or more, or left out: "
                "with a single mask a step would train none of the units that it drops."
            )

    def fit(
        self,
        network: Callable[[], nn.Module],
        labelled: Labelled,
        *,
        generator: torch.Generator,
        on_step: Callable[[], object] | None = None,
    ) -> "DropoutPosterior":
        """Trains one network with dropout; see `activebdl.posteriors.InferenceMethod.fit`.

        Raises:
            UserError: The module has no dropout, or dropout that is not an ``nn.Dropout*`` module, or the prior is on
                a parameter that it does not have.
        """
        example = labelled.example
        with global_rng_kept(example.device):
            self.check(network().to(example.device), example)
        loss = None
        if self.masks_per_batch is not None:
            loss = shared_masks_loss(labelled, self.masks_per_batch, generator)
        module = train(network, labelled, self.training, generator=generator, objective=loss, on_step=on_step)
        return DropoutPosterior(module, example, thin=self.thin)

    def check(self, module: nn.Module, example: Tensor) -> None:
        """Refuses a network that `fit` would refuse, before it is trained.

        Args:
            module: A fresh network.
            example: A normalised batch that it can read, two items, on its device.

        Raises:
            UserError: As for `fit`.
        """
        check_dropout(module, example)
        self.training.has_prior(module)
        if self.masks_per_batch is not None:
            training_graph(module, example)

    def steps(self, n: int) -> int:
        """Optimiser steps that a fit to ``n`` labels takes."""
        return self.training.total_steps(n)


class DropoutPosterior:
    """A trained network, and all the masks that may be laid on it.

    Args:
        module: A trained network with ``nn.Dropout*`` modules. It is never changed, nor is its mode.
        example: A normalised batch that it can read, two items, on its device.
        thin: See `MCDropout`.
    """

    def __init__(self, module: nn.Module, example: Tensor, *, thin: bool = True) -> None:
        check_dropout(module, example)
        self.module, self.example, self.thin = module, example, thin
        self.graph, self.layout = thinned(module, example) if thin else (None, torch.contiguous_format)
        self.sites = self.graph.sites() if self.graph is not None else find_sites(module, example)

    def __reduce__(self) -> tuple[Any, ...]:
        """What is made of the module by reading it is made again; no pickle could keep it."""
        return partial(DropoutPosterior, thin=self.thin), (self.module, self.example)

    def draw(self, k: int, *, generator: torch.Generator) -> "ThinnedDraws | MaskedDraws":
        """K sub-networks; the first ones are the same however many are asked for."""
        device = next(self.module.parameters()).device  # it may have been moved, with all of this
        masks = draw_masks(self.sites, k, generator, device)
        if self.graph is None:
            return MaskedDraws(self.module, self.sites, list(masks))
        with torch.no_grad():
            return ThinnedDraws(self.module, self.graph, [self.graph.plan(mask) for mask in masks], self.layout)


@dataclass(frozen=True)
class ThinnedDraws(OutputDraws):
    """K sub-networks, each with only what its masks keep."""

    module: nn.Module
    graph: ThinnedGraph
    plans: Sequence[DrawPlan]
    layout: torch.memory_format = torch.contiguous_format

    @property
    def count(self) -> int:
        """K."""
        return len(self.plans)

    def outputs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, O]``."""
        x = x.contiguous(memory_format=self.layout)
        with evaluating(self.module), torch.inference_mode():
            trunk = self.graph.run_trunk(x)
            return torch.stack([self.graph.run_draw(trunk, plan) for plan in self.plans], dim=1)


@dataclass(frozen=True)
class MaskedDraws(OutputDraws):
    """K times the whole network, masks multiplied in: the plain path, for modules that torch.fx cannot read."""

    module: nn.Module
    sites: dict[str, Site]
    masks: Sequence[dict[str, Tensor]]

    @property
    def count(self) -> int:
        """K."""
        return len(self.masks)

    def outputs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, O]``."""
        with torch.inference_mode():
            draws = [run_with_masks(self.module, x, masks, self.sites) for masks in self.masks]
            return torch.stack(draws, dim=1)
