"""The Laplace approximation (MacKay 1992; Daxberger et al. 2021, "Laplace Redux"): a Gaussian around trained weights.

    q(theta) = N(theta*, (H + lambda I)^-1),    H = GGN of  - sum_n log p(y_n | x_n, theta)  at theta*

theta* is what training found, and theta the weights and the bias of the last layer; the layers before it stay as they
are, so a draw is a sampled head over features that are computed once. The prior is N(0, I / lambda), and
its precision lambda the one that maximises the evidence, where P counts the weights:

    log p(y | lambda) ~= sum_n log p(y_n | x_n, theta*) - lambda/2 ||theta*||^2 + P/2 log lambda - 1/2 log|H + lambda I|

Where training drops units and augments, theta* is the mode of that noisy loss, and H and the first term of the evidence
are taken of it too: their means over several looks at the labelled items, with that noise. At the items as they are a
trained network has next to no loss and no curvature left, so the evidence asks for a prior so wide that draws from the
posterior know nothing (20 labels of MNIST: 11 % accuracy for 55 % of the network itself).

It needs no second training: `Laplace.from_trained` treats a network that is trained already.

B: items of a batch, K: draws, O: outputs of the network for one item, D: features, E: D, and 1 more for the bias.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activebdl.data.dataset import Labelled, Normalise
from activebdl.devices import float64
from activebdl.errors import UserError
from activebdl.likelihoods import Categorical, Likelihood
from activebdl.modes import evaluating
from activebdl.posteriors import posterior
from activebdl.posteriors._curvature import STRUCTURES, Curvature, best_precision
from activebdl.posteriors._last_layer import HeadDraws, LastLayer, drops
from activebdl.posteriors._linearised import LinearisedPosterior, all_weights_posterior, check_all_weights, check_known
from activebdl.randomness import global_rng_from, global_rng_kept
from activebdl.training import Training, check_outputs, train

MOST_WEIGHTS = 10_000
"""Of a layer whose full covariance is computed: 0.8 GB, and minutes for its eigenvalues."""


@posterior("laplace")
@dataclass(frozen=True)
class Laplace:
    """The Laplace approximation, for any module that ends with an nn.Linear layer.

    Args:
        training: How the network is trained.
        structure: What is kept of the last layer's GGN: all of it, its Kronecker factors, or its diagonal.
        prior_precision: lambda; None chooses the one with the highest evidence.
        looks: At every labelled item, with dropout and the training's augmentation, of which the mean is taken; 0 takes
            the items as they are, as one look does where there is neither.
        weights: "last" treats the last layer. "all" treats every linear and convolutional layer, with structure "kron"
            and draws that are linear in the weights (Immer et al. 2021); it needs the extra ``activebdl[laplace]``,
            and takes the items as they are, so after dropout or augmentation give it a ``prior_precision``.
    """

    training: Training = field(default_factory=Training)
    structure: Literal["full", "kron", "diag"] = "kron"
    prior_precision: float | None = None
    looks: int = 10
    weights: Literal["last", "all"] = "last"

    def __post_init__(self) -> None:
        if self.structure not in STRUCTURES:
            raise UserError(f"The structure is one of {', '.join(STRUCTURES)}, not '{self.structure}'.")
        if self.prior_precision is not None and not self.prior_precision > 0:
            raise UserError(f"The prior precision must be above 0, and is {self.prior_precision}; null chooses it.")
        if self.looks < 0:
            raise UserError(f"The looks at every item must not be negative, and are {self.looks}.")
        if self.weights not in ("last", "all"):
            raise UserError(f"The weights are 'last' or 'all', not '{self.weights}'.")
        if self.weights == "all" and self.structure != "kron":
            raise UserError(f"All weights are treated with structure 'kron' alone, not '{self.structure}'.")

    def fit(
        self,
        network: Callable[[], nn.Module],
        labelled: Labelled,
        *,
        generator: torch.Generator,
        on_step: Callable[[], object] | None = None,
    ) -> "LastLayerPosterior | LinearisedPosterior":
        """Trains one network and takes the curvature there; see `activebdl.posteriors.InferenceMethod.fit`.

        Raises:
            UserError: The module does not end with a linear layer, or that is too large for the structure, or the
                prior of the training is on a parameter that the module does not have.
        """
        with global_rng_kept(labelled.device):
            self.check(network().to(labelled.device), labelled.example)
        module = train(network, labelled, self.training, generator=generator, on_step=on_step)
        return self._around(module, labelled, generator)

    def from_trained(
        self,
        module: nn.Module,
        data: Labelled | tuple[Tensor, Tensor],
        *,
        generator: torch.Generator | None = None,
    ) -> "LastLayerPosterior | LinearisedPosterior":
        """The posterior around a network as it stands; nothing is trained.

        Args:
            module: A trained network, on the device of the data. It is copied, and neither its weights nor its mode
                change.
            data: What it was trained on; or its inputs ``[n, ...]``, as the network reads them, and classes ``[n]``.
                Where it was augmented, ``training.augmentation`` should be the same.
            generator: Of dropout and augmentation; when not given, they are the same each time.

        Raises:
            UserError: As for `fit`, and for data that do not fit the network.
        """
        labelled = data if isinstance(data, Labelled) else _classified(module, *data)
        if len(labelled) == 0:
            raise UserError("There is nothing to fit to: not one item is labelled.")
        module = copy.deepcopy(module).eval().requires_grad_(False)
        self.check_layers(module, labelled.example)
        return self._around(module, labelled, generator or torch.Generator().manual_seed(0))

    def check(self, module: nn.Module, example: Tensor) -> None:
        """Refuses a network that `fit` would refuse, before it is trained.

        Args:
            module: A fresh network.
            example: A normalised batch that it can read, two items, on its device.

        Raises:
            UserError: As for `fit`.
        """
        self.training.has_prior(module)
        self.check_layers(module, example)

    def check_likelihood(self, likelihood: Likelihood) -> None:
        """Refuses a likelihood that the approximation of all weights does not know."""
        if self.weights == "all":
            check_known(likelihood)

    def check_layers(self, module: nn.Module, example: Tensor) -> None:
        """Refuses a network, trained or not, whose layers cannot be treated; see `check`."""
        if self.weights == "all":
            check_all_weights(module, example)
            return
        count = LastLayer.of(module, example).mean.numel()
        if self.structure == "full" and count > MOST_WEIGHTS:
            raise UserError(
                f"The last layer of {type(module).__name__} has {count:,} weights, too many for their full covariance "
                f"(at most {MOST_WEIGHTS:,}): use structure 'kron' or 'diag'."
            )

    def steps(self, n: int) -> int:
        """Optimiser steps that a fit to ``n`` labels takes."""
        return self.training.total_steps(n)

    def _around(
        self, module: nn.Module, labelled: Labelled, generator: torch.Generator
    ) -> "LastLayerPosterior | LinearisedPosterior":
        if self.weights == "all":
            return all_weights_posterior(module, labelled, self.prior_precision)
        head, n = LastLayer.of(module, labelled.example), len(labelled)
        phi = self._look(head, labelled, generator)
        outputs, looks = phi @ head.mean.T, len(phi) // n  # [looks n, O]
        check_outputs(outputs[:n], n, labelled.likelihood.width)
        _refuse_unfinite(outputs, n)
        curvature = STRUCTURES[self.structure](_with_fisher(phi, outputs, labelled.likelihood, looks), head.mean)
        precision = self.prior_precision or best_precision(curvature.eigenvalues, head.mean)
        nll = float(labelled.likelihood.nll(outputs, labelled.labels.to(outputs.device).repeat(looks)))
        return LastLayerPosterior(head, curvature, precision, -n * nll)

    def _look(self, head: LastLayer, labelled: Labelled, generator: torch.Generator) -> Tensor:
        """What the last layer reads of the labelled items, look by look, and 1 for its bias: ``[looks n, E]``."""
        augmentation = self.training.augmentation if self.looks else None
        noisy = self.looks > 0 and (augmentation is not None or drops(head.module))
        found: list[Tensor] = []
        with global_rng_from(generator, labelled.device):  # which dropout obeys
            for _ in range(self.looks if noisy else 1):
                for chunk in labelled.inputs.split(256):
                    x = chunk if chunk.is_floating_point() else chunk.float()
                    x = labelled.normalise(x if augmentation is None else augmentation(x, generator))
                    found.append(float64(head.features(x, dropping=noisy)))
        phi = torch.cat(found)
        return F.pad(phi, (0, 1), value=1.0) if head.bias else phi


class LastLayerPosterior:
    """A Gaussian over the weights of the last layer.

    Args:
        head: The trained network.
        curvature: Of the negative log-likelihood of the labelled items.
        prior_precision: lambda.
        log_likelihood: Of the labelled items at the trained weights, in nats.
    """

    def __init__(self, head: LastLayer, curvature: Curvature, prior_precision: float, log_likelihood: float) -> None:
        self.head, self.curvature = head, curvature
        self.prior_precision, self.log_likelihood = prior_precision, log_likelihood

    @property
    def module(self) -> nn.Module:
        """The trained network."""
        return self.head.module

    @property
    def mean(self) -> Tensor:
        """``theta* [O, E]``, float64; the last column is the bias, where there is one."""
        return self.head.mean

    def draw(self, k: int, *, generator: torch.Generator) -> "HeadDraws":
        """K heads; the first ones are the same however many are asked for."""
        noise = [torch.randn(self.mean.shape, generator=generator, dtype=torch.float64) for _ in range(k)]
        white = torch.stack(noise).to(self.mean.device)
        return HeadDraws(self.head, self.mean + self.curvature.scale(white, self.prior_precision))

    def features(self, x: Tensor) -> Tensor:
        """What the last layer reads, ``[B, ...] -> [B, D]``: the same for all draws."""
        return self.head.features(x)

    def covariance(self) -> Tensor:
        """``(H + lambda I)^-1 [P, P]``, float64, in the order of ``mean.flatten()``."""
        count = self.mean.numel()
        if count > MOST_WEIGHTS:
            raise UserError(f"The covariance of {count:,} weights is too large to be held whole.")
        identity = torch.eye(count, dtype=self.mean.dtype, device=self.mean.device)
        root = self.curvature.scale(identity.view(count, *self.mean.shape), self.prior_precision).flatten(1)
        return root.T @ root

    def log_evidence(self, prior_precision: float | None = None) -> float:
        """The Laplace approximation of ``log p(y | lambda)``, in nats; at the posterior's own lambda when not given."""
        precision = prior_precision or self.prior_precision
        shrinkage = (self.curvature.eigenvalues / precision).log1p().sum() / 2  # log|I + H / lambda| / 2
        return self.log_likelihood - float(precision / 2 * self.mean.square().sum() + shrinkage)


