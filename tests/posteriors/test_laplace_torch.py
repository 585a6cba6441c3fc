"""With laplace-torch, where it is installed: its numbers beside ours, and Laplace over all weights."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from activebdl.data import Labelled
from activebdl.likelihoods import Gaussian
from activebdl.posteriors._linearised import LinearisedPosterior
from activebdl.posteriors.laplace import Laplace
from tests.posteriors.laplace_cases import (
    EVERY,
    SHORT,
    Structure,
    classes,
    conjugate,
    conv,
    images,
    last_layer,
    made,
    normal,
    single,
)
from tests.posteriors.modules import seeded
from tests.posteriors.states import state

# ---- its numbers beside ours ----


def peer(module: nn.Module, data: Labelled, structure: str) -> Any:
    library = pytest.importorskip("laplace", exc_type=ImportError)
    loader: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data.inputs, data.labels), batch_size=50)
    fitted = library.Laplace(module, "classification", subset_of_weights="last_layer", hessian_structure=structure)
    fitted.fit(loader)
    return fitted


@EVERY
@pytest.mark.filterwarnings("ignore")  # laplace-torch's own
def test_laplace_torch_computes_the_same(structure: Structure) -> None:
    """Without a bias, whose correlation with the weights it leaves out of the Kronecker form."""
    module = made(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3, bias=False))).float()
    data = single(classes(30))
    theirs, ours = peer(module, data, structure), last_layer(module, structure=structure, data=data)
    for precision in (0.1, 1.0, 20.0):
        evidence = theirs.log_marginal_likelihood(torch.tensor(precision))
        assert ours.log_evidence(precision) == pytest.approx(float(evidence), abs=1e-3)


# ---- all weights ----


def everything(module: nn.Module, data: Labelled, **options: Any) -> LinearisedPosterior:
    pytest.importorskip("laplace", exc_type=ImportError)
    found = Laplace(weights="all", **options).from_trained(module, data)
    assert isinstance(found, LinearisedPosterior)
    return found


def test_all_weights_of_a_linear_network_are_bayesian_linear_regression() -> None:
    x, y, noise, precision = normal(9, 3).float(), normal(9, seed=2).float(), 0.4, 1.7
    mean, covariance, evidence = conjugate(x.double(), y.double(), noise, precision)
    module = nn.Linear(3, 1, bias=False)
    module.weight.data.copy_(mean[None])
    found = everything(module, Labelled(x, y, Gaussian(noise)), prior_precision=precision)
    assert found.log_evidence() == pytest.approx(evidence, abs=1e-4)
    outputs = found.draw(4000, generator=seeded()).outputs(torch.eye(3))[:, :, 0]  # the weights themselves
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), outputs.double() - mean[:, None], upper=False
    )
    torch.testing.assert_close(white.mean(1), torch.zeros(3).double(), rtol=0, atol=0.07)
    torch.testing.assert_close(torch.cov(white), torch.eye(3).double(), rtol=0, atol=0.1)


def test_draws_of_all_weights_are_the_first_order_of_the_network() -> None:
    """By finite differences in float64; normalisation layers stay as they are."""
    module, x = made(conv), normal(4, 1, 6, 6, seed=3)
    found = everything(module.float(), single(images()))
    assert list(found.names) == ["0.weight", "0.bias", "6.weight", "6.bias"]
    draws = found.draw(3, generator=seeded())
    exact, small = found.module.double(), 1e-6
    for k, step in enumerate(draws.steps):
        sides = [
            functional_call(exact, {n: exact.get_parameter(n) + s * v.double() for n, v in step.items()}, (x,))
            for s in (small, -small)
        ]
        expected = exact(x) + (sides[0] - sides[1]) / (2 * small)
        doubled = [{name: value.double() for name, value in step.items()} for step in draws.steps]
        ours = type(draws)(exact, doubled).outputs(x)[:, k]
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_all_weights_keep_the_contract() -> None:
    data = single(images())
    module = conv()
    before = state(module)
    found, again = everything(module, data), everything(module, data)
    assert state(module) == before
    x = normal(7, 1, 6, 6).float()
    many = found.draw(5, generator=seeded()).log_probs(x)
    torch.testing.assert_close(found.draw(2, generator=seeded()).log_probs(x), many[:, :2], rtol=0, atol=1e-5)
    torch.testing.assert_close(again.draw(5, generator=seeded()).log_probs(x), many, rtol=0, atol=0)
    draws = found.draw(5, generator=seeded())
    with torch.inference_mode():
        parts = torch.cat([draws.log_probs(part) for part in (x * 1).split(3)])
    torch.testing.assert_close(parts, many, rtol=0, atol=1e-5)
    grid = torch.logspace(-2, 3, 101).tolist()
    assert found.log_evidence() > max(map(found.log_evidence, grid)) - 0.05
    inner = state(found.module)
    with pytest.raises(RuntimeError):
        draws.log_probs(x.double())
    assert state(found.module) == inner


def test_all_weights_are_fitted_like_the_last_ones() -> None:
    pytest.importorskip("laplace", exc_type=ImportError)
    fitted = Laplace(SHORT, weights="all").fit(conv, single(images(1)), generator=seeded())
    assert fitted.draw(2, generator=seeded()).log_probs(single(images()).inputs).isfinite().all()
