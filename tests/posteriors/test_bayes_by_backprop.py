"""Bayes by Backprop from a fit to its draws, and what is refused; bound and estimators have files of their own."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activebdl import Training, UserError
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical
from activebdl.posteriors._last_layer import HeadDraws, LastLayer
from activebdl.posteriors._shared import WeightDraws
from activebdl.posteriors.bayes_by_backprop import BayesByBackprop, MeanFieldPosterior
from tests.conftest import blobs, small_network
from tests.posteriors.modules import seeded
from tests.posteriors.states import state

EVERY = pytest.mark.parametrize("layers", ["all", "last"])
SHORT = Training(steps=20, batch_size=8)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Dropout2d(0.3), nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def images(n: int) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=seeded(1))


def some_images(n: int = 9) -> Labelled:
    return Labelled(images(n), torch.arange(n) % 3, Categorical(3))


def fitted(layers: str = "all", **options: Any) -> MeanFieldPosterior:
    """A posterior of a convolutional network in float64, for comparisons to the last digits."""
    method = BayesByBackprop(SHORT, layers=layers, **options)  # type: ignore[arg-type]
    found = method.fit(convolutional, some_images(), generator=seeded())
    sds = {name: sd.double() for name, sd in found.sds.items()}
    head = None if found.head is None else LastLayer.of(found.module.double(), images(2).double())
    return MeanFieldPosterior(found.module.double(), sds, found.trace, head)


# ---- draws ----


@EVERY
def test_draws_have_the_moments_of_the_posterior(layers: Any) -> None:
    module = nn.Linear(3, 2).double().requires_grad_(False)
    sds = {"weight": torch.rand(2, 3, generator=seeded()).double(), "bias": torch.tensor([0.1, 2.0]).double()}
    x = torch.randn(4, 3, generator=seeded(1)).double()
    head = LastLayer.of(module, x) if layers == "last" else None
    drawn = MeanFieldPosterior(module, sds, {}, head).draw(4000, generator=seeded()).outputs(x)
    variance = F.linear(x.square(), sds["weight"].square(), sds["bias"].square())
    assert ((drawn.mean(1) - module(x)).abs() < 5 * (variance / 4000).sqrt()).all()
    assert ((drawn.var(1) / variance - 1).abs() < 5 * math.sqrt(2 / 4000)).all()


def test_sampled_heads_on_features_are_the_whole_network_with_drawn_weights() -> None:
    found, x = fitted("last"), images(7).double()
    heads = found.draw(5, generator=seeded())
    whole = MeanFieldPosterior(found.module, found.sds, found.trace).draw(5, generator=seeded())
    assert isinstance(heads, HeadDraws) and isinstance(whole, WeightDraws)
    torch.testing.assert_close(heads.outputs(x), whole.outputs(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.module[-1](heads.features(x)), found.module(x), rtol=0, atol=1e-12)  # type: ignore[index]


@EVERY
def test_a_draw_is_one_function(layers: str) -> None:
    x, draws = images(10).double(), fitted(layers).draw(3, generator=seeded())
    whole = draws.log_probs(x)
    assert whole.shape == (10, 3, 3) and draws.count == 3
    assert (whole[:, 0] - whole[:, 1]).abs().max() > 1e-4
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(10, 3).double(), rtol=0, atol=1e-12)
    order = torch.randperm(10, generator=seeded(5))
    torch.testing.assert_close(draws.log_probs(x[order]), whole[order], rtol=0, atol=1e-12)
    for size in (1, 3, 7):
        parts = torch.cat([draws.log_probs(part) for part in x.split(size)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


@EVERY
def test_the_first_draws_are_the_same_however_many_there_are(layers: str) -> None:
    found, x = fitted(layers), images(4).double()
    few, many = (found.draw(k, generator=seeded()).log_probs(x) for k in (2, 7))
    torch.testing.assert_close(many[:, :2], few, rtol=0, atol=1e-13)
    assert not torch.equal(found.draw(7, generator=seeded(1)).log_probs(x), many)


@EVERY
def test_sampling_leaves_the_module_as_it_was(layers: str) -> None:
    found = fitted(layers)
    found.module.train()
    found.module.get_submodule("0").eval()
    before = state(found.module)
    found.draw(3, generator=seeded()).log_probs(images(4).double())
    with pytest.raises(RuntimeError):  # the weights are float64
        found.draw(3, generator=seeded()).log_probs(images(4))
    assert state(found.module) == before


# ---- fits ----


@EVERY
@pytest.mark.parametrize("prior", ["gaussian", "mixture"])
@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_a_fit_learns_and_knows_what_it_does_not(layers: Any, prior: Any, estimator: Any) -> None:
    x, y = blobs(220, noise=0.3)
    method = BayesByBackprop(Training(steps=150, batch_size=32), layers=layers, prior=prior, estimator=estimator)
    found = method.fit(small_network, Labelled(x[:20], y[:20], Categorical(3)), generator=seeded())
    assert set(found.sds) == {f"{i}.{key}" for i in ((0, 3) if layers == "all" else (3,)) for key in ("weight", "bias")}
    log_probs = found.draw(30, generator=seeded()).log_probs(x[20:])
    assert (log_probs.exp().mean(1).argmax(-1) == y[20:]).float().mean() > 0.9
    assert log_probs.exp().var(1).mean() > 1e-6
    assert set(found.diagnostics) == {"nll", "kl", "loss"} and all(map(math.isfinite, found.diagnostics.values()))


@EVERY
def test_two_fits_with_one_seed_are_equal_to_the_last_bit(layers: Any) -> None:
    x = images(5)
    kept = torch.get_rng_state()
    first, again, other = (
        BayesByBackprop(SHORT, layers=layers)
        .fit(convolutional, some_images(), generator=seeded(seed))
        .draw(3, generator=seeded())
        .log_probs(x)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), kept)


@EVERY
@pytest.mark.parametrize("steps", [1, 20])
def test_one_label_is_enough(layers: Any, steps: int) -> None:
    counted: list[int] = []
    method = BayesByBackprop(Training(steps=steps, steps_per_label=2.0, batch_size=8), layers=layers)
    found = method.fit(convolutional, some_images(1), generator=seeded(), on_step=lambda: counted.append(1))
    assert bool(found.draw(3, generator=seeded()).log_probs(images(3)).isfinite().all())
    assert len(counted) == len(found.trace["loss"]) == steps + 2 == method.steps(1)


def test_dropout_is_on_in_the_map_start_alone() -> None:
    seen: list[bool] = []

    class Watched(nn.Dropout):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(self.training)
            return super().forward(input)

    method = BayesByBackprop(Training(steps=10, batch_size=8), map_start=0.4)
    method.fit(
        lambda: nn.Sequential(nn.Linear(2, 4), Watched(0.5), nn.Linear(4, 3)),
        Labelled(*blobs(8), Categorical(3)),
        generator=seeded(),
    )
    assert seen[-10:] == [True] * 4 + [False] * 6  # what is before are looks at the module


def test_weight_decay_is_on_what_is_not_bayesian_alone() -> None:
    def weights(decay: float, layers: Any) -> list[Tensor]:
        training = Training(steps=30, batch_size=8, weight_decay=decay)
        method = BayesByBackprop(training, layers=layers, kl_weight=0.0)
        found = method.fit(small_network, Labelled(*blobs(8), Categorical(3)), generator=seeded())
        return [p.detach() for p in found.module.parameters()] + list(found.sds.values())

    for decayed, free in zip(weights(10.0, "all"), weights(0.0, "all"), strict=True):
        assert torch.equal(decayed, free)
    assert weights(10.0, "last")[0].norm() < 0.9 * weights(0.0, "last")[0].norm()


class Twice(nn.Module):
    """One layer that is called in the middle and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(self.first(x)).relu())


