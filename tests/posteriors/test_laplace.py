"""Laplace: conjugate truth, the Hessian of autograd, the evidence by brute force, and a draw is one function."""

import sys
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.func import functional_call

from activebdl import Training, UserError
from activebdl.build import make_method
from activebdl.data import Labelled, Normalise
from activebdl.likelihoods import Categorical, Gaussian
from activebdl.posteriors._curvature import best_precision
from activebdl.posteriors._linearised import LinearisedPosterior
from activebdl.posteriors.laplace import Laplace, LastLayerPosterior
from activebdl.spec import Named

Structure = Literal["full", "kron", "diag"]
EVERY: Any = pytest.mark.parametrize("structure", ["full", "kron", "diag"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.double)


def made(network: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network().double()


def regressor() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 3))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.4),
        nn.Linear(12, 3),
    )  # fmt: skip


def classes(n: int = 12, seed: int = 1) -> Labelled:
    return Labelled(normal(n, 3, seed=seed), torch.arange(n) % 3, Categorical(3))


def images(n: int = 12, seed: int = 1) -> Labelled:
    return Labelled(normal(n, 1, 6, 6, seed=seed), torch.arange(n) % 3, Categorical(3))


def phi_of(module: nn.Module, x: Tensor) -> Tensor:
    """Features and a column of ones ``[n, E]``, by taking the last layer of a Sequential off."""
    assert isinstance(module, nn.Sequential)
    with torch.no_grad():
        return torch.cat([module.eval()[:-1](x), torch.ones(len(x), 1, dtype=x.dtype)], dim=1)


def last_layer(module: nn.Module, **options: Any) -> LastLayerPosterior:
    """Around the items as they are, unless the options say otherwise."""
    options = {"looks": 0, **options}
    data = options.pop("data", None) or (images() if isinstance(next(module.children()), nn.Conv2d) else classes())
    found = Laplace(**options).from_trained(module, data)
    assert isinstance(found, LastLayerPosterior)
    return found


def fishers(module: nn.Module, x: Tensor) -> list[Tensor]:
    """``diag(p) - p p^T`` of each item, written out."""
    with torch.no_grad():
        return [p.diag() - torch.outer(p, p) for p in module.eval()(x).softmax(-1)]


# ---- conjugate truth ----


def conjugate(phi: Tensor, y: Tensor, noise: float, precision: float) -> tuple[Tensor, Tensor, float]:
    """Mean, covariance and log evidence of Bayesian linear regression."""
    covariance = torch.linalg.inv(phi.T @ phi / noise**2 + precision * torch.eye(phi.shape[1], dtype=torch.double))
    marginal = noise**2 * torch.eye(len(phi), dtype=torch.double) + phi @ phi.T / precision
    evidence = MultivariateNormal(torch.zeros(len(phi), dtype=torch.double), marginal).log_prob(y)
    return covariance @ phi.T @ y / noise**2, covariance, float(evidence)


