"""Flows: log-determinants against autograd's Jacobian, inverses, and a density that integrates to one."""

import math

import pytest
import torch
from torch import Tensor, nn

from activebdl.posteriors._flows import AuxiliaryPosterior, Flow, FlowedGaussian

SHAPES = pytest.mark.parametrize(("size", "couplings"), [(1, 2), (2, 1), (2, 4), (5, 0), (5, 1), (5, 2), (5, 3)])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scrambled(module: nn.Module, scale: float = 0.8) -> nn.Module:
    """The module in float64, its parameters moved away from where they start."""
    generator = seeded(7)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.double)
    return module


def made(size: int, couplings: int, seed: int = 0) -> Flow:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Flow(size, couplings, hidden=6, centre=1.0)


def points(count: int, size: int) -> Tensor:
    return torch.randn(count, size, generator=seeded(1), dtype=torch.double)


@SHAPES
def test_the_log_determinant_is_that_of_the_jacobian(size: int, couplings: int) -> None:
    flow = scrambled(made(size, couplings))
    for z in points(6, size):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], z)
        expected = torch.linalg.slogdet(jacobian)
        assert expected.sign == 1
        torch.testing.assert_close(flow(z[None])[1][0], expected.logabsdet, rtol=0, atol=1e-12)
    assert (couplings == 0) == bool((flow(points(6, size))[1] == 0).all())


@SHAPES
def test_the_inverse_inverts(size: int, couplings: int) -> None:
    flow, z = scrambled(made(size, couplings)), points(50, size)
    assert isinstance(flow, Flow)
    torch.testing.assert_close(flow.inverse(flow(z)[0]), z, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow(flow.inverse(z))[0], z, rtol=0, atol=1e-10)
    assert couplings == 0 or not torch.allclose(flow(z)[0], z, atol=1e-2)


def test_two_couplings_change_every_entry_and_one_changes_half() -> None:
    z = points(20, 7)
    changed = [(scrambled(made(7, couplings))(z)[0] != z).all(0) for couplings in (1, 2)]
    assert int(changed[0].sum()) == 3
    assert changed[1].all()


def test_the_masks_come_from_the_global_generator() -> None:
    masks = [torch.stack(list(made(20, 2, seed).buffers())) for seed in (0, 0, 1)]
    assert masks[0].equal(masks[1])
    assert not masks[0].equal(masks[2])


def test_a_fresh_flow_leaves_its_centre_and_contracts_towards_it() -> None:
    flow = made(5, 2)
    torch.testing.assert_close(flow(torch.ones(1, 5))[0], torch.ones(1, 5))
    gate = 1 / (1 + math.exp(-2))
    torch.testing.assert_close(flow(torch.full((1, 5), 2.0))[0], torch.full((1, 5), 1 + gate))


def test_a_gaussian_through_no_flow_is_the_gaussian() -> None:
    gaussian = scrambled(FlowedGaussian(4, 1.0, 0.3, couplings=0, hidden=1))
    assert isinstance(gaussian, FlowedGaussian)
    z, log_q = gaussian(points(9, 4))
    expected = torch.distributions.Normal(gaussian.mean, gaussian.log_sd.exp())
    torch.testing.assert_close(z, expected.mean + expected.stddev * points(9, 4))
    torch.testing.assert_close(log_q, expected.log_prob(z).sum(-1))


@torch.no_grad()
def test_the_density_of_a_flowed_gaussian_is_normalised() -> None:
    """The mean of p/q under q is 1 for any density p, if and only if q is the density of what is drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        gaussian = scrambled(FlowedGaussian(3, 0.0, 1.0, couplings=4, hidden=6), scale=0.4)
    z, log_q = gaussian(torch.randn(200_000, 3, generator=seeded(3), dtype=torch.double))
    for width in (0.5, 0.7):
        p = torch.distributions.Normal(z.mean(0), width * z.std(0))
        weights = (p.log_prob(z).sum(-1) - log_q).exp()
        error = float(weights.std()) / math.sqrt(len(weights))
        assert error < 0.02
        assert abs(float(weights.mean()) - 1) < 4 * error


@pytest.mark.parametrize("couplings", [0, 3])
@torch.no_grad()
def test_the_density_of_z_given_the_weights_is_normalised(couplings: int) -> None:
    """Its integral over z by importance sampling; mu is 0, so that the weights do not depend on z."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        r = scrambled(AuxiliaryPosterior(2, 0.5, couplings, hidden=6), scale=0.4)
        p = torch.distributions.Normal(torch.ones(2, dtype=torch.double), 2.0)
        z = p.sample(torch.Size([200_000]))
        log_r = r(z, torch.zeros(2, 3, dtype=torch.double), torch.ones(2, 3, dtype=torch.double))
    weights = (log_r - p.log_prob(z).sum(-1)).exp()
    error = float(weights.std()) / math.sqrt(len(weights))
    assert error < 0.01
    assert abs(float(weights.mean()) - 1) < 4 * error
