"""A deep ensemble (Lakshminarayanan, Pritzel and Blundell 2017): networks that differ in nothing but their luck.

    p(y | x, labels) ~= 1/M sum_m p(y | x, theta_m),  theta_m fitted from weights and batches of its own

Members may also see labels of their own, n of them taken with replacement (bagging, Breiman 1996), and may keep their
dropout on, so that each is a posterior in itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from activebdl.data.dataset import Labelled
from activebdl.errors import UserError
from activebdl.posteriors import posterior
from activebdl.posteriors._shared import OutputDraws
from activebdl.posteriors.map import MAP, PointPosterior
from activebdl.posteriors.mc_dropout import DropoutPosterior, MCDropout
from activebdl.training import Training


@posterior("ensemble")
@dataclass(frozen=True)
class Ensemble:
    """A deep ensemble of fresh networks, one trained after the other: on CPUs that is faster than all in one batch.

    Args:
        members: M, how many networks.
        bootstrap: Whether each member is fitted to n labels taken from the n with replacement.
        dropout: Whether dropout stays on in each member, as in `MCDropout`.
        training: How each member is trained.
    """

    members: int = 5
    bootstrap: bool = False
    dropout: bool = False
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if self.members < 1:
            raise UserError(f"An ensemble has at least one member, not {self.members}.")

    @property
    def draws_agree(self) -> bool:
        """One plain network has nobody to disagree with."""
        return self.members == 1 and not self.dropout

    @property
    def method(self) -> MAP | MCDropout:
        """How one member is fitted."""
        return MCDropout(self.training) if self.dropout else MAP(self.training)

    def fit(
        self,
        network: Callable[[], nn.Module],
        labelled: Labelled,
        *,
        generator: torch.Generator,
        on_step: Callable[[], object] | None = None,
    ) -> "EnsemblePosterior":
        """Trains the members; see `activebdl.posteriors.InferenceMethod.fit`."""
        method = self.method
        members: list[PointPosterior | DropoutPosterior] = []
        for own in _generators(self.members, generator):
            seen = _resample(labelled, own) if self.bootstrap else labelled
            members.append(method.fit(network, seen, generator=own, on_step=on_step))
        return EnsemblePosterior(members)

    def check(self, module: nn.Module, example: Tensor) -> None:
        """Refuses a network that one member could not be, before any is trained."""
        self.method.check(module, example)

    def steps(self, n: int) -> int:
        """Optimiser steps of all members together, for a fit to ``n`` labels."""
        return self.members * self.method.steps(n)


@dataclass(frozen=True)
class EnsemblePosterior:
    """M posteriors, each as likely as the others."""

    members: Sequence[PointPosterior | DropoutPosterior]

    def draw(self, k: int, *, generator: torch.Generator) -> "EnsembleDraws":
        """K functions: the members in random order, again and again, so that each is drawn as often as the others."""
        order = torch.randperm(len(self.members), generator=generator).repeat(-(-k // len(self.members)))[:k]
        parts: dict[int, tuple[Tensor, OutputDraws]] = {}
        for m, own in enumerate(_generators(len(self.members), generator)):
            places = (order == m).nonzero().flatten()
            if len(places):
                parts[m] = (places, self.members[m].draw(len(places), generator=own))
        return EnsembleDraws(tuple(parts.values()))


@dataclass(frozen=True)
class EnsembleDraws(OutputDraws):
    """Draws of several members: for each, the places ``[k_m]`` that they take among the K."""

    parts: Sequence[tuple[Tensor, OutputDraws]]

    @property
    def count(self) -> int:
        """K."""
        return sum(draws.count for _, draws in self.parts)

    def outputs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, O]``; a member that is drawn several times is computed once."""
        found = [draws.outputs(x) for _, draws in self.parts]  # each [B, k_m, O]
        places = torch.cat([places for places, _ in self.parts])
        with torch.inference_mode():
            return torch.cat(found, dim=1)[:, places.argsort().to(x.device)]


def _generators(count: int, generator: torch.Generator) -> list[torch.Generator]:
    seeds = torch.randint(2**62, (count,), generator=generator)
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def _resample(labelled: Labelled, generator: torch.Generator) -> Labelled:
    """As many items, taken with replacement."""
    n = len(labelled)
    taken = torch.randint(n, (n,), generator=generator).to(labelled.device)
    return replace(labelled, inputs=labelled.inputs[taken], labels=labelled.labels[taken])
