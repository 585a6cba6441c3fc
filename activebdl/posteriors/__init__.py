"""Inference methods: what is believed about the network after seeing the labels. One file each.

Every method is a frozen dataclass of its hyperparameters with one verb, ``fit``; it gives a `Posterior`, which is
sampled with ``draw``; `Draws` are K functions from the posterior, each the same for every input, whatever the batch.

B: items of a batch, K: draws, C: classes, D: features.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from activebdl.data.dataset import Labelled
from activebdl.errors import UserError
from activebdl.registry import Registry

__all__ = ["Draws", "InferenceMethod", "Posterior", "posterior", "posteriors"]


class Draws(Protocol):
    """K functions drawn from a posterior.

    Where labels are numbers, they are predicted from ``outputs(x [B, ...]) -> [B, K, O]``, which all of ours have too.
    """

    @property
    def count(self) -> int:
        """K."""
        ...

    def log_probs(self, x: Tensor) -> Tensor:
        """Log-probabilities in nats, ``[B, ...] -> [B, K, C]``, of inputs that are normalised and on the device."""
        ...


class Posterior(Protocol):
    """What is believed about the network, given the labels.

    One that can tell how its fit went has an attribute ``diagnostics``, numbers by name, which every round records.
    """

    def draw(self, k: int, *, generator: torch.Generator) -> Draws:
        """Draws K functions, independently.

        From generators in the same state, the first of many draws should be those of a call for fewer: a race's early
        heats then see some of the draws that the last sees, and misjudge less.
        """
        ...


class InferenceMethod(Protocol):
    """A way to get a posterior; its fields are its hyperparameters.

    A method whose draws are all the same function says so by a class attribute ``draws_agree = True``; one whose
    posterior has no attribute ``module``, the trained network, by ``has_features = False``. One that cannot treat every
    network may have ``check(module, example)``, called with a fresh network and two normalised items before any label
    is asked for; and ``check_likelihood(likelihood)``, when it cannot treat every kind of label.
    """

    def fit(
        self,
        network: Callable[[], nn.Module],
        labelled: Labelled,
        *,
        generator: torch.Generator,
        on_step: Callable[[], object] | None = None,
    ) -> Posterior:
        """Fits a fresh network, on the device where the labelled items lie.

        Args:
            network: Makes a fresh ``nn.Module`` that maps ``[B, ...]`` to logits ``[B, C]``.
            labelled: What is known.
            generator: The source of all randomness of the fit.
            on_step: Called after every optimiser step, for a progress bar.
        """
        ...

    def steps(self, n: int) -> int:
        """Optimiser steps that a fit to ``n`` labels takes."""
        ...


M = TypeVar("M", bound=type[Any])


def _adopt(name: str, found: object) -> type[InferenceMethod]:
    if not (isinstance(found, type) and callable(getattr(found, "fit", None))):
        raise UserError(f"The posterior '{name}' must be a class with a method fit(network, labelled, *, generator).")
    return cast(type[InferenceMethod], found)


posteriors: Registry[type[InferenceMethod]] = Registry("posterior", "activebdl.posteriors", _adopt)


def posterior(name: str) -> Callable[[M], M]:
    """Registers an inference method, a frozen dataclass."""
    return posteriors.decorator(name, lambda method: method)
