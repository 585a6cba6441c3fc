"""Bayes by Backprop meets the known optimum of a mean field, and its estimators those of drawn weights."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical as Choice
from torch.distributions import MixtureSameFamily, MultivariateNormal, Normal, kl_divergence
from torch.func import functional_call

from activebdl import Training, UserError
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical, Gaussian
from activebdl.posteriors._bayesian_layers import ESTIMATORS, GaussianPrior, MeanField, MixturePrior, Prior
from activebdl.posteriors._last_layer import HeadDraws, LastLayer
from activebdl.posteriors._shared import WeightDraws
from activebdl.posteriors.bayes_by_backprop import BayesByBackprop, MeanFieldPosterior
from tests.conftest import blobs, small_network

EVERY = pytest.mark.parametrize("layers", ["all", "last"])
SHORT = Training(steps=20, batch_size=8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


# ---- the posterior, where it is known


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


# ---- the KL


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


# ---- the estimators: the moments of outputs are those of drawn weights

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "linear_without_bias": (lambda: nn.Linear(4, 3, bias=False), (2, 4)),
    "linear_on_sequences": (lambda: nn.Linear(4, 3), (2, 3, 4)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2), (2, 2, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2), (2, 4, 5, 5)),
    "conv2d_dilated_circular": (
        lambda: nn.Conv2d(2, 2, 2, dilation=2, padding=1, padding_mode="circular"),
        (2, 2, 4, 4),
    ),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, bias=False), (2, 1, 2, 3, 3)),
}
DRAWS = 4000


@pytest.fixture(scope="module")
def outputs() -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """Of every layer: what drawn weights give, and what each estimator gives, ``[DRAWS, B, ...]``."""
    torch.manual_seed(0)
    found: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
    for name, (make, shape) in LAYERS.items():
        layer, x = make().double().requires_grad_(False), torch.randn(shape, dtype=torch.double)
        sds = {key: torch.rand_like(p) for key, p in layer.named_parameters()}

        def by_weights(layer: nn.Module = layer, x: Tensor = x, sds: dict[str, Tensor] = sds) -> Tensor:
            weights = {key: p + sds[key] * torch.randn_like(p) for key, p in layer.named_parameters()}
            return functional_call(layer, weights, (x,))

        given = {
            key: torch.stack([estimate(layer, x, sds) for _ in range(DRAWS)]) for key, estimate in ESTIMATORS.items()
        }
        found[name] = torch.stack([by_weights() for _ in range(DRAWS)]), given
    return found


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", LAYERS)
def test_each_output_has_the_moments_that_drawn_weights_give(outputs: Any, name: str, estimator: str) -> None:
    """To 5 standard errors: of a mean sqrt(variance / draws), of a Gaussian's variance sqrt(2 / draws) of it."""
    brute, given = outputs[name][0], outputs[name][1][estimator]
    variance = brute.var(0)
    assert variance.min() > 0
    assert ((given.mean(0) - brute.mean(0)).abs() < 5 * (2 * variance / DRAWS).sqrt()).all()
    assert ((given.var(0) / variance - 1).abs() < 5 * math.sqrt(2 * 2 / DRAWS)).all()


@pytest.mark.parametrize("name", LAYERS)
def test_flipout_keeps_what_binds_the_places_of_one_item(outputs: Any, name: str) -> None:
    """An item's outputs have the covariance that drawn weights give; to 5 standard errors of each."""
    brute, given = (found[:, 0].flatten(1) for found in (outputs[name][0], outputs[name][1]["flipout"]))
    scale = brute.std(0)[:, None] * brute.std(0)
    assert ((given.T.cov() - brute.T.cov()).abs() < 5 * math.sqrt(2 * 2 / DRAWS) * scale).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_items_of_a_batch_have_noise_of_their_own(estimator: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3).requires_grad_(False), torch.randn(1, 4).repeat(2, 1)
    sds = {name: torch.full_like(p, 0.3) for name, p in layer.named_parameters()}
    drawn = torch.stack([ESTIMATORS[estimator](layer, x, sds) for _ in range(DRAWS)])  # [DRAWS, 2, 3]
    for output in (drawn - layer(x)).unbind(2):
        assert abs(float(output.T.corrcoef()[0, 1])) < 5 / math.sqrt(DRAWS)
        # Flipout's signs of the inputs: with those of the outputs alone, two items would differ in sign and no more
        assert float(output.abs().T.corrcoef()[0, 1]) < 0.9


def test_outputs_are_drawn_in_train_mode_alone_and_only_while_sampling() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    field = MeanField(layer, GaussianPrior(1), initial_scale=0.1, estimator=ESTIMATORS["local"])
    assert not torch.equal(field(x), layer(x))
    assert torch.equal(field.eval()(x), layer(x))
    field.train().sampling = False
    assert torch.equal(field(x), layer(x))


def test_inputs_that_are_all_zero_give_no_nan_gradient() -> None:
    layer = MeanField(nn.Linear(3, 2, bias=False), GaussianPrior(1), initial_scale=0.1, estimator=ESTIMATORS["local"])
    layer(torch.zeros(4, 3)).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)


# ---- draws


@pytest.mark.parametrize("layers", ["all", "last"])
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
    modules = list(found.module.modules())
    before = [{key: value.clone() for key, value in child.state_dict().items()} for child in modules]
    modes = [child.training for child in modules]
    found.draw(3, generator=seeded()).log_probs(images(4).double())
    with pytest.raises(RuntimeError):  # the weights are float64
        found.draw(3, generator=seeded()).log_probs(images(4))
    assert [child.training for child in modules] == modes
    for child, state in zip(modules, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in child.state_dict().items())


# ---- fits


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
    state = torch.get_rng_state()
    first, again, other = (
        BayesByBackprop(SHORT, layers=layers)
        .fit(convolutional, some_images(), generator=seeded(seed))
        .draw(3, generator=seeded())
        .log_probs(x)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


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


# ---- what is refused


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


def test_priors_keep_their_contract() -> None:
    """With both parts alike the mixture is the Gaussian, whose KL is exact."""
    torch.manual_seed(0)
    mean, sd = torch.randn(50).double() * 0.3, torch.rand(50).double() * 0.2 + 0.01
    alike: Prior = MixturePrior(0.4, 0.8, 0.8)
    draws = torch.stack([alike.kl(mean, sd, 0.5) for _ in range(4000)])
    exact = GaussianPrior(0.8).kl(mean, sd, 0.5)
    assert abs(draws.mean() - exact) < 5 * draws.std() / math.sqrt(len(draws))
