import math

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Normal

from activebdl import UserError
from activebdl.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood

OUTPUTS = {width: torch.randn(5, width, dtype=torch.double) for width in (1, 2, 3)}
NUMBERS = torch.randn(5, dtype=torch.double)
CASES: list[tuple[Likelihood, Tensor]] = [
    (Categorical(3), torch.tensor([0, 2, 1, 1, 0])),
    (Gaussian(0.3), NUMBERS),
    (HeteroscedasticGaussian(), NUMBERS),
]


def density(likelihood: Likelihood, outputs: Tensor) -> Distribution:
    if isinstance(likelihood, Categorical):
        return TorchCategorical(logits=outputs)
    if isinstance(likelihood, Gaussian):
        return Normal(outputs[:, 0], likelihood.noise)
    return Normal(outputs[:, 0], (outputs[:, 1] / 2).exp())


@pytest.mark.parametrize(("likelihood", "targets"), CASES)
def test_nll_is_minus_the_log_of_the_density(likelihood: Likelihood, targets: Tensor) -> None:
    outputs = OUTPUTS[likelihood.width]
    expected = -density(likelihood, outputs).log_prob(targets).mean()
    torch.testing.assert_close(likelihood.nll(outputs, targets), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("likelihood", "targets"), CASES)
def test_the_fisher_information_is_the_mean_of_the_squared_gradient(likelihood: Likelihood, targets: Tensor) -> None:
    """By the definition: targets drawn from the density itself."""
    outputs = OUTPUTS[likelihood.width][:1]
    many = outputs.repeat(200_000, 1).requires_grad_()
    drawn = density(likelihood, outputs.repeat(200_000, 1)).sample()
    (scores,) = torch.autograd.grad(likelihood.nll(many, drawn) * len(many), many)
    found = scores.T @ scores / len(scores)
    assert (found - likelihood.fisher(outputs)[0]).abs().max() < 0.02 * likelihood.fisher(outputs).abs().max()


@pytest.mark.parametrize(("likelihood", "targets"), CASES[:2])
def test_the_fisher_information_is_the_hessian_of_the_loss(likelihood: Likelihood, targets: Tensor) -> None:
    """True of every exponential family in its natural parameters, which these outputs are."""
    outputs = OUTPUTS[likelihood.width]
    for b in range(len(outputs)):
        found = hessian(lambda row, b=b: likelihood.nll(row[None], targets[b : b + 1]), outputs[b])
        assert isinstance(found, Tensor)
        torch.testing.assert_close(likelihood.fisher(outputs)[b], found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("likelihood", [Gaussian(0.3), HeteroscedasticGaussian()])
def test_moments_are_those_of_the_density(likelihood: Gaussian | HeteroscedasticGaussian) -> None:
    outputs = OUTPUTS[likelihood.width]
    mean, variance = likelihood.moments(outputs)
    torch.testing.assert_close(mean, density(likelihood, outputs).mean)
    torch.testing.assert_close(variance, density(likelihood, outputs).variance)


def test_beta_decides_how_much_noise_excuses() -> None:
    """The gradient with respect to the mean is ``(mean - y) variance^(beta - 1)``."""
    outputs = torch.tensor([[0.0, math.log(4.0)]], dtype=torch.double, requires_grad=True)
    for beta, expected in ((0.0, -1 / 4), (0.5, -1 / 2), (1.0, -1.0)):
        loss = HeteroscedasticGaussian(beta).loss(outputs, torch.tensor([1.0], dtype=torch.double))
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert abs(float(gradient[0, 0]) - expected) < 1e-12


def test_no_output_is_too_large() -> None:
    outputs = torch.tensor([[0.0, 1e6], [0.0, -1e6]])
    assert HeteroscedasticGaussian().nll(outputs, torch.ones(2)).isfinite()


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match=r"must be above 0, and is 0\.0"):
        Gaussian(0.0)
    with pytest.raises(UserError, match="beta of a heteroscedastic Gaussian is from 0 to 1, and is 2"):
        HeteroscedasticGaussian(2)