def _with_fisher(phi: Tensor, outputs: Tensor, likelihood: Likelihood, looks: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of ``phi`` with the Fisher information ``[B, O, O]`` of a look, so small that many classes fit too."""
    size = max(1, min(256, 2**24 // outputs.shape[1] ** 2))
    for rows, chunk in zip(phi.split(size), outputs.split(size), strict=True):
        yield rows, likelihood.fisher(chunk) / looks


def _refuse_unfinite(outputs: Tensor, n: int) -> None:
    bad = ~torch.isfinite(outputs).all(1)
    if bool(bad.any()):
        item = int(bad.nonzero()[0]) % n
        raise UserError(f"The network's output for labelled item {item} is not finite: train it anew.")


def _classified(module: nn.Module, inputs: Tensor, labels: Tensor) -> Labelled:
    """Labelled items of as many classes as the network has outputs."""
    if labels.is_floating_point() or labels.shape != inputs.shape[:1]:
        raise UserError(
            f"Classes are one integer for each of the {len(inputs)} items, not {labels.dtype} of shape "
            f"{list(labels.shape)}; for another likelihood give a Labelled."
        )
    with evaluating(module), torch.no_grad():
        classes = module(Normalise()(inputs[:2])).shape[-1]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(f"Classes run from 0 to {classes - 1}, the network's outputs; the labels do not.")
    return Labelled(inputs, labels.long(), Categorical(classes))
