"""The estimators of Bayes by Backprop: the moments of their outputs are those of drawn weights."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from activebdl.posteriors._bayesian_layers import ESTIMATORS, GaussianPrior, MeanField

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "linear_without_bias": (lambda: nn.Linear(4, 3, bias=False), (2, 4)),
    "linear_on_sequences": (lambda: nn.Linear(4, 3), (2, 3, 4)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2), (2, 2, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2), (2, 4, 5, 5)),
    "conv2d_dilated_circular": (
        lambda: nn.Conv2d(2, 2, 2, dilation=2, padding=1, padding_mode="circular"),
        (2, 2, 4, 4),
    ),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, bias=False), (2, 1, 2, 3, 3)),
}
DRAWS = 4000


@pytest.fixture(scope="module")
def outputs() -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """Of every layer: what drawn weights give, and what each estimator gives, ``[DRAWS, B, ...]``."""
    torch.manual_seed(0)
    found: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
    for name, (make, shape) in LAYERS.items():
        layer, x = make().double().requires_grad_(False), torch.randn(shape, dtype=torch.double)
        sds = {key: torch.rand_like(p) for key, p in layer.named_parameters()}

        def by_weights(layer: nn.Module = layer, x: Tensor = x, sds: dict[str, Tensor] = sds) -> Tensor:
            weights = {key: p + sds[key] * torch.randn_like(p) for key, p in layer.named_parameters()}
            return functional_call(layer, weights, (x,))

        given = {
            key: torch.stack([estimate(layer, x, sds) for _ in range(DRAWS)]) for key, estimate in ESTIMATORS.items()
        }
        found[name] = torch.stack([by_weights() for _ in range(DRAWS)]), given
    return found


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", LAYERS)
def test_each_output_has_the_moments_that_drawn_weights_give(outputs: Any, name: str, estimator: str) -> None:
    """To 5 standard errors: of a mean sqrt(variance / draws), of a Gaussian's variance sqrt(2 / draws) of it."""
    brute, given = outputs[name][0], outputs[name][1][estimator]
    variance = brute.var(0)
    assert variance.min() > 0
    assert ((given.mean(0) - brute.mean(0)).abs() < 5 * (2 * variance / DRAWS).sqrt()).all()
    assert ((given.var(0) / variance - 1).abs() < 5 * math.sqrt(2 * 2 / DRAWS)).all()


@pytest.mark.parametrize("name", LAYERS)
def test_flipout_keeps_what_binds_the_places_of_one_item(outputs: Any, name: str) -> None:
    """An item's outputs have the covariance that drawn weights give; to 5 standard errors of each."""
    brute, given = (found[:, 0].flatten(1) for found in (outputs[name][0], outputs[name][1]["flipout"]))
    scale = brute.std(0)[:, None] * brute.std(0)
    assert ((given.T.cov() - brute.T.cov()).abs() < 5 * math.sqrt(2 * 2 / DRAWS) * scale).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_items_of_a_batch_have_noise_of_their_own(estimator: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3).requires_grad_(False), torch.randn(1, 4).repeat(2, 1)
    sds = {name: torch.full_like(p, 0.3) for name, p in layer.named_parameters()}
    drawn = torch.stack([ESTIMATORS[estimator](layer, x, sds) for _ in range(DRAWS)])  # [DRAWS, 2, 3]
    for output in (drawn - layer(x)).unbind(2):
        assert abs(float(output.T.corrcoef()[0, 1])) < 5 / math.sqrt(DRAWS)
        # Flipout's signs of the inputs: with those of the outputs alone, two items would differ in sign and no more
        assert float(output.abs().T.corrcoef()[0, 1]) < 0.9


def test_outputs_are_drawn_in_train_mode_alone_and_only_while_sampling() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    field = MeanField(layer, GaussianPrior(1), initial_scale=0.1, estimator=ESTIMATORS["local"])
    assert not torch.equal(field(x), layer(x))
    assert torch.equal(field.eval()(x), layer(x))
    field.train().sampling = False
    assert torch.equal(field(x), layer(x))


def test_inputs_that_are_all_zero_give_no_nan_gradient() -> None:
    layer = MeanField(nn.Linear(3, 2, bias=False), GaussianPrior(1), initial_scale=0.1, estimator=ESTIMATORS["local"])
    layer(torch.zeros(4, 3)).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)
