"""Bayes by Backprop meets the known optimum of a mean field; its KL is that of torch and of quadrature."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical as Choice
from torch.distributions import MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from activebdl import Training
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical, Gaussian
from activebdl.posteriors._bayesian_layers import ESTIMATORS, GaussianPrior, MeanField, MixturePrior, Prior
from activebdl.posteriors.bayes_by_backprop import BayesByBackprop
from tests.conftest import blobs, small_network
from tests.posteriors.modules import seeded

# ---- the posterior, where it is known ----


class Line:
    """Bayesian linear regression with known noise and its exact answers, in float64."""

    noise, n, d = 0.5, 30, 4

    def __init__(self) -> None:
        mix = torch.tensor([[1, 0.6, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, -0.4], [0, 0, 0, 1]])
        x = torch.randn(self.n, self.d, generator=seeded(3)) @ mix
        y = x @ torch.randn(self.d, generator=seeded(4)) + 0.3 + self.noise * torch.randn(self.n, generator=seeded(5))
        self.labelled = Labelled(x, y, Gaussian(self.noise))
        self.prior_variance = 2 / self.d
        self.design, self.y = torch.cat([x, torch.ones(self.n, 1)], dim=1).double(), y.double()
        self.precision = self.design.T @ self.design / self.noise**2 + torch.eye(self.d + 1) / self.prior_variance
        self.mean = torch.linalg.solve(self.precision, self.design.T @ self.y / self.noise**2)
        covariance = self.noise**2 * torch.eye(self.n) + self.prior_variance * self.design @ self.design.T
        self.evidence = float(MultivariateNormal(torch.zeros(self.n).double(), covariance).log_prob(self.y))
        # KL(q || p) of the best q, whose variances are 1 / diag(precision)
        self.gap = 0.5 * float(self.precision.diagonal().log().sum() - torch.logdet(self.precision))

    def elbo(self, mean: Tensor, sd: Tensor) -> float:
        errors = (self.y - self.design @ mean).square() + self.design.square() @ sd.square()
        fit = -errors.sum() / (2 * self.noise**2) - self.n * (math.log(self.noise) + 0.5 * math.log(2 * math.pi))
        prior = Normal(torch.zeros_like(mean), math.sqrt(self.prior_variance))
        return float(fit - kl_divergence(Normal(mean, sd), prior).sum())


@pytest.mark.parametrize(("estimator", "tolerance"), [("local", 0.015), ("flipout", 0.05)])
def test_linear_regression_meets_the_best_mean_field(estimator: Any, tolerance: float) -> None:
    """Means those of the exact posterior, variances 1 / diag(precision), the ELBO short of the evidence by their KL."""
    line = Line()
    training = Training(steps=4000, batch_size=10 * line.n, learning_rate=0.01)  # each item ten times in every batch
    method = BayesByBackprop(training, estimator=estimator, kl_weight=1.0)
    found = method.fit(lambda: nn.Linear(line.d, 1), line.labelled, generator=seeded())
    mean = torch.cat([p.flatten() for p in found.module.parameters()]).double()
    sd = torch.cat([found.sds[name].flatten() for name in ("weight", "bias")]).double()
    exact = line.precision.inverse().diagonal().sqrt()
    assert ((mean - line.mean) / exact).abs().max() < 2 * tolerance
    best = line.precision.diagonal().rsqrt()
    torch.testing.assert_close(sd, best, rtol=tolerance, atol=0)
    assert (exact / best).max() > 1.15  # the test can tell a mean field from the full posterior
    assert line.gap > 0.2
    assert line.evidence - line.gap - 0.02 < line.elbo(mean, sd) < line.evidence - line.gap + 1e-6 < line.evidence
    told = -line.n * found.diagnostics["loss"]  # the noise of the last draws is in it
    assert abs(told - line.elbo(mean, sd)) < 0.1
    assert told < line.evidence


# ---- the KL ----


@pytest.mark.parametrize(
    ("layer", "fan_in"), [(nn.Linear(5, 3), 5), (nn.Linear(5, 3, bias=False), 5), (nn.Conv2d(4, 6, 3, groups=2), 18)]
)
def test_the_gaussian_kl_is_that_of_torch(layer: nn.Module, fan_in: int) -> None:
    field = MeanField(layer.double(), GaussianPrior(0.7), initial_scale=0.1, estimator=ESTIMATORS["local"]).double()
    for rho in field.rho.values():
        nn.init.normal_(rho)
    prior = Normal(0, torch.tensor(0.7 * math.sqrt(2 / fan_in), dtype=torch.double))
    expected = torch.stack(
        [kl_divergence(Normal(p, field.sds()[name]), prior).sum() for name, p in layer.named_parameters()]
    ).sum()
    torch.testing.assert_close(field.kl(), expected, rtol=1e-12, atol=0)


def test_the_mixture_is_that_of_torch_and_its_kl_that_of_quadrature() -> None:
    unit, prior = 0.4, MixturePrior(0.3, 1.5, 0.2)
    known = MixtureSameFamily(Choice(torch.tensor([0.3, 0.7]).double()), Normal(0.0, unit * torch.tensor([1.5, 0.2])))
    w = torch.linspace(-3, 3, 20001, dtype=torch.double)
    torch.testing.assert_close(prior.log_prob(w, unit), known.log_prob(w), rtol=1e-6, atol=1e-6)
    mean, sd = torch.tensor([0.0, 0.3, -0.5]).double(), torch.tensor([0.05, 0.3, 0.2]).double()
    q = Normal(mean[:, None], sd[:, None])
    exact = torch.trapezoid(q.log_prob(w).exp() * (q.log_prob(w) - known.log_prob(w)), w).sum()
    torch.manual_seed(0)
    draws = torch.stack([prior.kl(mean, sd, unit) for _ in range(20000)])
    assert abs(draws.mean() - exact) < 5 * draws.std() / math.sqrt(len(draws))
    assert draws.std() / math.sqrt(len(draws)) < 0.01 * exact


def test_priors_keep_their_contract() -> None:
    """With both parts alike the mixture is the Gaussian, whose KL is exact."""
    torch.manual_seed(0)
    mean, sd = torch.randn(50).double() * 0.3, torch.rand(50).double() * 0.2 + 0.01
    alike: Prior = MixturePrior(0.4, 0.8, 0.8)
    draws = torch.stack([alike.kl(mean, sd, 0.5) for _ in range(4000)])
    exact = GaussianPrior(0.8).kl(mean, sd, 0.5)
    assert abs(draws.mean() - exact) < 5 * draws.std() / math.sqrt(len(draws))


def test_kl_is_summed_over_all_weights_and_divided_by_the_number_of_labels() -> None:
    def first(n: int, **options: Any) -> dict[str, float]:
        method = BayesByBackprop(Training(steps=1, batch_size=4), map_start=0.0, kl_warmup=0.0, **options)
        x, y = blobs(n)
        trace = method.fit(small_network, Labelled(x, y, Categorical(3)), generator=seeded()).trace
        return {name: float(values[0]) for name, values in trace.items()}

    at_10 = first(10, kl_weight=0.5)
    assert math.isclose(10 * at_10["kl"], 40 * first(40)["kl"], rel_tol=1e-5)
    assert math.isclose(at_10["loss"], at_10["nll"] + 0.5 * at_10["kl"], rel_tol=1e-5)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=seeded())))
        module = small_network()
    expected = 0.0
    for layer in (module.get_submodule("0"), module.get_submodule("3")):
        unit = math.sqrt(2 / layer.get_parameter("weight").shape[1])
        for mean in layer.parameters():
            q = Normal(mean.detach(), torch.full_like(mean, BayesByBackprop().initial_scale * unit))
            expected += float(kl_divergence(q, Normal(0.0, unit)).sum())
    assert math.isclose(10 * at_10["kl"], expected, rel_tol=1e-4)


def test_the_kl_comes_in_after_the_map_start() -> None:
    method = BayesByBackprop(Training(steps=20, batch_size=4), kl_weight=0.8, map_start=0.25, kl_warmup=0.4)
    found = method.fit(small_network, Labelled(*blobs(10), Categorical(3)), generator=seeded())
    trace = found.trace
    assert bool(trace["kl"][:5].isnan().all()) and torch.equal(trace["loss"][:5], trace["nll"][:5])
    assert found.diagnostics == {name: float(values[-1]) for name, values in trace.items()}  # a tenth of 15 steps
    weight = (trace["loss"] - trace["nll"])[5:] / trace["kl"][5:]
    expected = 0.8 * torch.tensor([1, 2, 3, 4, 5, *[6] * 10]) / 6
    torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-4)
