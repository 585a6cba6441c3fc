"""SWAG (Maddox et al. 2019): a Gaussian through the points that training visits at a constant learning rate.

    mean  m = 1/T sum_t theta_t             diagonal  S = 1/T sum_t (theta_t - m)^2
    D = [theta_t - m], the last R snapshots
    q(theta) = N(m, scale^2 (diag(S) + D D^T / (R - 1)) / 2)
    theta = m + scale (S^1/2 z1 / sqrt(2) + D z2 / sqrt(2 (R - 1))),   z1 ~ N(0, I_P),  z2 ~ N(0, I_R)

All parameters are one vector, and a draw has one z2: its layers vary together, as they did in training. R is the
number of snapshots that there are, not the largest number kept. The paper takes each deviation from the mean as it
stood then, for which the first one is zero; here all are taken from the final mean, so that with every snapshot kept
``D D^T / (R - 1)`` is their covariance. Running statistics of batch normalisation belong to one set of weights: those
of a draw are computed anew from the labelled items.

T: snapshots, R: deviations, P: parameters, K: draws, B: items of a batch.
"""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from activebdl.data.dataset import Labelled
from activebdl.errors import UserError
from activebdl.modes import evaluating
from activebdl.posteriors import posterior
from activebdl.posteriors._graph import BATCH_NORM
from activebdl.posteriors._shared import WeightDraws, call_with
from activebdl.randomness import global_rng_from, normal_like
from activebdl.training import Training, optimise

CHUNK = 256  # items at a time, of which the statistics of batch normalisation are computed


