"""MNF: the bound against exact divergences and an exact evidence, both ways of sampling against each other."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activebdl import MAP, Training, UserError
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical, Gaussian
from activebdl.posteriors._shared import WeightDraws
from activebdl.posteriors.mnf import MNF, MNFPosterior, MultiplicativeLayer
from tests.conftest import blobs, small_network
from tests.posteriors.test_flows import scrambled, seeded

QUICK = Training(steps=20, batch_size=8)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(3, 2), (3,)),
    "linear, no bias, on tokens": (lambda: nn.Linear(3, 2, bias=False), (4, 3)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 2, stride=2, groups=2, dilation=2), (4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, bias=False), (1, 2, 3, 3)),
}
EVERY = pytest.mark.parametrize("name", LAYERS)


def layer(plain: nn.Module, scale: float = 0.4, **options: Any) -> MultiplicativeLayer:
    """A layer of which no parameter is where it starts; in float64."""
    made = scrambled(MultiplicativeLayer(plain, MNF(hidden=5, **options)), scale)
    assert isinstance(made, MultiplicativeLayer)
    return made.requires_grad_(False)


def classes(n: int = 30) -> Labelled:
    x, y = blobs(n)
    return Labelled(x, y, Categorical(3))


def images(n: int = 6) -> Labelled:
    y = torch.arange(n) % 3
    return Labelled(torch.randn(n, 1, 8, 8, generator=seeded()) + y[:, None, None, None], y, Categorical(3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout2d(0.5), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


def fitted(
    network: Callable[[], nn.Module], labelled: Labelled, seed: int = 0, training: Training = QUICK, **options: Any
) -> MNFPosterior:
    return MNF(training, **options).fit(network, labelled, generator=seeded(seed))


def divergence(q: torch.distributions.Distribution, p: torch.distributions.Distribution) -> Tensor:
    return torch.distributions.kl_divergence(q, p).sum()


def mean_and_error(samples: Tensor) -> tuple[float, float]:
    return float(samples.mean()), float(samples.std()) / math.sqrt(len(samples))


def distribution_given(made: MultiplicativeLayer, z: Tensor) -> torch.distributions.Normal:
    """q(W | z), written out: z stands at the inputs of a linear layer and at the filters of a convolution."""
    along = z if isinstance(made.plain, nn.Linear) else z.view(-1, *[1] * (made.mu.dim() - 1))
    return torch.distributions.Normal(made.mu * along, made.log_sigma.exp())


# --- the bound ---


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
    torch.manual_seed(seed)
    made = layer(nn.Linear(3, 2, bias=False), couplings=0)
    other = layer(nn.Linear(3, 2, bias=False), scale=0.2 * (seed + 1), couplings=couplings)
    made.r = other.r
    bound, error = mean_and_error(made.kl_bound(20_000))
    assert bound > float(exact_divergence(made, made.q.log_sd.exp())) - 4 * error


def test_the_bound_closes_as_the_auxiliary_learns_to_read_z_from_the_weight() -> None:
    """One weight: the exact q(z | w) is among the r(z | W), nearly, and the gap goes from .8 nats to nothing."""
    made = layer(nn.Linear(1, 1, bias=False), couplings=0)
    values = (made.q.mean, 1.0), (made.q.log_sd, math.log(0.5)), (made.mu, 1.0), (made.log_sigma, math.log(0.25))
    for parameter, value in (*values, (made.r.contrast, 0.5)):
        parameter.fill_(value)
    exact = float(exact_divergence(made, made.q.log_sd.exp()))
    made.r.requires_grad_(True)
    optimizer = torch.optim.Adam(made.r.parameters(), 0.02)
    torch.manual_seed(0)
    for _ in range(400):
        optimizer.zero_grad()
        made.kl_bound(256).mean().backward()
        optimizer.step()
    bound, error = mean_and_error(made.kl_bound(50_000).detach())
    assert error < 0.02
    assert -4 * error < bound - exact < 0.1


@torch.no_grad()
def test_the_bound_is_above_the_divergence_of_a_flowed_distribution() -> None:
    """q(W) = mean over z of q(W | z), by 20,000 z, which can only put the divergence too low."""
    made = layer(nn.Linear(2, 1, bias=False), scale=1.0, couplings=4)
    torch.manual_seed(0)
    z = made.sample_z(20_000)
    w = torch.cat([made.draw(seeded(i))["weight"] for i in range(500)])
    given = torch.distributions.Normal(made.mu * z, made.log_sigma.exp())
    log_q = torch.stack([given.log_prob(one).sum(-1).logsumexp(0) for one in w]) - math.log(len(z))
    log_p = torch.distributions.Normal(0.0, made.prior_sd).log_prob(w).sum(-1)
    exact, exact_error = mean_and_error(log_q - log_p)
    bound, error = mean_and_error(made.kl_bound(20_000))
    assert bound > exact - 4 * (error + exact_error)


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


# --- both ways of sampling ---


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


# --- the contract of every posterior ---


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


def state(module: nn.Module) -> tuple[dict[str, Tensor], list[bool]]:
    return {name: value.clone() for name, value in module.state_dict().items()}, [m.training for m in module.modules()]


def test_sampling_leaves_the_module_as_it_was_also_after_an_exception(convolutions: MNFPosterior) -> None:
    module = convolutions.module
    module[1].train()  # type: ignore[index]
    before, modes = state(module)
    draws = convolutions.draw(2, generator=seeded())
    draws.log_probs(images(3).inputs)
    with pytest.raises(RuntimeError):
        draws.log_probs(torch.zeros(3, 1, 5, 5))
    after, modes_after = state(module)
    assert modes_after == modes and True in modes
    assert all(before[name].equal(after[name]) for name in before) and before.keys() == after.keys()
    assert [type(child) for child in module.modules()] == [type(child) for child in convolutional().modules()]


@pytest.mark.parametrize("layers", ["all", "last"])
def test_two_fits_from_one_seed_are_equal_to_the_last_bit(layers: str) -> None:
    global_state = torch.get_rng_state()
    one, same, other = (fitted(convolutional, images(), seed=seed, layers=layers) for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(global_state)
    x = images(4).inputs
    results = [posterior.draw(3, generator=seeded()).log_probs(x) for posterior in (one, same, other)]
    assert results[0].equal(results[1])
    assert not results[0].equal(results[2])
    assert one.diagnostics == same.diagnostics


@pytest.mark.parametrize("map_start", [0.0, 0.5, 0.99])
@pytest.mark.parametrize(("n", "steps"), [(1, 1), (1, 2), (1, 20), (20, 20)])
def test_few_labels_and_few_steps_will_do(map_start: float, n: int, steps: int) -> None:
    taken: list[int] = []
    method = MNF(Training(steps=steps, steps_per_label=0.5), layers="all", map_start=map_start)
    posterior = method.fit(small_network, classes(n), generator=seeded(), on_step=lambda: taken.append(1))
    assert len(taken) == method.steps(n) == steps + round(0.5 * n)
    assert posterior.draw(3, generator=seeded()).log_probs(classes(4).inputs).isfinite().all()
    assert all(math.isfinite(value) for value in posterior.diagnostics.values())


def test_it_learns() -> None:
    x, y = blobs(300, seed=1, noise=0.3)
    labelled = Labelled(x[:60], y[:60], Categorical(3))
    for layers in ("all", "last"):
        posterior = fitted(small_network, labelled, training=Training(steps=200), layers=layers)
        p = posterior.draw(50, generator=seeded()).log_probs(x[60:]).exp().mean(1)
        assert (p.argmax(-1) == y[60:]).float().mean() > 0.95


# --- the phases ---


def test_the_means_start_where_the_plain_network_was_trained_to() -> None:
    """30 steps of plain training and one more: Adam's step is no longer than the learning rate."""
    plain = MAP(Training(steps=30)).fit(small_network, classes(), generator=seeded()).module
    barely = MAP(Training(steps=1)).fit(small_network, classes(), generator=seeded()).module
    posterior = fitted(small_network, classes(), training=Training(steps=31), layers="all", map_start=30 / 31)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(posterior.module.get_parameter(name), value, rtol=0, atol=0.0031)
    assert (plain.get_parameter("0.weight") - barely.get_parameter("0.weight")).abs().max() > 0.03


