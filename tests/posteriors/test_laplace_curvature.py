"""Laplace's Gaussian: conjugate truth, the Hessian of autograd, looks, and the evidence by brute force."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from activebdl import Training, UserError
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical, Gaussian
from activebdl.posteriors._curvature import best_precision
from activebdl.posteriors.laplace import Laplace, LastLayerPosterior
from tests.posteriors.laplace_cases import (
    EVERY,
    Structure,
    classes,
    classifier,
    conjugate,
    conv,
    fishers,
    images,
    last_layer,
    made,
    normal,
    phi_of,
    regressor,
    single,
)
from tests.posteriors.modules import seeded
from tests.posteriors.states import state

# ---- conjugate truth ----


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


# ---- looks ----


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
    before, x, two = state(module), data.inputs, list[Tensor]()
    pairs = [(None, None), (seeded(3), seeded(3))]
    for first, second in pairs:
        found, again = (Laplace().from_trained(module, data, generator=g) for g in (first, second))
        assert isinstance(found, LastLayerPosterior)
        two = [given.draw(2, generator=seeded()).log_probs(x) for given in (found, again)]
        assert torch.equal(two[0], two[1])
        assert all(torch.equal(v, module.state_dict()[k]) for k, v in found.head.module.state_dict().items())
        assert not any(child.training for child in found.head.module.modules())
    other = Laplace().from_trained(module, data, generator=seeded(4))
    assert not torch.equal(other.draw(2, generator=seeded()).log_probs(x), two[0])
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