@posterior("swag")
@dataclass(frozen=True)
class SWAG:
    """SWAG, for any module; dropout is active in training, and not in the draws.

    Args:
        training: How the network is trained. Its steps are those of both phases together, and its weight decay and
            augmentation hold in both.
        share: The part of the steps that comes after the training proper, at a constant learning rate.
        optimizer: Of that part; see `activebdl.training.Training`.
        learning_rate: Of that part. The larger, the wider the posterior.
        snapshots: T, evenly spaced over that part; one a step where it has fewer steps.
        rank: The largest R; 0 for the diagonal alone (SWAG-Diagonal).
        scale: Of the standard deviation: 1 as in the equation above, 0 < scale < 1 for a narrower posterior.
    """

    training: Training = field(default_factory=Training)
    share: float = 0.5
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    snapshots: int = 40
    rank: int = 20
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"SWAG's share of the steps must be between 0 and 1, and is {self.share}.")
        if not self.learning_rate > 0 or not self.scale > 0:
            raise UserError(
                "SWAG's learning rate and scale must be above 0; "
                f"they are {self.learning_rate} and {self.scale} (for one point take the posterior 'map')."
            )
        if self.snapshots < 2:
            raise UserError(f"SWAG needs at least 2 snapshots for a variance, and snapshots is {self.snapshots}.")
        if self.rank < 0 or self.rank == 1:
            raise UserError(f"SWAG's rank is 2 or more, or 0 for the diagonal alone; it is {self.rank}.")
        if self.training.steps < 3:
            raise UserError("SWAG needs at least 3 training steps: one to train, and two snapshots after it.")

    def fit(
        self,
        network: Callable[[], nn.Module],
        labelled: Labelled,
        *,
        generator: torch.Generator,
        on_step: Callable[[], object] | None = None,
    ) -> "SwagPosterior":
        """Trains one network, then follows it; see `activebdl.posteriors.InferenceMethod.fit`."""
        settling, wandering = self.phases(len(labelled))
        with global_rng_from(generator, labelled.device):
            module = network().to(labelled.device)
            self.check(module, labelled.inputs[:1])
            optimise(module, labelled, settling, generator=generator, on_step=on_step)
            path = Snapshots(self.rank)
            spaced = self._spaced(wandering.steps)
            done = 0

            def after_step() -> None:
                nonlocal done
                if done in spaced:
                    path.add(flat_weights(module))
                done += 1
                if on_step is not None:
                    on_step()

            optimise(module, labelled, wandering, generator=generator, done=settling.steps, on_step=after_step)
        module.eval().requires_grad_(False)
        return SwagPosterior(module, path.gaussian(self.scale), replace(labelled, unlabelled=None))

    def check(self, module: nn.Module, example: Tensor) -> None:
        """Refuses a network with running statistics that cannot be computed anew for a draw.

        Raises:
            UserError: As told, or the prior is on a parameter that the network does not have.
        """
        del example
        self.training.has_prior(module)
        for name, child in module.named_modules():
            if getattr(child, "running_mean", None) is not None and not isinstance(child, BATCH_NORM):
                raise UserError(
                    f"SWAG cannot compute the running statistics of '{name}' ({type(child).__name__}) anew for each "
                    "draw: use nn.BatchNorm, or a normalisation without running statistics."
                )

    def steps(self, n: int) -> int:
        """Optimiser steps that a fit to ``n`` labels takes, in both phases."""
        return self.training.total_steps(n)

    def phases(self, n: int) -> tuple[Training, Training]:
        """The training proper, and the part in which snapshots are taken, of a fit to ``n`` labels."""
        total = self.training.total_steps(n)
        wandering = min(max(2, round(self.share * total)), total - 1)
        return (
            replace(self.training, steps=total - wandering, steps_per_label=0.0),
            replace(
                self.training,
                steps=wandering,
                steps_per_label=0.0,
                optimizer=self.optimizer,
                learning_rate=self.learning_rate,
                schedule="constant",
            ),
        )

    def _spaced(self, steps: int) -> frozenset[int]:
        """After which of the steps, counted from 0, a snapshot is taken; the last one is among them."""
        count = min(self.snapshots, steps)
        return frozenset((i + 1) * steps // count - 1 for i in range(count))


class Snapshots:
    """The moments of points that come one by one, and the last ``rank`` of the points."""

    def __init__(self, rank: int) -> None:
        self.count = 0
        self._last: deque[Tensor] = deque(maxlen=rank)

    def add(self, point: Tensor) -> None:
        """Takes in one more point ``[P]``, in Welford's way, for which small variances of large numbers stay exact."""
        if self.count == 0:
            self._mean, self._squares = torch.zeros_like(point), torch.zeros_like(point)
        self.count += 1
        before = point - self._mean
        self._mean += before / self.count
        self._squares += before * (point - self._mean)
        self._last.append(point)

    def gaussian(self, scale: float = 1.0) -> "LowRankGaussian":
        """The Gaussian with the moments of the points so far."""
        last = torch.stack([*self._last]) if self._last else self._mean.new_empty(0, len(self._mean))
        deviations = last - self._mean  # [R, P]
        return LowRankGaussian(self._mean.clone(), self._squares / self.count, deviations, scale)


@dataclass(frozen=True)
class LowRankGaussian:
    """SWAG's q(theta); with fewer than two deviations, the diagonal alone at full weight.

    Args:
        mean: ``[P]``.
        variance: The diagonal S, ``[P]``.
        deviations: D, ``[R, P]``.
        scale: Of the standard deviation.
    """

    mean: Tensor
    variance: Tensor
    deviations: Tensor
    scale: float = 1.0

    def sample(self, generator: torch.Generator) -> Tensor:
        """One theta ``[P]``; z1 comes first from the generator, then z2."""
        rank = len(self.deviations)
        deviation = self.variance.sqrt() * self._noise(len(self.mean), generator)
        if rank >= 2:
            low_rank = self._noise(rank, generator) @ self.deviations
            deviation = deviation / math.sqrt(2) + low_rank / math.sqrt(2 * (rank - 1))
        return self.mean + self.scale * deviation

    def _noise(self, size: int, generator: torch.Generator) -> Tensor:
        return normal_like(self.mean.new_empty(size), generator)


@dataclass(frozen=True)
class SwagPosterior:
    """A network, and the Gaussian of its weights.

    Args:
        module: It is never changed, nor is its mode.
        gaussian: Of its parameters, in the order of ``named_parameters``.
        labelled: Of which batch normalisation takes the statistics of each draw.
    """

    module: nn.Module
    gaussian: LowRankGaussian
    labelled: Labelled

    def draw(self, k: int, *, generator: torch.Generator) -> WeightDraws:
        """K sets of weights; the first ones are the same however many are asked for."""
        with torch.no_grad():
            draws = [named_weights(self.module, self.gaussian.sample(generator)) for _ in range(k)]
            statistics = [batch_statistics(self.module, draw, self.labelled) for draw in draws]
        return WeightDraws(self.module, [draw | found for draw, found in zip(draws, statistics, strict=True)])


def flat_weights(module: nn.Module) -> Tensor:
    """All parameters as one vector ``[P]``, a copy, in float32 or better."""
    flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def named_weights(module: nn.Module, flat: Tensor) -> dict[str, Tensor]:
    """The parts of a vector ``[P]`` by the parameters' names."""
    parameters = dict(module.named_parameters())
    parts = flat.split([parameter.numel() for parameter in parameters.values()])
    return {
        name: part.view(parameter.shape).to(parameter.dtype)
        for (name, parameter), part in zip(parameters.items(), parts, strict=True)
    }


def batch_statistics(module: nn.Module, weights: Mapping[str, Tensor], labelled: Labelled) -> dict[str, Tensor]:
    """The statistics that batch normalisation has of the labelled items under these weights, by buffer name.

    They are means over chunks of about `CHUNK` items; dropout is inactive, images are not augmented.
    """
    layers = {name: child for name, child in module.named_modules() if _tracks(child)}
    fresh = {
        f"{name}.{key}".lstrip("."): torch.zeros_like(buffer)
        for name, child in layers.items()
        for key, buffer in child.named_buffers(recurse=False)
    }
    if not layers:
        return fresh
    inputs = labelled.inputs if len(labelled) > 1 else torch.cat([labelled.inputs] * 2)  # one has no variance
    with _measuring(module, list(layers.values())), torch.no_grad():
        for chunk in inputs.tensor_split(-(-len(inputs) // CHUNK)):
            call_with(module, {**weights, **fresh}, labelled.normalise(chunk))
    return fresh


def _tracks(child: nn.Module) -> bool:
    return isinstance(child, BATCH_NORM) and child.running_mean is not None


@contextlib.contextmanager
def _measuring(module: nn.Module, layers: list[Any]) -> Generator[None]:
    """Eval mode but for these layers of batch normalisation, which take the plain mean over the batches they see."""
    momenta = [layer.momentum for layer in layers]
    with evaluating(module):
        try:
            for layer in layers:
                layer.training, layer.momentum = True, None
            yield
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.training, layer.momentum = False, momentum
