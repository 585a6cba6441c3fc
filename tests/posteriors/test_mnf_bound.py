"""MNF's bound: against exact divergences, whatever the auxiliary is, and against an exact evidence."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import Training
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical, Gaussian
from activebdl.posteriors.mnf import MNF, MultiplicativeLayer
from tests.conftest import blobs, small_network
from tests.posteriors.mnf_cases import (
    EVERY,
    LAYERS,
    classes,
    distribution_given,
    layer,
)
from tests.posteriors.modules import seeded


def divergence(q: torch.distributions.Distribution, p: torch.distributions.Distribution) -> Tensor:
    return torch.distributions.kl_divergence(q, p).sum()


def mean_and_error(samples: Tensor) -> tuple[float, float]:
    return float(samples.mean()), float(samples.std()) / math.sqrt(len(samples))


@EVERY
@pytest.mark.parametrize("prior_scale", [0.5, 2.0])
def test_the_divergence_given_z_is_that_of_torch(name: str, prior_scale: float) -> None:
    made = layer(LAYERS[name][0](), prior_scale=prior_scale)
    fan_in = made.mu[0].numel()
    prior = torch.distributions.Normal(torch.zeros((), dtype=torch.double), prior_scale * math.sqrt(2 / fan_in))
    for z in torch.randn(3, len(made.q.mean), generator=seeded(1), dtype=torch.double):
        expected = divergence(distribution_given(made, z), prior)
        if made.bias is not None and made.bias_log_sigma is not None:
            expected = expected + divergence(torch.distributions.Normal(made.bias, made.bias_log_sigma.exp()), prior)
        torch.testing.assert_close(made.kl_given(z[None])[0], expected, rtol=1e-12, atol=0)


def exact_divergence(made: MultiplicativeLayer, sd: Tensor) -> Tensor:
    """KL(q(W) || p) without a flow: every row of q(W) is Gaussian, sigma^2 on the diagonal plus s^2 mu mu^T."""
    mu = made.mu.T if isinstance(made.plain, nn.Linear) else made.mu.flatten(1)
    sigma = made.log_sigma.T if isinstance(made.plain, nn.Linear) else made.log_sigma.flatten(1)
    covariance = torch.diag_embed(sigma.exp().square()) + sd.square()[:, None, None] * mu[:, :, None] * mu[:, None, :]
    rows = torch.distributions.MultivariateNormal(made.q.mean[:, None] * mu, covariance)
    identity = torch.eye(mu.shape[1], dtype=torch.double).expand_as(covariance)
    return divergence(rows, torch.distributions.MultivariateNormal(torch.zeros_like(mu), made.prior_sd**2 * identity))


@pytest.mark.parametrize("plain", [nn.Linear(3, 2, bias=False), nn.Conv1d(2, 3, 2, bias=False)])
def test_an_auxiliary_that_ignores_the_weights_misses_the_divergence_by_the_information_in_z(plain: nn.Module) -> None:
    """With r(z | W) = q(z) the bound exceeds KL(q(W) || p) by the mutual information of z and W, exactly."""
    made = layer(plain, couplings=0)
    r, sd = made.r, made.q.log_sd.exp().clamp(max=0.9)
    made.q.log_sd.copy_(sd.log())
    start = {"mean_offset": made.q.mean, "sd_offset": (sd / (1 - sd)).log(), "mean_slope": 0 * sd, "sd_slope": 0 * sd}
    r.load_state_dict({"contrast": r.contrast, **start})
    mu, sigma = (made._rows(t) for t in (made.mu, made.log_sigma.exp()))
    information = 0.5 * (1 + sd.square() * (mu / sigma).square().sum(1)).log().sum()
    torch.manual_seed(0)
    bound, error = mean_and_error(made.kl_bound(100_000))
    assert error < 0.02
    assert abs(bound - float(exact_divergence(made, sd) + information)) < 4 * error
    assert information > 20 * error


@pytest.mark.parametrize("couplings", [0, 2])
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_above_the_divergence_whatever_the_auxiliary_is(couplings: int, seed: int) -> None:
    made = layer(nn.Linear(3, 2, bias=False), seed=seed, couplings=0)
    other = layer(nn.Linear(3, 2, bias=False), scale=0.2 * (seed + 1), seed=seed, couplings=couplings)
    made.r = other.r
    torch.manual_seed(seed)
    bound, error = mean_and_error(made.kl_bound(20_000))
    assert bound > float(exact_divergence(made, made.q.log_sd.exp())) - 4 * error


def learn_to_read(made: MultiplicativeLayer) -> None:
    """Trains the auxiliary, and nothing else."""
    made.r.requires_grad_(True)
    optimizer = torch.optim.Adam(made.r.parameters(), 0.02)
    torch.manual_seed(0)
    for _ in range(400):
        optimizer.zero_grad()
        made.kl_bound(256).mean().backward()
        optimizer.step()
    made.r.requires_grad_(False)


def test_the_bound_closes_as_the_auxiliary_learns_to_read_z_from_the_weight() -> None:
    """One weight: the exact q(z | w) is among the r(z | W), nearly, and the gap goes from .8 nats to nothing."""
    made = layer(nn.Linear(1, 1, bias=False), couplings=0)
    values = (made.q.mean, 1.0), (made.q.log_sd, math.log(0.5)), (made.mu, 1.0), (made.log_sigma, math.log(0.25))
    for parameter, value in (*values, (made.r.contrast, 0.5)):
        parameter.fill_(value)
    exact = float(exact_divergence(made, made.q.log_sd.exp()))
    learn_to_read(made)
    bound, error = mean_and_error(made.kl_bound(50_000))
    assert error < 0.02
    assert -4 * error < bound - exact < 0.1


def test_the_bound_is_above_the_divergence_of_a_flowed_distribution() -> None:
    """q(W) = mean over z of q(W | z), by 20,000 z, which can only put the divergence too low; and near it."""
    made = layer(nn.Linear(2, 1, bias=False), scale=0.6, couplings=4)
    learn_to_read(made)
    z = made.sample_z(20_000)
    w = torch.cat([made.draw(seeded(i))["weight"] for i in range(500)])
    given = torch.distributions.Normal(made.mu * z, made.log_sigma.exp())
    log_q = torch.stack([given.log_prob(one).sum(-1).logsumexp(0) for one in w]) - math.log(len(z))
    log_p = torch.distributions.Normal(0.0, made.prior_sd).log_prob(w).sum(-1)
    exact, exact_error = mean_and_error(log_q - log_p)
    bound, error = mean_and_error(made.kl_bound(20_000))
    assert error + exact_error < 0.06
    assert -4 * (error + exact_error) < bound - exact < 0.3


def regression(n: int = 12) -> tuple[Labelled, float]:
    """A linear regression with known noise."""
    x = torch.randn(n, 3, generator=seeded(5))
    noise = 0.5
    y = x @ torch.tensor([1.0, -0.5, 0.2]) + noise * torch.randn(n, generator=seeded(6))
    return Labelled(x, y, Gaussian(noise)), noise


def test_the_elbo_is_below_the_exact_log_evidence_and_near_it() -> None:
    labelled, noise = regression()
    training = Training(steps=1000, batch_size=12, learning_rate=0.02)
    method = MNF(training, map_start=0.2, prior_scale=1.5, initial_scale=0.3)
    posterior = method.fit(lambda: nn.Linear(3, 1, bias=False), labelled, generator=seeded())
    x, y = labelled.inputs.double(), labelled.labels.double()
    prior_variance = 1.5**2 * 2 / 3
    covariance = noise**2 * torch.eye(len(y), dtype=torch.double) + prior_variance * x @ x.T
    evidence = float(torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y))
    made = posterior.layers[""].double()
    w = torch.cat([made.draw(seeded(i))["weight"] for i in range(4000)])  # [K, 3]
    fit, fit_error = mean_and_error(torch.distributions.Normal(w @ x.T, noise).log_prob(y).sum(-1))
    torch.manual_seed(0)
    bound, error = mean_and_error(made.kl_bound(20_000))
    error = math.hypot(fit_error, error)
    gap = evidence - (fit - bound)
    assert error < 0.05
    assert -3 * error < gap < 0.4
    precision = x.T @ x / noise**2 + torch.eye(3, dtype=torch.double) / prior_variance
    mean = torch.linalg.solve(precision, x.T @ y / noise**2)
    torch.testing.assert_close(w.mean(0), mean, rtol=0, atol=0.1)
    # of all factorised Gaussians the nearest has the diagonal of the exact precision
    torch.testing.assert_close(w.std(0), precision.diagonal().rsqrt(), rtol=0.25, atol=0)


@pytest.mark.parametrize("n", [2, 8])
def test_the_divergence_is_summed_over_layers_and_divided_by_the_number_of_labels(n: int) -> None:
    """At the start r(z | W) is q(z) and the bound is the mean of KL(q(W | z) || p), of which z^2 has mean 1 + s^2."""
    x, y = blobs(n)
    method = MNF(Training(steps=1, learning_rate=1e-9), layers="all", couplings=0, kl_samples=20_000, kl_weight=0.3)
    posterior = method.fit(small_network, Labelled(x, y, Categorical(3)), generator=seeded())
    expected = 0.0
    for made in posterior.layers.values():
        prior_sd = math.sqrt(2 / made.mu.shape[1])
        of_sigma = 0.5 * 0.1**2 - math.log(0.1) - 0.5
        assert made.bias is not None
        squares = float(made.mu.square().sum()) * (1 + 0.1**2) + float(made.bias.square().sum())
        expected += of_sigma * (made.mu.numel() + made.bias.numel()) + squares / (2 * prior_sd**2)
    told = posterior.diagnostics
    assert len(posterior.layers) == 2
    assert abs(told["kl"] - expected / n) < 0.002 * expected / n
    assert told["loss"] == pytest.approx(told["nll"] + 0.3 * told["kl"], rel=1e-6)


def test_the_weight_of_the_divergence_rises_over_the_warm_up() -> None:
    def weight(step: int, **options: Any) -> float:
        torch.manual_seed(0)
        made = MultiplicativeLayer(nn.Linear(2, 3), MNF())
        objective, trace = MNF(**options)._objective({"": made}, classes(4), 10)
        objective(made, torch.ones(4, 2), torch.zeros(4, dtype=torch.long), 0)
        objective(made, torch.ones(4, 2), torch.zeros(4, dtype=torch.long), step)
        nll, kl, total = trace[step].tolist()
        return (total - nll) / kl

    assert weight(1, warm_up=0.5) == pytest.approx(0.4, rel=1e-4)
    assert weight(4, warm_up=0.5) == pytest.approx(1.0, rel=1e-4)
    assert weight(9, warm_up=0.5, kl_weight=0.2) == pytest.approx(0.2, rel=1e-4)
    assert weight(1, warm_up=0.0) == pytest.approx(1.0, rel=1e-4)