@pytest.mark.parametrize("structure", ["full", "kron"])  # with one output both are exact
def test_bayesian_linear_regression_is_exact(structure: Structure) -> None:
    module, x, y, noise, precision = made(regressor), normal(9, 3), normal(9, seed=2), 0.4, 1.7
    phi = phi_of(module, x)
    mean, covariance, evidence = conjugate(phi, y, noise, precision)
    with torch.no_grad():
        module.get_parameter("2.weight").copy_(mean[None, :-1])
        module.get_parameter("2.bias").copy_(mean[-1:])
    data = Labelled(x, y, Gaussian(noise))
    found = last_layer(module, structure=structure, prior_precision=precision, data=data)
    torch.testing.assert_close(found.mean.flatten(), mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(found.covariance(), covariance, rtol=1e-10, atol=1e-13)
    assert found.log_evidence() == pytest.approx(evidence, abs=1e-9)
    outputs = found.draw(20_000, generator=seeded()).outputs(x)[:, :, 0]  # [n, K]
    deviation = (phi @ covariance @ phi.T).diag().sqrt()
    torch.testing.assert_close((outputs.mean(1) - phi @ mean) / deviation, torch.zeros(9).double(), rtol=0, atol=0.035)
    torch.testing.assert_close(outputs.std(1) / deviation, torch.ones(9).double(), rtol=0, atol=0.025)


def test_a_fit_reaches_the_conjugate_posterior() -> None:
    """Training by full-batch gradients with the same prior goes to its mean, and the covariance is that of the data."""
    x, y, noise, precision = normal(16, 2), normal(16, seed=2), 0.5, 2.0
    phi = torch.cat([x, torch.ones(16, 1)], dim=1)
    mean, covariance, evidence = conjugate(phi, y, noise, precision)
    training = Training(
        steps=1500, batch_size=16, optimizer="sgd", learning_rate=0.02, schedule="constant", weight_decay=0.0,
        prior_precision=precision,
    )  # fmt: skip
    method = Laplace(training, structure="full", prior_precision=precision)
    found = method.fit(lambda: nn.Linear(2, 1), Labelled(x.float(), y.float(), Gaussian(noise)), generator=seeded())
    assert isinstance(found, LastLayerPosterior)
    torch.testing.assert_close(found.mean.flatten(), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.covariance(), covariance, rtol=0, atol=1e-6)
    assert found.log_evidence() == pytest.approx(evidence, abs=1e-4)


# ---- the Hessian, whole and factorised ----


@pytest.mark.parametrize("network", [classifier, conv])
def test_the_full_covariance_is_the_inverse_hessian_of_the_negative_log_joint(network: Callable[[], nn.Module]) -> None:
    module, precision = made(network), 0.8
    data = images() if network is conv else classes()
    found = last_layer(module, structure="full", prior_precision=precision)
    name = f"{len(list(module.children())) - 1}"
    outputs = found.mean.shape[0]

    def negative_log_joint(theta: Tensor) -> Tensor:
        rows = theta.view(outputs, -1)
        weights = {f"{name}.weight": rows[:, :-1], f"{name}.bias": rows[:, -1]}
        log_probs = functional_call(module.eval(), weights, (data.inputs,)).log_softmax(-1)
        return precision / 2 * theta.square().sum() - log_probs[torch.arange(12), data.labels].sum()

    hessian = torch.autograd.functional.hessian(negative_log_joint, found.mean.flatten())
    assert isinstance(hessian, Tensor)
    torch.testing.assert_close(found.covariance(), torch.linalg.inv(hessian), rtol=1e-9, atol=1e-11)


def test_the_diagonal_is_that_of_the_full_matrix() -> None:
    full, diagonal = (last_layer(made(classifier), structure=s, prior_precision=0.3) for s in ("full", "diag"))
    expected = (1 / torch.linalg.inv(full.covariance()).diag()).diag()
    torch.testing.assert_close(diagonal.covariance(), expected, rtol=1e-9, atol=1e-12)


def test_kronecker_factors_are_the_means_over_the_items() -> None:
    module, data, precision = made(classifier), classes(), 0.3
    phi = phi_of(module, data.inputs)
    hessian = torch.kron(torch.stack(fishers(module, data.inputs)).mean(0), phi.T @ phi)
    expected = torch.linalg.inv(hessian + precision * torch.eye(len(hessian), dtype=torch.double))
    found = last_layer(module, structure="kron", prior_precision=precision)
    torch.testing.assert_close(found.covariance(), expected, rtol=1e-9, atol=1e-12)


def zero_head(module: nn.Module) -> nn.Module:
    """With every logit 0, all items have the same Fisher information."""
    for parameter in list(module.parameters())[-2:]:
        nn.init.zeros_(parameter)
    return module


@pytest.mark.parametrize(
    ("module", "data"),
    [
        (made(classifier), classes(1)),
        (zero_head(made(classifier)), classes()),
        (made(regressor), Labelled(normal(7, 3), normal(7), Gaussian(0.3))),
    ],
)
def test_the_kronecker_form_is_exact_where_it_should_be(module: nn.Module, data: Labelled) -> None:
    full, kron = (last_layer(module, structure=s, prior_precision=0.5, data=data) for s in ("full", "kron"))
    torch.testing.assert_close(kron.covariance(), full.covariance(), rtol=1e-9, atol=1e-12)
    assert kron.log_evidence() == pytest.approx(full.log_evidence(), abs=1e-9)


def test_many_items_and_many_classes_are_summed_over_all_chunks() -> None:
    """More items than a chunk of inputs, and Fisher information larger than a chunk of it."""
    module, outputs, n = made(lambda: nn.Linear(1, 260)), 260, 300
    data = Labelled(normal(n, 1), torch.arange(n) % outputs, Categorical(outputs))
    phi = torch.cat([data.inputs, torch.ones(n, 1)], dim=1)
    expected = sum(f.diag()[:, None] * row.square()[None] for f, row in zip(fishers(module, data.inputs), phi))  # noqa: B905
    found = last_layer(module, structure="diag", prior_precision=1.0, data=data)
    torch.testing.assert_close(found.curvature.eigenvalues, expected, rtol=1e-10, atol=0)


class Stretch:
    """An augmentation without chance: its first batch times 1, its second times 2, and so on."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, generator: torch.Generator, /) -> Tensor:
        self.calls += 1
        return self.calls * x


def test_looks_are_averaged() -> None:
    """The curvature and the likelihood of three looks are the means of those of the three looks alone."""
    module, data = made(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))), classes()
    alone = [Labelled(times * data.inputs, data.labels, data.likelihood) for times in (1, 2, 3)]
    eye = torch.eye(15, dtype=torch.double)
    for structure in ("full", "diag"):
        method = Laplace(Training(augmentation=Stretch()), structure=structure, prior_precision=0.7, looks=3)
        found = method.from_trained(module, data)
        each = [last_layer(module, structure=structure, prior_precision=0.7, data=look) for look in alone]
        assert isinstance(found, LastLayerPosterior)
        mean = torch.stack([torch.linalg.inv(look.covariance()) for look in each]).mean(0)
        torch.testing.assert_close(torch.linalg.inv(found.covariance()), mean, rtol=1e-8, atol=1e-10)
        assert found.log_likelihood == pytest.approx(sum(look.log_likelihood for look in each) / 3, abs=1e-9)
    kron = Laplace(Training(augmentation=Stretch()), prior_precision=0.7, looks=3).from_trained(module, data)
    assert isinstance(kron, LastLayerPosterior)
    inputs = torch.cat([look.inputs for look in alone])
    phi = phi_of(module, inputs)
    hessian = torch.kron(torch.stack(fishers(module, inputs)).mean(0), phi.T @ phi / 3)
    torch.testing.assert_close(kron.covariance(), torch.linalg.inv(hessian + 0.7 * eye), rtol=1e-8, atol=1e-10)


def test_looks_drop_as_training_does() -> None:
    """Dropout before a linear layer: the mean over masks of its Hessian adds ``p / (1 - p) x^2`` to the diagonal."""
    module, p, noise = made(lambda: nn.Sequential(nn.Dropout(0.3), nn.Linear(3, 1))), 0.3, 0.5
    x = normal(6, 3)
    data = Labelled(x, normal(6, seed=2), Gaussian(noise))
    found = last_layer(module, structure="full", prior_precision=1.0, data=data, looks=4000)
    phi = torch.cat([x, torch.ones(6, 1)], dim=1)
    dropped = torch.cat([x.square().sum(0), torch.zeros(1)]) * p / (1 - p)
    expected = (phi.T @ phi + dropped.diag()) / noise**2 + torch.eye(4)
    torch.testing.assert_close(torch.linalg.inv(found.covariance()), expected, rtol=0.03, atol=0.5)
    assert dropped[:3].min() / noise**2 > 2


def test_looks_are_the_same_for_the_same_generator_and_change_nothing_else() -> None:
    module, data = conv(), single(images())
    before, x = state(module), data.inputs
    pairs = [(None, None), (seeded(3), seeded(3))]
    for first, second in pairs:
        found, again = (Laplace().from_trained(module, data, generator=g) for g in (first, second))
        assert isinstance(found, LastLayerPosterior)
        two = [given.draw(2, generator=seeded()).log_probs(x) for given in (found, again)]
        assert torch.equal(two[0], two[1])
        assert all(torch.equal(v, module.state_dict()[k]) for k, v in found.head.module.state_dict().items())
        assert not any(child.training for child in found.head.module.modules())
    assert state(module) == before
    with pytest.raises(UserError, match="looks at every item must not be negative, and are -1"):
        Laplace(looks=-1)


# ---- the evidence ----


@EVERY
def test_the_prior_precision_is_the_argmax_of_the_evidence(structure: Structure) -> None:
    """Against the determinant of the whole matrix, on a grid that is finer than the tolerance."""
    module, data = made(classifier), classes(60)
    found = last_layer(module, structure=structure, data=data)
    eye = torch.eye(found.mean.numel(), dtype=torch.double)
    hessian = torch.linalg.inv(found.covariance()) - found.prior_precision * eye
    with torch.no_grad():
        log_likelihood = module.eval()(data.inputs).log_softmax(-1)[torch.arange(60), data.labels].sum()

    def evidence(precision: float) -> float:
        joint = log_likelihood - precision / 2 * found.mean.square().sum()
        half = (torch.tensor(precision).log() * len(eye) - torch.linalg.slogdet(hessian + precision * eye)[1]) / 2
        return float(joint + half)

    grid = torch.logspace(-4, 4, 4001, dtype=torch.double).tolist()
    best = max(grid, key=evidence)
    assert grid[0] < best < grid[-1]
    assert found.prior_precision == pytest.approx(best, rel=0.005)
    for precision in (0.01, 1.0, 30.0):
        assert found.log_evidence(precision) == pytest.approx(evidence(precision), abs=1e-5)
    assert found.log_evidence() == pytest.approx(evidence(found.prior_precision), abs=1e-5)


def test_the_search_stays_finite_where_the_evidence_has_no_maximum() -> None:
    nothing, something = torch.zeros(2, 3, dtype=torch.double), torch.ones(2, 3, dtype=torch.double)
    assert best_precision(nothing, something) == pytest.approx(1e-6, rel=1e-3)  # data that determine nothing
    assert best_precision(something, nothing) == pytest.approx(1e6, rel=1e-3)  # weights that are 0
    assert best_precision(something, something) == pytest.approx((5**0.5 - 1) / 2, rel=1e-9)  # 1 / (1 + a) = a


# ---- draws ----


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


def state(module: nn.Module) -> list[Any]:
    modes = [(child.training, len(child._forward_pre_hooks), len(child._forward_hooks)) for child in module.modules()]
    weights = [(key, value.tolist()) for key, value in module.state_dict().items()]
    return [modes, weights, [parameter.requires_grad for parameter in module.parameters()]]


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


# ---- fits ----

SHORT = Training(steps=20, batch_size=8)


def single(data: Labelled) -> Labelled:
    return Labelled(data.inputs.float(), data.labels, data.likelihood, data.normalise)


@EVERY
def test_a_network_that_is_trained_already_gives_what_a_fit_gives(structure: Structure) -> None:
    data, method = single(images()), Laplace(SHORT, structure=structure, looks=0)
    fitted = method.fit(conv, data, generator=seeded())
    assert isinstance(fitted, LastLayerPosterior)
    module = conv().train()
    module.load_state_dict(fitted.head.module.state_dict())
    next(module.parameters()).requires_grad_(False)
    before, x = state(module), normal(5, 1, 6, 6).float()
    whole = method.from_trained(module, data)
    pair = method.from_trained(module, (data.inputs, data.labels))
    assert state(module) == before
    with torch.no_grad():  # the posterior is of the network as it was
        for parameter in module.parameters():
            parameter.zero_()
    expected = fitted.draw(4, generator=seeded()).log_probs(x)
    for found in (whole, pair):
        assert found.prior_precision == pytest.approx(fitted.prior_precision, rel=1e-6)
        torch.testing.assert_close(found.draw(4, generator=seeded()).log_probs(x), expected, rtol=0, atol=1e-5)


def test_stored_inputs_are_normalised_and_not_augmented() -> None:
    """uint8 items with a normalisation are what the same items are that are normalised by hand."""
    stored, normalise = torch.randint(256, (9, 1, 6, 6), generator=seeded()), Normalise(255.0, 0.4, 0.3)
    by_hand = (stored.float() / 255 - 0.4) / 0.3
    kept = Labelled(stored.to(torch.uint8), torch.arange(9) % 3, Categorical(3), normalise)
    ready = Labelled(by_hand, torch.arange(9) % 3, Categorical(3))
    module = made(conv).float()
    two = [last_layer(module, data=data, prior_precision=1.0, structure="full").covariance() for data in (kept, ready)]
    torch.testing.assert_close(two[0], two[1], rtol=1e-4, atol=1e-5)
    assert (two[0] - torch.eye(39)).abs().max() > 0.1  # the prior alone


def test_a_fit_depends_on_its_generator_alone() -> None:
    kept = torch.get_rng_state()
    Laplace(SHORT).fit(conv, single(images()), generator=seeded())
    assert torch.equal(torch.get_rng_state(), kept)

    def drawn(seed: int) -> list[Any]:
        torch.rand(3)
        found = Laplace(SHORT).fit(conv, single(images()), generator=seeded(seed))
        return found.draw(2, generator=seeded()).log_probs(single(images()).inputs).tolist()

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


@EVERY
@pytest.mark.parametrize("labels", [[1], [2, 2, 2, 2, 2], list(range(3)) * 7])
def test_few_labels_or_one_class_give_a_finite_posterior(structure: Structure, labels: list[int]) -> None:
    training = Training(steps=150, batch_size=16, learning_rate=0.03)
    data = Labelled(normal(len(labels), 1, 6, 6).float(), torch.tensor(labels), Categorical(3))
    found = Laplace(training, structure=structure).fit(conv, data, generator=seeded())
    log_probs = found.draw(20, generator=seeded()).log_probs(normal(30, 1, 6, 6, seed=3).float())
    assert log_probs.isfinite().all()
    assert len(log_probs[0].unique(dim=0)) == 20
    assert 1e-6 < found.prior_precision < 1e6


def test_steps_are_those_of_the_training() -> None:
    told: list[int] = []
    method = Laplace(Training(steps=3, steps_per_label=0.5))
    method.fit(conv, single(images()), generator=seeded(), on_step=lambda: told.append(1))
    assert len(told) == method.steps(12) == 9


def test_all_settings_are_plain_data() -> None:
    options = {"structure": "diag", "prior_precision": 2, "weights": "last", "training": {"steps": 5}}
    method = make_method(Named.model_validate({"name": "laplace", **options}))
    assert method == Laplace(Training(steps=5), structure="diag", prior_precision=2.0)


# ---- what is refused ----


class TwoCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).tanh())


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, :, None])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)), "not that of an nn.Linear layer"),
        (TwoCalls, "'layer' of TwoCalls must be called once"),
        (Rows, "'layer' of Rows must be called once, on one row of features"),
    ],
)
def test_networks_that_cannot_be_treated_are_refused_before_training(
    network: Callable[[], nn.Module], message: str
) -> None:
    steps: list[int] = []
    data = single(classes())
    with pytest.raises(UserError, match=message):
        Laplace(SHORT).fit(network, data, generator=seeded(), on_step=lambda: steps.append(1))
    with pytest.raises(UserError, match=message):
        Laplace().check(network(), data.inputs[:2])
    with pytest.raises(UserError, match=message):
        Laplace().from_trained(network(), data)
    assert steps == []


def test_a_head_that_is_too_large_for_its_full_covariance_is_refused() -> None:
    method = Laplace(structure="full")
    with pytest.raises(UserError, match=r"10,005 weights, too many .* use structure 'kron' or 'diag'"):
        method.check(nn.Linear(2000, 5), torch.zeros(2, 2000))
    Laplace(structure="kron").check(nn.Linear(2000, 5), torch.zeros(2, 2000))


def test_a_prior_of_the_training_on_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="prior_on names 'dense'"):
        Laplace(Training(prior_on=("dense",))).check(made(classifier), normal(2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_precision": 0.0}, "prior precision must be above 0, and is 0.0"),
        ({"prior_precision": -1.0}, "prior precision must be above 0"),
        ({"prior_precision": float("nan")}, "prior precision must be above 0"),
        ({"structure": "dense"}, "structure is one of full, kron, diag, not 'dense'"),
        ({"weights": "first"}, "weights are 'last' or 'all', not 'first'"),
        ({"weights": "all", "structure": "diag"}, "All weights are treated with structure 'kron' alone, not 'diag'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Laplace(**options)


def broken() -> nn.Module:
    module = made(classifier)
    nn.init.constant_(module.get_parameter("3.weight"), float("nan"))
    return module


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (made(classifier), Labelled(normal(4, 3), torch.arange(4), Categorical(4)), r"outputs of shape \(4, 4\)"),
        (made(classifier), Labelled(normal(0, 3), torch.arange(0), Categorical(3)), "not one item is labelled"),
        (made(classifier), (normal(4, 3), torch.arange(4)), "Classes run from 0 to 2"),
        (made(classifier), (normal(4, 3), torch.arange(4) - 2), "Classes run from 0 to 2"),
        (made(classifier), (normal(4, 3), torch.arange(3)), "one integer for each of the 4 items"),
        (made(classifier), (normal(4, 3), torch.zeros(4)), "one integer for each .* give a Labelled"),
        (broken(), classes(), "labelled item 0 is not finite"),
    ],
)
def test_data_that_do_not_fit_the_network_are_refused(module: nn.Module, data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Laplace().from_trained(module, data)


def test_a_missing_extra_is_named_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "laplace", None)
    with pytest.raises(UserError, match=r"pip install 'activebdl\[laplace\]'"):
        Laplace(weights="all").check(made(classifier), normal(2, 3))


# ---- with laplace-torch: its numbers beside ours, and all weights ----


def peer(module: nn.Module, data: Labelled, structure: str, subset: str = "last_layer") -> Any:
    library = pytest.importorskip("laplace", exc_type=ImportError)
    loader: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data.inputs, data.labels), batch_size=50)
    fitted = library.Laplace(module, "classification", subset_of_weights=subset, hessian_structure=structure)
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
