"""Draws of Laplace's last layer: the posterior's covariance, each draw one function, the module as it was."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call

from activebdl.data import Labelled
from activebdl.likelihoods import Categorical
from tests.posteriors.laplace_cases import EVERY, Structure, classifier, conv, images, last_layer, made, normal, phi_of
from tests.posteriors.modules import seeded
from tests.posteriors.states import state


@EVERY
def test_sampled_heads_have_the_covariance_of_the_posterior(structure: Structure) -> None:
    found = last_layer(made(classifier), structure=structure, prior_precision=0.2)
    heads = found.draw(40_000, generator=seeded()).heads.flatten(1)  # type: ignore[union-attr]
    factor = torch.linalg.cholesky(found.covariance())
    white = torch.linalg.solve_triangular(factor, (heads - found.mean.flatten()).T, upper=False)
    torch.testing.assert_close(white.mean(1), torch.zeros(15).double(), rtol=0, atol=0.025)
    torch.testing.assert_close(torch.cov(white), torch.eye(15).double(), rtol=0, atol=0.035)


@EVERY
@pytest.mark.parametrize("bias", [True, False])
def test_a_draw_is_the_network_with_that_head(structure: Structure, bias: bool) -> None:
    module = made(lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 3, bias=bias)))
    found, x = last_layer(module, structure=structure), normal(6, 3, seed=4)
    draws = found.draw(5, generator=seeded())
    for k, head in enumerate(draws.heads):
        weights = {"3.weight": head[:, :4]} | ({"3.bias": head[:, 4]} if bias else {})
        expected = functional_call(module.eval(), weights, (x,)).detach()
        torch.testing.assert_close(draws.outputs(x)[:, k], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(draws.log_probs(x)[:, k], expected.log_softmax(-1), rtol=0, atol=1e-12)
    assert len(draws.heads.unique(dim=0)) == draws.count == 5


def test_features_are_computed_once_for_all_draws() -> None:
    module, x, calls = made(conv), normal(4, 1, 6, 6), [0]
    found = last_layer(module)
    draws = found.draw(50, generator=seeded())
    next(found.head.module.children()).register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    draws.log_probs(x)
    assert calls == [1]
    torch.testing.assert_close(draws.features(x), phi_of(module, x)[:, :-1], rtol=0, atol=1e-13)
    torch.testing.assert_close(found.features(x), draws.features(x), rtol=0, atol=0)


@EVERY
@pytest.mark.parametrize("network", [classifier, conv])
def test_a_draw_is_one_function(structure: Structure, network: Callable[[], nn.Module]) -> None:
    x = normal(10, 1, 6, 6) if network is conv else normal(10, 3)
    draws = last_layer(made(network), structure=structure).draw(3, generator=seeded())
    whole, order = draws.log_probs(x), torch.randperm(10, generator=seeded(5))
    torch.testing.assert_close(draws.log_probs(x[order]), whole[order], rtol=0, atol=1e-12)
    for size in (1, 3, 7):
        parts = torch.cat([draws.log_probs(part) for part in x.split(size)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


@EVERY
def test_the_first_draws_are_the_same_however_many_there_are(structure: Structure) -> None:
    found, x = last_layer(made(classifier), structure=structure), normal(4, 3)
    few, many = (found.draw(k, generator=seeded()).log_probs(x) for k in (2, 7))
    torch.testing.assert_close(many[:, :2], few, rtol=0, atol=1e-12)
    assert not torch.equal(found.draw(7, generator=seeded(1)).log_probs(x), many)


def test_sampling_leaves_the_module_as_it_was() -> None:
    found, x = last_layer(made(conv)), normal(3, 1, 6, 6)
    module = found.head.module.train()
    next(module.children()).eval()  # modes may differ within a module
    before = state(module)
    draws = found.draw(3, generator=seeded())
    draws.log_probs(x)
    with pytest.raises(RuntimeError):  # the network reads float64
        draws.log_probs(x.float())
    assert state(module) == before


def test_low_precision_networks_give_float32_log_probs() -> None:
    module, x = made(conv), normal(4, 1, 6, 6)
    exact = last_layer(module, prior_precision=1.0).draw(3, generator=seeded()).log_probs(x)
    data = Labelled(images().inputs.bfloat16(), images().labels, Categorical(3))
    low = last_layer(module.bfloat16(), prior_precision=1.0, data=data).draw(3, generator=seeded())
    assert low.log_probs(x.bfloat16()).dtype == low.outputs(x.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(low.log_probs(x.bfloat16()).double(), exact, rtol=0, atol=0.1)
