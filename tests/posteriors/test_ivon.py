"""IVON: it meets the conjugate posterior where there is one, variances stay positive, and a draw is one function."""

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from activebdl import Training, UserError
from activebdl.build import make_method
from activebdl.data import Labelled, Normalise
from activebdl.likelihoods import Categorical, Gaussian
from activebdl.posteriors._ivon_optimizer import IvonOptimizer
from activebdl.posteriors.ivon import IVON, IvonPosterior
from activebdl.spec import Named
from tests.conftest import blobs
from tests.posteriors.modules import ConvNet, images, mlp, points

QUICK = Training(steps=24, batch_size=8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_meets_the_conjugate_posterior_of_linear_regression() -> None:
    """Mean within .15 posterior standard deviations, variances within 15 % of 1 / diag(posterior precision).

    The estimates of the Hessian have a relative standard deviation of about 1.7 a step, of which beta2 = .999 leaves
    4 %; the mean moves with the noise of its last steps.
    """
    n, noise, precision = 40, 0.5, 2.0
    mixing = torch.tensor([[1.0, 0.6, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.5]])
    x = torch.randn(n, 3, generator=seeded(3)) @ mixing
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + noise * torch.randn(n, generator=seeded(4))
    posterior_precision = x.double().T @ x.double() / noise**2 + precision * torch.eye(3, dtype=torch.double)
    mean = torch.linalg.solve(posterior_precision, x.double().T @ y.double() / noise**2)
    variance = 1 / posterior_precision.diag()
    assert (posterior_precision.inverse().diag() / variance).max() > 1.3  # another vector than the marginal variances

    method = IVON(
        Training(steps=4000, batch_size=n),
        learning_rate=0.05,
        ess_min=0.0,
        weight_decay=precision / n,
        beta2=0.999,
        hess_init=1.0,
    )
    labelled = Labelled(x, y, Gaussian(noise), Normalise())
    found = method.fit(lambda: nn.Linear(3, 1, bias=False), labelled, generator=seeded())
    weight = found.module.get_parameter("weight")[0].double()
    assert ((weight - mean).abs() / variance.sqrt()).max() < 0.15
    assert (found.deviations["weight"][0].double().square() / variance - 1).abs().max() < 0.15
    drawn = torch.stack([draw["weight"][0] for draw in found.draw(5_000, generator=seeded()).weights]).double()
    torch.testing.assert_close(drawn.mean(0), weight, rtol=0, atol=5 * float(variance.max() / 5_000) ** 0.5)
    torch.testing.assert_close(
        drawn.var(0) / found.deviations["weight"][0].double() ** 2, torch.ones(3).double(), rtol=0, atol=0.1
    )


class SumOfTwo(nn.Module):
    """Logits ``a x + b x``, with a prior of its own on b."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def test_weights_that_the_data_say_nothing_of_keep_their_prior() -> None:
    labelled = Labelled(torch.zeros(5, 2), torch.tensor([0, 1, 0, 1, 1]), Categorical(2))
    training = Training(steps=2500, batch_size=5, prior_precision=3.0, prior_on=("b",), schedule="constant")
    method = IVON(training, ess_min=0.0, weight_decay=0.4, beta2=0.99)
    found = method.fit(SumOfTwo, labelled, generator=seeded())
    for name, precision in (("a.weight", 5 * 0.4), ("b.weight", 5 * 0.4 + 3.0)):
        torch.testing.assert_close(found.deviations[name], torch.full((2, 2), precision**-0.5), rtol=1e-4, atol=0)
        assert found.module.get_parameter(name).abs().max() < 1e-5


def test_steps_are_those_of_the_paper() -> None:
    """Algorithm 1 of Shen et al. 2024, with h itself, in float64, on the gradients and samples that were met."""
    ess, h0, delta, beta1, beta2, lr = 50.0, 0.7, 0.2, 0.8, 0.9, 0.05
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.double))
    m, g = parameter.detach().clone(), torch.zeros(3, dtype=torch.double)
    h = torch.full((3,), h0, dtype=torch.double)
    optimizer = IvonOptimizer(
        [parameter], lr, ess=ess, generator=seeded(), hess_init=h0, beta1=beta1, beta2=beta2, weight_decay=delta
    )
    with optimizer.perturbed():
        for t in range(1, 30):
            theta = parameter.detach().clone()
            optimizer.zero_grad()
            (parameter.square().square().sum() + (parameter.sum() - 3).square()).backward()
            gradient = parameter.grad
            assert gradient is not None
            optimizer.step()
            variance = 1 / (ess * (h + delta))
            estimate = gradient * (theta - m) / variance
            g = beta1 * g + (1 - beta1) * gradient
            h = beta2 * h + (1 - beta2) * estimate + (1 - beta2) ** 2 * (h - estimate) ** 2 / (2 * (h + delta))
            m = m - lr * (h0 + delta) * (g / (1 - beta1**t) + delta * m) / (h + delta)
            torch.testing.assert_close(optimizer.variance(parameter), 1 / (ess * (h + delta)), rtol=1e-9, atol=0)
    torch.testing.assert_close(parameter.detach(), m, rtol=0, atol=1e-9)


def test_the_noise_has_the_stated_size() -> None:
    parameter = nn.Parameter(torch.full((40_000,), 2.0))
    optimizer = IvonOptimizer([parameter], 0.1, ess=100.0, generator=seeded(), hess_init=0.2, weight_decay=0.05)
    with optimizer.perturbed():
        noise = parameter.detach().double() - 2
    deviation = (100 * 0.25) ** -0.5
    assert abs(float(noise.mean())) < 5 * deviation / 200
    assert abs(float(noise.std()) / deviation - 1) < 5 / (2 * 40_000) ** 0.5


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.5, 0.999]),
    st.integers(0, 9),
)
def test_variances_stay_positive_whatever_the_gradients(gradients: list[float], beta2: float, seed: int) -> None:
    parameter = nn.Parameter(torch.ones(4))
    optimizer = IvonOptimizer(
        [parameter], 1e-3, ess=10.0, generator=seeded(seed), hess_init=0.1, beta2=beta2, weight_decay=1e-3
    )
    with optimizer.perturbed():
        for gradient in gradients:
            before = optimizer.variance(parameter)
            assert (before > 0).all() and before.isfinite().all()
            parameter.grad = torch.tensor([gradient, -gradient, 0.0, gradient / 2])
            optimizer.step()
            # the precision never falls by more than half, so the variance never grows by more than twice
            assert (optimizer.variance(parameter) <= before * 2.0001).all()


def test_the_mean_is_back_after_the_fit_and_after_an_exception() -> None:
    """The learning rate is too small to change a float32, so that what is not noise is the start."""
    made: list[tuple[nn.Module, dict[str, Tensor]]] = []
    steps = 0

    def network() -> nn.Module:
        made.append((module := mlp(), copy.deepcopy(module.state_dict())))
        return module

    def look(stop: int | None) -> Callable[[], None]:
        def on_step() -> None:
            nonlocal steps
            steps += 1
            module, start = made[-1]
            assert all(not torch.equal(p, start[name]) for name, p in module.named_parameters())
            if steps == stop:
                raise KeyboardInterrupt

        return on_step

    def is_back() -> bool:
        module, start = made[-1]
        return all(torch.equal(parameter, start[name]) for name, parameter in module.named_parameters())

    method = IVON(QUICK, learning_rate=1e-20)
    fitted = method.fit(network, points(20), generator=seeded(), on_step=look(None))
    assert steps == method.steps(20) == 24 and is_back() and fitted.module is made[-1][0]
    steps = 0
    with pytest.raises(KeyboardInterrupt):
        method.fit(network, points(20), generator=seeded(), on_step=look(3))
    assert is_back()


@pytest.mark.parametrize("stop", [False, True])
def test_dropout_is_inactive_in_the_fit_and_as_it_was_afterwards(stop: bool) -> None:
    """With it, every item of a batch of copies would meet another mask, and have another output."""
    outputs: list[Tensor] = []
    made: list[nn.Module] = []

    def network() -> nn.Module:
        module = nn.Sequential(nn.Linear(2, 64), nn.Dropout(0.5), nn.AlphaDropout(0.3), nn.Linear(64, 3))
        module.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
        made.append(module)
        return module

    def on_step() -> None:
        if stop:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        IVON(QUICK).fit(network, points(1), generator=seeded(), on_step=on_step)
    assert len(outputs) == (1 if stop else 24)
    # Alike to the last bits, which a processor may round otherwise in another row; a dropped unit is more than that.
    assert all(torch.allclose(output, output[:1].expand_as(output), rtol=1e-5, atol=1e-6) for output in outputs)
    assert [module.p for module in made[0].modules() if isinstance(module, nn.Dropout | nn.AlphaDropout)] == [0.5, 0.3]


def test_a_step_without_a_sample_is_refused() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = IvonOptimizer([parameter], 0.1, ess=10.0, generator=seeded())
    parameter.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"within perturbed\(\)"):
        optimizer.step()


def test_the_effective_sample_size_has_a_floor() -> None:
    method = IVON(ess_per_label=2.0, ess_min=500.0)
    assert [method.ess(n) for n in (1, 20, 250, 251, 1000)] == [500, 500, 500, 502, 2000]
    assert IVON().ess(20) > 1000  # n itself would be noise alone


def test_it_learns_from_twenty_labels() -> None:
    x, y = blobs(320, noise=0.3)
    labelled = Labelled(x[:20], y[:20], Categorical(3))
    draws = IVON(Training(steps=300)).fit(mlp, labelled, generator=seeded()).draw(20, generator=seeded())
    accuracy = float((draws.log_probs(x[20:]).exp().mean(1).argmax(1) == y[20:]).double().mean())
    assert accuracy > 0.9


def fitted(labelled: Labelled) -> IvonPosterior:
    """Fitted in float32, then everything in float64, so that a comparison need not allow for rounding."""
    found = IVON(QUICK, ess_min=200.0).fit(ConvNet, labelled, generator=seeded())
    return IvonPosterior(found.module.double(), {name: part.double() for name, part in found.deviations.items()})


def test_a_draw_is_one_function() -> None:
    x = images(11, torch.double).inputs
    draws = fitted(images(20)).draw(3, generator=seeded())
    whole, order = draws.log_probs(x), torch.randperm(11, generator=seeded())
    assert whole.shape == (11, 3, 3)
    assert not torch.equal(whole[:, 0], whole[:, 1])
    for size in (1, 4, 11):
        parts = torch.cat([draws.log_probs(part) for part in x.split(size)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(draws.log_probs(x[order]), whole[order], rtol=0, atol=1e-12)


def test_the_first_draws_are_the_same_however_many_are_asked_for() -> None:
    posterior, x = fitted(images(20)), images(4, torch.double).inputs
    few, many = (posterior.draw(k, generator=seeded(9)).log_probs(x) for k in (2, 5))
    torch.testing.assert_close(few, many[:, :2], rtol=0, atol=0)


def test_two_fits_with_one_seed_are_equal_to_the_last_bit() -> None:
    first, second = (IVON(QUICK).fit(ConvNet, images(20), generator=seeded(3)) for _ in range(2))
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name])
    assert all(torch.equal(first.deviations[name], second.deviations[name]) for name in first.deviations)
    x = images(5).inputs
    assert torch.equal(*(p.draw(2, generator=seeded()).log_probs(x) for p in (first, second)))


@pytest.mark.parametrize("wrong", [False, True])
def test_sampling_leaves_the_module_alone_also_after_an_exception(wrong: bool) -> None:
    posterior = fitted(images(20))
    module = posterior.module
    module.get_submodule("body.1").train()  # a mode of its own, to be found again
    modes = [child.training for child in module.modules()]
    state = copy.deepcopy(module.state_dict())
    draws = posterior.draw(2, generator=seeded())
    if wrong:
        with pytest.raises(RuntimeError):
            draws.log_probs(torch.zeros(3, 2, 9, 9, dtype=torch.double))
    else:
        draws.log_probs(images(5, torch.double).inputs)
    assert modes == [child.training for child in module.modules()]
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name])


def test_drawn_weights_lie_in_memory_as_the_parameters_do() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    posterior = IVON(QUICK).fit(
        lambda: module, Labelled(torch.randn(9, 3, 6, 6), torch.arange(9) % 3, Categorical(3)), generator=seeded()
    )
    (draw,) = posterior.draw(1, generator=seeded()).weights
    assert module.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)
    assert all(draw[name].stride() == parameter.stride() for name, parameter in module.named_parameters())


@pytest.mark.parametrize("network", [ConvNet, lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3))])
def test_one_label_is_enough(network: Callable[[], nn.Module]) -> None:
    posterior = IVON(QUICK).fit(network, images(1), generator=seeded())
    assert posterior.draw(3, generator=seeded()).log_probs(images(5).inputs).isfinite().all()


def test_frozen_parameters_stay_where_they_are() -> None:
    def network() -> nn.Module:
        module = mlp()
        module.get_parameter("0.weight").requires_grad_(False).fill_(0.25)
        return module

    posterior = IVON(QUICK).fit(network, points(20), generator=seeded())
    draws = posterior.draw(3, generator=seeded())
    assert (posterior.module.get_parameter("0.weight") == 0.25).all()
    assert all("0.weight" not in draw for draw in draws.weights)
    assert len({float(draw["2.weight"][0, 0]) for draw in draws.weights}) == 3


def test_it_is_known_by_name_with_plain_options() -> None:
    options = {"name": "ivon", "ess_min": 50, "training": {"steps": 7}}
    assert make_method(Named.model_validate(options)) == IVON(Training(steps=7), ess_min=50.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learning_rate": 0.0}, "learning rate, hess_init and weight_decay must be above 0; they are 0.0"),
        ({"hess_init": -1.0}, "learning rate, hess_init and weight_decay must be above 0"),
        ({"weight_decay": 0.0}, "learning rate, hess_init and weight_decay must be above 0"),
        ({"ess_min": -1.0}, "ess_per_label and ess_min must not be negative"),
        ({"ess_min": 0.0, "ess_per_label": 0.0}, "nor both 0"),
        ({"beta1": 1.0}, "beta1 and beta2 must be at least 0 and below 1"),
        ({"beta2": 1.0}, "beta1 and beta2 must be at least 0 and below 1"),
    ],
)
def test_settings_that_cannot_be_are_told(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        IVON(**options)  # type: ignore[arg-type]


def test_a_prior_on_what_the_network_does_not_have_is_refused_before_it_is_trained() -> None:
    with pytest.raises(UserError, match="prior_on names 'nowhere'"):
        IVON(Training(prior_on=("nowhere",))).check(mlp(), torch.zeros(2, 2))


def test_a_loss_that_is_no_number_is_told_with_its_step() -> None:
    labelled = Labelled(torch.full((4, 2), 3e38), torch.zeros(4).long(), Categorical(3))
    with pytest.raises(UserError, match=r"The loss became (nan|inf) at step \d+: lower"):
        IVON(QUICK).fit(lambda: nn.Sequential(mlp(), nn.Linear(3, 3)), labelled, generator=seeded())