@EVERY
def test_a_layer_that_is_used_twice_has_one_draw_of_weights(layers: Any) -> None:
    found = BayesByBackprop(SHORT, layers=layers).fit(Twice, Labelled(*blobs(8), Categorical(3)), generator=seeded())
    draws, x = found.draw(2, generator=seeded()), torch.randn(4, 2)
    assert isinstance(draws, WeightDraws)
    draw = draws.weights[1]
    h = F.linear(x, draw["first.weight"], draw["first.bias"]) if layers == "all" else found.module.first(x)  # type: ignore[operator]
    h = F.linear(F.linear(h, draw["layer.weight"], draw["layer.bias"]).relu(), draw["layer.weight"], draw["layer.bias"])
    torch.testing.assert_close(draws.outputs(x)[:, 1], h)


def test_a_layer_that_has_two_names_has_one_draw_of_weights() -> None:
    def network() -> nn.Module:
        shared = nn.Linear(2, 2)
        return nn.Sequential(shared, nn.ReLU(), shared)

    found = BayesByBackprop(SHORT).fit(network, Labelled(*blobs(8, 2), Categorical(2)), generator=seeded())
    draws, x = found.draw(1, generator=seeded()), torch.randn(4, 2)
    assert isinstance(draws, WeightDraws)
    weight, bias = draws.weights[0]["0.weight"], draws.weights[0]["0.bias"]
    torch.testing.assert_close(draws.outputs(x)[:, 0], F.linear(F.linear(x, weight, bias).relu(), weight, bias))