class Spy(nn.Module):
    """Functional dropout; notes the modes in which it is called."""

    def __init__(self, modes: list[bool]) -> None:
        super().__init__()
        self.norm, self.out, self.modes = nn.BatchNorm1d(2), nn.Linear(2, 3), modes

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training and self.norm.training)
        return self.out(F.dropout(self.norm(x), 0.5, self.training))


def test_dropout_and_batch_statistics_stop_after_the_map_start() -> None:
    modes: list[bool] = []
    posterior = fitted(lambda: Spy(modes), classes(), training=Training(steps=10), map_start=0.6)
    assert modes[:11] == [False] + [True] * 6 + [False] * 4  # first the look at which layers it calls
    assert not any(modes[11:])
    assert int(posterior.module.get_buffer("norm.num_batches_tracked")) == 6


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


# --- what is refused ---


def test_networks_that_it_cannot_treat_are_refused() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(UserError, match="calls no nn.Linear or nn.Conv layer"):
        MNF(layers="all").check(nn.Flatten(), x)
    with pytest.raises(UserError, match="not that of an nn.Linear"):
        MNF(layers="last").check(nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)), x)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(UserError, match="layer '0' shares its weight"):
        MNF(layers="all").check(tied, x)
    with pytest.raises(UserError, match="prior_on names 'dense'"):
        MNF(Training(prior_on=("dense",))).check(nn.Linear(3, 3), x)
    MNF().check(convolutional(), torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match="calls no nn.Linear"):
        fitted(nn.Flatten, classes(), layers="all")
    with pytest.raises(UserError, match=r"outputs of shape \(8, 3\)"):
        fitted(lambda: nn.Linear(2, 4), classes())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": "first"}, "layers must be 'all' or 'last', not 'first'"),
        ({"prior_scale": 0.0}, "prior_scale must be above 0, and is 0.0"),
        ({"prior_scale": math.nan}, "prior_scale must be above 0, and is nan"),
        ({"initial_scale": -1.0}, "initial_scale must be above 0"),
        ({"initial_noise": 0.0}, "initial_noise must be above 0"),
        ({"map_start": 1.0}, "map_start must be at least 0 and below 1"),
        ({"warm_up": 1.5}, "warm_up from 0 to 1"),
        ({"kl_weight": -0.1}, "kl_weight must not be negative"),
        ({"couplings": -1}, "couplings must not be negative"),
        ({"hidden": 0}, "hidden and kl_samples must be at least 1"),
        ({"kl_samples": 0}, "hidden and kl_samples must be at least 1"),
    ],
)
def test_bad_values_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        MNF(**options)


def test_a_loss_that_is_not_a_number_is_told() -> None:
    labelled = Labelled(torch.full((4, 2), math.nan), torch.zeros(4, dtype=torch.long), Categorical(3))
    with pytest.raises(UserError, match="The loss became nan at step 1"):
        fitted(small_network, labelled, map_start=0.0)


@pytest.mark.parametrize("network", [lambda: nn.Linear(2, 3, bias=False), lambda: dead_convolution()])
def test_inputs_of_nothing_but_zeros_leave_finite_gradients(network: Callable[[], nn.Module]) -> None:
    """No input, no variance of the output: the root's gradient there would be infinite."""
    shape = (4, 2) if isinstance(network(), nn.Linear) else (4, 1, 8, 8)
    labelled = Labelled(torch.zeros(shape), torch.arange(4) % 3, Categorical(3))
    posterior = fitted(network, labelled, layers="all")
    assert all(value.isfinite().all() for made in posterior.layers.values() for value in made.state_dict().values())


def dead_convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.Flatten(), nn.Linear(144, 3))
