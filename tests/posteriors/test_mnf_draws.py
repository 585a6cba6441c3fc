"""Draws of MNF: both ways of sampling against each other, each draw one function, and which layers are random."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activebdl.data import Labelled
from activebdl.posteriors._shared import WeightDraws
from activebdl.posteriors.mnf import MNFPosterior
from tests.conftest import small_network
from tests.posteriors.mnf_cases import (
    EVERY,
    LAYERS,
    classes,
    convolutional,
    distribution_given,
    fitted,
    images,
    layer,
)
from tests.posteriors.modules import seeded
from tests.posteriors.states import state

# ---- both ways of sampling ----


@EVERY
def test_outputs_given_z_have_the_moments_of_the_layer_with_drawn_weights(name: str) -> None:
    """The exact moments by autograd: the output is linear in the weights, which are independent given z."""
    make, shape = LAYERS[name]
    made = layer(make())
    z = torch.randn(len(made.q.mean), generator=seeded(2), dtype=torch.double)
    x = torch.randn(1, *shape, generator=seeded(3), dtype=torch.double)
    given = distribution_given(made, z)
    parameters = {"weight": given.mean, **({} if made.bias is None else {"bias": made.bias})}
    variances = {"weight": given.variance}
    if made.bias_log_sigma is not None:
        variances["bias"] = (2 * made.bias_log_sigma).exp()

    def plain(*values: Tensor) -> Tensor:
        return torch.func.functional_call(made.plain, dict(zip(parameters, values, strict=True)), (x,))

    mean = plain(*parameters.values())
    jacobians = torch.autograd.functional.jacobian(plain, tuple(parameters.values()))
    variance = sum(
        (jacobian.square() * v).flatten(mean.dim()).sum(-1)
        for jacobian, v in zip(jacobians, variances.values(), strict=True)
    )
    assert isinstance(variance, Tensor)
    torch.manual_seed(0)
    count = 20_000
    outputs = made.given(z.expand(count, -1), x.expand(count, *shape))
    off = (outputs.mean(0) - mean[0]) / (variance[0] / count).sqrt()
    assert off.abs().max() < 4.5
    assert (outputs.var(0) / variance[0] - 1).abs().max() < 4.5 * math.sqrt(2 / count)


@EVERY
def test_drawn_weights_have_the_moments_that_z_gives_them(name: str) -> None:
    made = layer(LAYERS[name][0](), couplings=0)
    z = made.q.mean.clone()
    made.q.log_sd.fill_(-60.0)  # z is its mean
    generator = seeded(4)
    drawn = [made.draw(generator) for _ in range(4000)]
    expected = {"weight": distribution_given(made, z)}
    if made.bias is not None and made.bias_log_sigma is not None:
        expected["bias"] = torch.distributions.Normal(made.bias, made.bias_log_sigma.exp())
    assert drawn[0].keys() == expected.keys()
    for part, truth in expected.items():
        values = torch.stack([one[part] for one in drawn])
        assert ((values.mean(0) - truth.mean) / truth.stddev).abs().max() < 4.5 / math.sqrt(4000)
        assert (values.var(0) / truth.variance - 1).abs().max() < 4.5 * math.sqrt(2 / 4000)


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_training_and_scoring_meet_the_same_distribution_of_outputs(name: str) -> None:
    """z, the flow and the weights together: mean and variance of one output, both ways."""
    make, shape = LAYERS[name]
    made = layer(make(), scale=0.6)
    x = torch.randn(1, *shape, generator=seeded(3), dtype=torch.double)
    torch.manual_seed(0)
    trained = made(x.expand(40_000, *shape)).flatten(1)
    generator = seeded(5)
    scored = [torch.func.functional_call(made.plain, made.draw(generator), (x,)).flatten() for _ in range(4000)]
    scored = torch.stack(scored)
    error = trained.std(0) * math.sqrt(1 / 4000 + 1 / 40_000)
    assert ((trained.mean(0) - scored.mean(0)) / error).abs().max() < 4.5
    torch.testing.assert_close(scored.std(0), trained.std(0), rtol=0.1, atol=0)


def test_entries_of_z_are_shared_by_the_weights_of_an_input_or_of_a_filter() -> None:
    for plain, dim in ((nn.Linear(3, 4, bias=False), 1), (nn.Conv2d(2, 4, 3, bias=False), 0)):
        made = layer(plain)
        made.log_sigma.fill_(-60.0)  # W is z mu
        ratio = (made.draw(seeded())["weight"] / made.mu).movedim(dim, 0).flatten(1)
        assert ratio.shape[0] == plain.weight.shape[dim]
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
        assert len(ratio[:, 0].unique()) == len(ratio)


# ---- the contract of every posterior ----


@pytest.fixture(params=["all", "last"])
def convolutions(request: pytest.FixtureRequest) -> MNFPosterior:
    return fitted(convolutional, images(), layers=request.param)


def test_a_draw_is_one_function(convolutions: MNFPosterior) -> None:
    x = images(9).inputs
    draws = convolutions.draw(4, generator=seeded())
    whole = draws.log_probs(x)
    assert draws.count == 4 and whole.shape == (9, 4, 3)
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(9, 4))
    order = torch.randperm(9, generator=seeded())
    torch.testing.assert_close(draws.log_probs(x[order]), whole[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat([draws.log_probs(part) for part in x.split(2)]), whole, rtol=0, atol=1e-5)
    assert (whole[:, 0] - whole[:, 1]).abs().max() > 1e-3


def test_the_first_draws_are_the_same_however_many_are_asked_for(convolutions: MNFPosterior) -> None:
    x = images(5).inputs
    few, many = (convolutions.draw(k, generator=seeded(1)).log_probs(x) for k in (2, 6))
    torch.testing.assert_close(few, many[:, :2], rtol=0, atol=1e-6)  # one matrix product of another size
    assert not few.equal(convolutions.draw(2, generator=seeded(2)).log_probs(x))


def test_sampling_leaves_the_module_as_it_was_also_after_an_exception(convolutions: MNFPosterior) -> None:
    module = convolutions.module
    module[1].train()  # type: ignore[index]
    before = state(module)
    draws = convolutions.draw(2, generator=seeded())
    draws.log_probs(images(3).inputs)
    with pytest.raises(RuntimeError):
        draws.log_probs(torch.zeros(3, 1, 5, 5))
    assert state(module) == before
    assert [type(child) for child in module.modules()] == [type(child) for child in convolutional().modules()]


# ---- which layers are random ----


def whole(posterior: MNFPosterior, k: int) -> WeightDraws:
    """The same draws, as sets of weights for the whole network."""
    draws = replace(posterior, head=None).draw(k, generator=seeded())
    assert isinstance(draws, WeightDraws)
    return draws


def test_only_the_last_layer_is_random_when_asked() -> None:
    posterior = fitted(convolutional, images(), layers="last")
    assert list(posterior.layers) == ["6"]
    assert list(fitted(convolutional, images(), layers="all").layers) == ["0", "4", "6"]
    assert whole(posterior, 1).weights[0].keys() == {"6.weight", "6.bias"}


def test_a_layer_called_twice_is_one_weight() -> None:
    def network() -> nn.Module:
        shared = nn.Linear(2, 2)
        return nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(2, 3))

    posterior = fitted(network, classes(), layers="all")
    assert list(posterior.layers) == ["0", "3"]
    x = classes(5).inputs
    draws = whole(posterior, 1)
    w = draws.weights[0]
    hidden = F.linear(F.linear(x, w["0.weight"], w["0.bias"]).relu(), w["0.weight"], w["0.bias"])
    expected = F.linear(hidden, w["3.weight"], w["3.bias"]).log_softmax(-1)
    torch.testing.assert_close(draws.log_probs(x)[:, 0], expected)


def shared_head() -> nn.Module:
    shared = nn.Linear(3, 3)
    return nn.Sequential(nn.Linear(2, 3), shared, nn.ReLU(), shared)


@pytest.mark.parametrize(
    ("network", "labelled"),
    [
        (convolutional, images()),
        (small_network, classes()),
        (shared_head, classes()),
        (lambda: nn.Linear(2, 3), classes()),
    ],
)
def test_draws_of_the_last_layer_are_those_of_the_whole_network(
    network: Callable[[], nn.Module], labelled: Labelled
) -> None:
    posterior = fitted(network, labelled, layers="last")
    assert (posterior.head is None) == (network is shared_head)
    found = posterior.draw(3, generator=seeded()).log_probs(labelled.inputs)
    torch.testing.assert_close(found, whole(posterior, 3).log_probs(labelled.inputs), rtol=0, atol=1e-6)
    assert not any(child._forward_pre_hooks for child in posterior.module.modules())
