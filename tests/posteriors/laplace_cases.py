"""Small networks and data for Laplace, its last layer around them, and the truths that it meets."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from activebdl import Training
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical
from activebdl.posteriors.laplace import Laplace, LastLayerPosterior
from tests.posteriors.modules import seeded

Structure = Literal["full", "kron", "diag"]
EVERY: Any = pytest.mark.parametrize("structure", ["full", "kron", "diag"])
SHORT = Training(steps=20, batch_size=8)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.double)


def made(network: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network().double()


def regressor() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 3))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.4),
        nn.Linear(12, 3),
    )  # fmt: skip


def classes(n: int = 12, seed: int = 1) -> Labelled:
    return Labelled(normal(n, 3, seed=seed), torch.arange(n) % 3, Categorical(3))


def images(n: int = 12, seed: int = 1) -> Labelled:
    return Labelled(normal(n, 1, 6, 6, seed=seed), torch.arange(n) % 3, Categorical(3))


def single(data: Labelled) -> Labelled:
    return Labelled(data.inputs.float(), data.labels, data.likelihood, data.normalise)


def last_layer(module: nn.Module, **options: Any) -> LastLayerPosterior:
    """Around the items as they are, unless the options say otherwise."""
    options = {"looks": 0, **options}
    data = options.pop("data", None) or (images() if isinstance(next(module.children()), nn.Conv2d) else classes())
    found = Laplace(**options).from_trained(module, data)
    assert isinstance(found, LastLayerPosterior)
    return found


def phi_of(module: nn.Module, x: Tensor) -> Tensor:
    """Features and a column of ones ``[n, E]``, by taking the last layer of a Sequential off."""
    assert isinstance(module, nn.Sequential)
    with torch.no_grad():
        return torch.cat([module.eval()[:-1](x), torch.ones(len(x), 1, dtype=x.dtype)], dim=1)


def fishers(module: nn.Module, x: Tensor) -> list[Tensor]:
    """``diag(p) - p p^T`` of each item, written out."""
    with torch.no_grad():
        return [p.diag() - torch.outer(p, p) for p in module.eval()(x).softmax(-1)]


def conjugate(phi: Tensor, y: Tensor, noise: float, precision: float) -> tuple[Tensor, Tensor, float]:
    """Mean, covariance and log evidence of Bayesian linear regression."""
    covariance = torch.linalg.inv(phi.T @ phi / noise**2 + precision * torch.eye(phi.shape[1], dtype=torch.double))
    marginal = noise**2 * torch.eye(len(phi), dtype=torch.double) + phi @ phi.T / precision
    evidence = MultivariateNormal(torch.zeros(len(phi), dtype=torch.double), marginal).log_prob(y)
    return covariance @ phi.T @ y / noise**2, covariance, float(evidence)