# ---- what is refused ----


def test_networks_that_cannot_be_treated_are_refused_before_a_label_is_paid_for() -> None:
    method, x = BayesByBackprop(), torch.randn(2, 3)
    with pytest.raises(UserError, match=r"calls no nn.Linear or nn.Conv layer"):
        method.check(nn.Flatten(), x)
    with pytest.raises(UserError, match=r"not that of an nn.Linear layer"):
        BayesByBackprop(layers="last").check(nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)), x)
    hooked = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    hooked[1].register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match=r"The layer '1' has forward hooks"):
        method.check(hooked, x)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(UserError, match=r"The layer '0' shares a parameter with another layer"):
        method.check(tied, x)
    with pytest.raises(UserError, match=r"prior_on names 'dense'"):
        BayesByBackprop(Training(prior_on=("dense",))).check(nn.Linear(3, 3), x)
    method.check(nn.Linear(3, 3), x)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prior_scale": 0.0}, r"prior_scale is a standard deviation and must be above 0, and is 0.0"),
        ({"sigma1": -1.0}, r"sigma1 .* above 0"),
        ({"sigma2": float("nan")}, r"sigma2 .* above 0"),
        ({"initial_scale": 0.0}, r"initial_scale .* above 0"),
        ({"pi": 1.0}, r"pi is a share of the mixture"),
        ({"kl_weight": -0.1}, r"kl_weight must not be negative"),
        ({"map_start": 1.0}, r"map_start is a share of the steps"),
        ({"kl_warmup": 1.5}, r"kl_warmup one from 0 to 1"),
        ({"layers": "first"}, r"layers is one of all, last, not 'first'"),
        ({"prior": "laplace"}, r"prior is one of gaussian, mixture, not 'laplace'"),
        ({"estimator": "exact"}, r"estimator is one of local, flipout, not 'exact'"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        BayesByBackprop(**options)


def test_a_fit_that_cannot_be_is_told() -> None:
    x, y = blobs(8)
    with pytest.raises(UserError, match=r"not one item is labelled"):
        BayesByBackprop(SHORT).fit(small_network, Labelled(x[:0], y[:0], Categorical(3)), generator=seeded())
    with pytest.raises(UserError, match=r"outputs of shape \(8, 4\)"):
        BayesByBackprop(SHORT).fit(small_network, Labelled(x, y, Categorical(4)), generator=seeded())
    with pytest.raises(UserError, match=r"The loss became nan at step 1: lower"):
        BayesByBackprop(SHORT).fit(small_network, Labelled(x * float("nan"), y, Categorical(3)), generator=seeded())
