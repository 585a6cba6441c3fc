import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal

from activebdl import UserError
from activebdl.likelihoods import Categorical, Gaussian, Likelihood

OUTPUTS = {3: torch.randn(5, 3, dtype=torch.double), 1: torch.randn(5, 1, dtype=torch.double)}
CASES = [
    (Categorical(3), torch.tensor([0, 2, 1, 1, 0])),
    (Gaussian(0.3), torch.randn(5, dtype=torch.double)),
]


@pytest.mark.parametrize(("likelihood", "targets"), CASES)
def test_the_loss_is_minus_the_log_of_the_density(likelihood: Likelihood, targets: Tensor) -> None:
    outputs = OUTPUTS[likelihood.width]
    density = TorchCategorical(logits=outputs) if likelihood.width == 3 else Normal(outputs[:, 0], 0.3)
    torch.testing.assert_close(likelihood.nll(outputs, targets), -density.log_prob(targets).mean(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("likelihood", "targets"), CASES)
def test_the_fisher_information_is_the_hessian_of_the_loss(likelihood: Likelihood, targets: Tensor) -> None:
    """True of every exponential family in its natural parameters, which these outputs are."""
    outputs = OUTPUTS[likelihood.width]
    for b in range(len(outputs)):
        found = hessian(lambda row, b=b: likelihood.nll(row[None], targets[b : b + 1]), outputs[b])
        assert isinstance(found, Tensor)
        torch.testing.assert_close(likelihood.fisher(outputs)[b], found, rtol=0, atol=1e-12)


def test_noise_must_be_above_zero() -> None:
    with pytest.raises(UserError, match=r"must be above 0, and is 0\.0"):
        Gaussian(0.0)
