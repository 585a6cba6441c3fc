import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, MixtureSameFamily, Normal

from activebdl.regression import Moments, evaluate
from activebdl.strategies.epistemic_variance import epistemic_variance
from activebdl.strategies.gaussian_bald import gaussian_bald


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(n: int = 6, k: int = 4, seed: int = 0) -> Moments:
    g = seeded(seed)
    mean = torch.randn(n, k, generator=g, dtype=torch.double)
    return Moments(mean, torch.rand(n, k, generator=g, dtype=torch.double) + 0.1)


def mixture(moments: Moments) -> MixtureSameFamily:
    even = Categorical(torch.ones_like(moments.mean))
    return MixtureSameFamily(even, Normal(moments.mean, moments.variance.sqrt()))


@given(seed=st.integers(0, 1000), k=st.integers(1, 6))
def test_total_variance_is_that_of_the_mixture(seed: int, k: int) -> None:
    moments = some(k=k, seed=seed)
    torch.testing.assert_close(moments.total, moments.aleatoric + moments.epistemic, rtol=0, atol=0)
    torch.testing.assert_close(moments.total, mixture(moments).variance, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(moments.predicted, mixture(moments).mean, rtol=1e-9, atol=1e-12)
    assert (moments.epistemic >= 0).all()


def test_nll_and_coverage_are_those_of_the_mixture() -> None:
    moments = some(n=500)
    targets = torch.randn(500, generator=seeded(1), dtype=torch.double) * 2
    told = evaluate(moments, targets)
    assert abs(told["nll"] + float(mixture(moments).log_prob(targets).mean())) < 1e-10
    rank = mixture(moments).cdf(targets)
    for share in (0.5, 0.9, 0.95):
        inside = (rank >= (1 - share) / 2) & (rank <= (1 + share) / 2)
        assert told[f"coverage_{100 * share:g}"] == float(inside.double().mean())
    assert abs(told["rmse"] - float((moments.mean.mean(1) - targets).square().mean()) ** 0.5) < 1e-12


def test_targets_that_come_from_the_predictive_are_covered_as_often_as_told() -> None:
    torch.manual_seed(7)  # not the seed of the moments
    moments = some(n=20_000)
    told = evaluate(moments, mixture(moments).sample())
    for share in (0.5, 0.9, 0.95):
        assert abs(told[f"coverage_{100 * share:g}"] - share) < 4 * math.sqrt(share * (1 - share) / 20_000)


def test_scores_are_zero_where_draws_agree() -> None:
    moments = Moments(torch.ones(3, 5), torch.full((3, 5), 0.2))
    assert epistemic_variance(moments).abs().max() == 0
    assert gaussian_bald(moments).abs().max() < 1e-6


def test_gaussian_bald_is_the_channel_capacity_where_everything_is_gaussian() -> None:
    """Means of many draws from N(0, s^2), noise v: I = 1/2 log(1 + s^2 / v)."""
    mean = 3 * torch.randn(1, 200_000, generator=seeded(), dtype=torch.double)
    found = gaussian_bald(Moments(mean, torch.full_like(mean, 0.5)))
    assert abs(float(found) - 0.5 * math.log(1 + 9 / 0.5)) < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_bald_bounds_the_mutual_information_from_above(seed: int) -> None:
    """The mixture's entropy by quadrature."""
    moments = some(n=1, seed=seed)
    grid = torch.linspace(-12, 12, 40_001, dtype=torch.double)
    log_density = mixture(moments).log_prob(grid[:, None])[:, 0]
    entropy = -torch.trapezoid(log_density.exp() * log_density, grid)
    own = 0.5 * (moments.variance.log() + math.log(2 * math.pi * math.e)).mean()
    assert float(entropy - own) <= float(gaussian_bald(moments)) + 1e-9
