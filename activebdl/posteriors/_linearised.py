"""The Laplace approximation over all weights, by laplace-torch, with draws that are linear in the weights.

    f_k(x) = f(x, theta*) + J(x) (theta_k - theta*),    theta_k ~ N(theta*, (H + lambda I)^-1)

H is the Kronecker-factored GGN (Martens and Grosse 2015; Ritter et al. 2018). The GGN is the curvature of this
linearised network, and draws of the network itself from it underfit (Immer et al. 2021).

B: items of a batch, K: draws, O: outputs of the network for one item, P: weights that are treated.
"""

import importlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.utils.data import DataLoader, TensorDataset

from activebdl.data.dataset import Labelled
from activebdl.errors import UserError
from activebdl.likelihoods import Categorical, Gaussian, Likelihood
from activebdl.modes import evaluating
from activebdl.posteriors._layers import called_layers
from activebdl.posteriors._shared import OutputDraws
from activebdl.randomness import global_rng_kept
from activebdl.training import check_outputs


def check_all_weights(module: nn.Module, example: Tensor) -> None:
    """Refuses a module without layers that can be treated, and a machine without laplace-torch.

    Args:
        module: A network.
        example: A normalised batch that it can read, on its device.

    Raises:
        UserError: With what is missing.
    """
    _laplace_torch()
    _treated(module, example)


def all_weights_posterior(
    module: nn.Module, labelled: Labelled, prior_precision: float | None
) -> "LinearisedPosterior":
    """The posterior around a trained module, over its Linear and Conv2d layers.

    Args:
        module: In eval mode. Which of its parameters want gradients is changed.
        labelled: What it was trained on.
        prior_precision: None chooses the one with the highest evidence.

    Raises:
        UserError: The likelihood is not one that laplace-torch knows, or the outputs do not fit it.
    """
    library = _laplace_torch()
    inputs, labels, known = _prepared(labelled)
    with torch.no_grad():
        check_outputs(module(inputs[:1]), 1, labelled.likelihood.width)
    names = _treated(module, inputs[:1])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
    with global_rng_kept(labelled.device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library warns of is its own use of torch
        fitted = library.Laplace(module, subset_of_weights="all", hessian_structure="kron", **known)
        fitted.fit(DataLoader(TensorDataset(inputs, labels), batch_size=256))
        if prior_precision is None:
            fitted.optimize_prior_precision(method="marglik")
        else:
            fitted.prior_precision = prior_precision
    module.requires_grad_(False)
    return LinearisedPosterior(module, names, fitted)


@dataclass(frozen=True)
class LinearisedPosterior:
    """A Gaussian over all weights of the treated layers.

    Args:
        module: The trained network. It is never changed, nor is its mode.
        names: Of the P weights, parameter by parameter, in the order of laplace-torch's vectors.
        fitted: The ``KronLaplace`` of laplace-torch.
    """

    module: nn.Module
    names: Sequence[str]
    fitted: Any

    @property
    def prior_precision(self) -> float:
        """Of the Gaussian prior, lambda."""
        return float(self.fitted.prior_precision)

    def log_evidence(self, prior_precision: float | None = None) -> float:
        """The Laplace approximation of ``log p(y | lambda)``, in nats; at the posterior's own lambda when not given."""
        precision = torch.tensor(prior_precision or self.prior_precision)
        with torch.no_grad():
            return float(self.fitted.log_marginal_likelihood(precision))

    def draw(self, k: int, *, generator: torch.Generator) -> "LinearisedDraws":
        """K functions; the first ones are the same however many are asked for."""
        mean = self.fitted.mean
        steps: list[Mapping[str, Tensor]] = []
        for _ in range(k):
            noise = torch.randn(1, len(mean), generator=generator, dtype=mean.dtype).to(mean.device)
            with torch.no_grad():
                step = self.fitted.posterior_precision.bmm(noise, exponent=-0.5).flatten()
            shapes = {name: self.module.get_parameter(name).shape for name in self.names}
            parts = step.split([shape.numel() for shape in shapes.values()])
            steps.append({name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)})
        return LinearisedDraws(self.module, steps)


@dataclass(frozen=True)
class LinearisedDraws(OutputDraws):
    """K functions that are linear in the weights.

    Args:
        module: The trained network. It is never changed, nor is its mode.
        steps: For each draw, by name, ``theta_k - theta*``.
    """

    module: nn.Module
    steps: Sequence[Mapping[str, Tensor]]

    @property
    def count(self) -> int:
        """K."""
        return len(self.steps)

    def outputs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, O]``, by one Jacobian-vector product a draw."""
        # Forward-mode differentiation does not work within inference mode.
        with evaluating(self.module), torch.inference_mode(False), torch.no_grad():
            centre = {name: self.module.get_parameter(name) for name in self.steps[0]}

            def network(weights: dict[str, Tensor]) -> Tensor:
                return functional_call(self.module, weights, (x,))

            def draw(step: Mapping[str, Tensor]) -> Tensor:
                found = jvp(network, (centre,), (dict(step),))
                return found[0] + found[1]

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of torch.jit, that jvp uses when it is first called
                return torch.stack([draw(step) for step in self.steps], dim=1)


def _laplace_torch() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("laplace")
    except ImportError as error:
        raise UserError(
            "The Laplace approximation of all weights needs laplace-torch: pip install 'activebdl[laplace]'; "
            "or choose weights 'last'."
        ) from error


def _treated(module: nn.Module, x: Tensor) -> list[str]:
    """The names of the weights and biases of Linear and Conv2d layers, in the order of the module's parameters."""
    layers = [module.get_submodule(name) for name in called_layers(module, x)]
    treated = {id(p) for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d) for p in layer.parameters()}
    if not treated:
        raise UserError(f"{type(module).__name__} calls no nn.Linear or nn.Conv2d layer; choose weights 'last'.")
    return [name for name, parameter in module.named_parameters() if id(parameter) in treated]


def _prepared(labelled: Labelled) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The items, normalised, their labels, and the likelihood, as laplace-torch wants them."""
    check_known(labelled.likelihood)
    inputs = labelled.normalise(labelled.inputs)
    if isinstance(labelled.likelihood, Gaussian):
        targets = labelled.labels[:, None].to(inputs.dtype)
        return inputs, targets, {"likelihood": "regression", "sigma_noise": labelled.likelihood.noise}
    return inputs, labelled.labels, {"likelihood": "classification"}


def check_known(likelihood: Likelihood) -> None:
    """Refuses a likelihood that laplace-torch does not know.

    Raises:
        UserError: It is neither of classes nor of Gaussian noise of one size.
    """
    if not isinstance(likelihood, Categorical | Gaussian):
        raise UserError(
            "The Laplace approximation of all weights knows classes and Gaussian noise of one size, not "
            f"{type(likelihood).__name__}; choose weights 'last'."
        )
