"""SWAG: its Gaussian has the moments of the points it saw, over all layers together, and a draw is one function."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from activebdl import Training, UserError
from activebdl.build import make_method
from activebdl.data import Labelled, Normalise
from activebdl.likelihoods import Categorical, Gaussian
from activebdl.posteriors import swag
from activebdl.posteriors.swag import SWAG, LowRankGaussian, Snapshots, SwagPosterior
from activebdl.spec import Named
from tests.posteriors.modules import ConvNet, images, mlp, points

QUICK = Training(steps=24, batch_size=8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(gaussian: LowRankGaussian, count: int) -> Tensor:
    generator = seeded(1)
    return torch.stack([gaussian.sample(generator) for _ in range(count)])


def spread(points: Tensor) -> Tensor:
    """Covariance ``[P, P]`` of ``[T, P]``, written out."""
    centred = points - points.mean(0)
    return centred.T @ centred / (len(points) - 1)


def test_moments_are_those_of_a_known_gaussian() -> None:
    factor = torch.randn(6, 2, generator=seeded(3), dtype=torch.double)
    diagonal = torch.tensor([0.1, 0.5, 1.0, 0.2, 0.05, 2.0], dtype=torch.double)
    mean = torch.arange(6, dtype=torch.double) * 100  # variances are small beside the means
    truth = torch.diag(diagonal) + factor @ factor.T
    path, generator = Snapshots(rank=20_000), seeded(4)
    for _ in range(20_000):
        z1, z2 = (torch.randn(size, generator=generator, dtype=torch.double) for size in (6, 2))
        path.add(mean + diagonal.sqrt() * z1 + factor @ z2)
    found = path.gaussian()
    # the standard error of a covariance of T points is about sqrt((C_ii C_jj + C_ij^2) / T): 5 of them
    error = 5 * ((truth.diag()[:, None] * truth.diag() + truth**2) / 20_000).sqrt()
    assert ((found.mean - mean).abs() < 5 * (truth.diag() / 20_000).sqrt()).all()
    assert ((found.variance - truth.diag()).abs() < error.diag()).all()
    low_rank = found.deviations.T @ found.deviations / (len(found.deviations) - 1)
    assert ((low_rank - truth).abs() < error).all()
    # a draw keeps the variances, and half of each covariance; its own sampling error comes on top
    drawn = torch.stack([found.sample(generator) for _ in range(4_000)])
    expected = (torch.diag(truth.diag()) + truth) / 2
    error += 5 * ((truth.diag()[:, None] * truth.diag() + truth**2) / 4_000).sqrt()
    assert ((spread(drawn) - expected).abs() < error).all()
    assert (expected.triu(1).abs() > error.triu(1)).any()  # the tolerance can tell covariance from none


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(("taken", "rank"), [(4, 50), (9, 3)])
def test_covariance_is_divided_by_the_deviations_there_are(taken: int, rank: int, scale: float) -> None:
    seen = torch.randn(taken, 3, generator=seeded(5), dtype=torch.double)
    path = Snapshots(rank)
    for point in seen:
        path.add(point)
    last = (seen - seen.mean(0))[-rank:]
    assert len(path.gaussian().deviations) == len(last) == min(taken, rank)
    expected = torch.diag(seen.var(0, unbiased=False)) / 2 + last.T @ last / (2 * (len(last) - 1))
    found = spread(samples(path.gaussian(scale), 40_000)) / scale**2
    error = 5 * ((expected.diag()[:, None] * expected.diag() + expected**2) / 40_000).sqrt()
    assert ((found - expected).abs() < error).all()


def test_rank_zero_keeps_the_whole_diagonal_and_nothing_else() -> None:
    seen = torch.randn(30, 3, generator=seeded(6), dtype=torch.double) @ torch.tensor(
        [[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.5]], dtype=torch.double
    )
    path = Snapshots(rank=0)
    for point in seen:
        path.add(point)
    expected = torch.diag(seen.var(0, unbiased=False))
    found = spread(samples(path.gaussian(), 40_000))
    error = 5 * ((expected.diag()[:, None] * expected.diag() + expected**2) / 40_000).sqrt()
    assert ((found - expected).abs() < error).all()


def test_layers_vary_together() -> None:
    """Two layers that mirrored each other along the path do so, by half their variance, in the draws."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    path = Snapshots(rank=30)
    for step in torch.linspace(-1, 1, 30, dtype=torch.double):
        path.add(torch.stack([step, -step]))
    draws = SwagPosterior(module, path.gaussian(), points(4)).draw(8_000, generator=seeded())
    drawn = torch.stack([torch.cat([part.flatten() for part in draw.values()]) for draw in draws.weights])
    correlation = float(torch.corrcoef(drawn.T)[0, 1])
    assert abs(correlation + 0.5) < 0.05


def test_the_path_is_that_of_training_at_a_constant_rate() -> None:
    """Every step's weights are looked at from outside, and the moments computed from them."""
    made: list[nn.Module] = []
    seen: list[Tensor] = []

    def network() -> nn.Module:
        made.append(mlp())
        return made[-1]

    def look() -> None:
        seen.append(torch.cat([p.detach().double().flatten() for p in made[-1].parameters()]))

    method = SWAG(QUICK, share=0.5, snapshots=4, rank=3)
    found = method.fit(network, points(20), generator=seeded(), on_step=look).gaussian
    assert len(seen) == method.steps(20) == 24
    taken = torch.stack([seen[i] for i in (14, 17, 20, 23)])  # four, evenly over the last twelve steps
    torch.testing.assert_close(found.mean.double(), taken.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.variance.double(), taken.var(0, unbiased=False), rtol=1e-3, atol=1e-12)
    torch.testing.assert_close(found.deviations.double(), (taken - taken.mean(0))[1:], rtol=0, atol=1e-6)


def test_the_mean_meets_the_ridge_solution() -> None:
    x = torch.randn(30, 3, generator=seeded(7))
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3 * torch.randn(30, generator=seeded(8))
    noise, decay = 0.5, 0.02
    training = Training(
        steps=900, batch_size=30, optimizer="sgd", learning_rate=0.05, weight_decay=decay, schedule="constant"
    )
    method = SWAG(training, share=0.2, optimizer="sgd", learning_rate=0.01)
    found = method.fit(
        lambda: nn.Linear(3, 1, bias=False), Labelled(x, y, Gaussian(noise), Normalise()), generator=seeded()
    )
    # the stationary point of  |y - x w|^2 / (2 n noise^2) + decay |w|^2 / 2
    a = x.double().T @ x.double() / (30 * noise**2) + decay * torch.eye(3, dtype=torch.double)
    expected = torch.linalg.solve(a, x.double().T @ y.double() / (30 * noise**2))
    torch.testing.assert_close(found.gaussian.mean.double(), expected, rtol=0, atol=1e-4)
    assert found.gaussian.variance.max() < 1e-8  # full batches do not wander


@pytest.mark.parametrize("share", [0.01, 0.25, 0.99])
def test_the_steps_of_both_phases_are_those_of_training(share: float) -> None:
    training = Training(steps=3, steps_per_label=0.7, learning_rate=0.02)
    method = SWAG(training, share=share, learning_rate=0.005)
    for n in (1, 20, 1000):
        settling, wandering = method.phases(n)
        assert settling.total_steps(n) + wandering.total_steps(n) == training.total_steps(n) == method.steps(n)
        assert settling.total_steps(n) >= 1 and wandering.total_steps(n) >= 2
        assert (settling.schedule, settling.learning_rate) == ("onecycle", 0.02)
        assert (wandering.schedule, wandering.learning_rate) == ("constant", 0.005)


def fitted(labelled: Labelled, network: Callable[[], nn.Module] = ConvNet) -> SwagPosterior:
    """Fitted in float32, then everything in float64, so that a comparison need not allow for rounding."""
    found = SWAG(QUICK, share=0.5).fit(network, labelled, generator=seeded())
    gaussian = found.gaussian
    wide = LowRankGaussian(gaussian.mean.double(), gaussian.variance.double(), gaussian.deviations.double())
    labelled = Labelled(labelled.inputs.double(), labelled.labels, labelled.likelihood, Normalise())
    return SwagPosterior(found.module.double(), wide, labelled)


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
    first, second = (SWAG(QUICK).fit(ConvNet, images(20), generator=seeded(3)) for _ in range(2))
    assert torch.equal(first.gaussian.mean, second.gaussian.mean)
    assert torch.equal(first.gaussian.deviations, second.gaussian.deviations)
    x = images(5).inputs
    assert torch.equal(*(p.draw(2, generator=seeded()).log_probs(x) for p in (first, second)))


def test_statistics_of_batch_normalisation_are_those_of_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = fitted(images(12))
    for chunk in (256, 4):
        monkeypatch.setattr(swag, "CHUNK", chunk)
        draw = posterior.draw(2, generator=seeded()).weights[1]
        x = posterior.labelled.inputs
        first = nn.functional.conv2d(x, draw["body.0.weight"], draw["body.0.bias"])
        torch.testing.assert_close(draw["body.1.running_mean"], first.mean((0, 2, 3)), rtol=0, atol=1e-12)
        variances = [part.var((0, 2, 3), unbiased=True) for part in first.split(chunk)]
        torch.testing.assert_close(draw["body.1.running_var"], torch.stack(variances).mean(0), rtol=0, atol=1e-12)
    # the second layer's, in one chunk, written out through the first
    monkeypatch.setattr(swag, "CHUNK", 256)
    draw = posterior.draw(2, generator=seeded()).weights[1]
    mean, var = first.mean((0, 2, 3), keepdim=True), first.var((0, 2, 3), keepdim=True, unbiased=False)
    scale, shift = draw["body.1.weight"].view(-1, 1, 1), draw["body.1.bias"].view(-1, 1, 1)
    second = ((first - mean) / (var + 1e-5).sqrt() * scale + shift).relu()
    second = nn.functional.conv2d(second, draw["body.3.weight"], draw["body.3.bias"])
    torch.testing.assert_close(draw["body.4.running_mean"], second.mean((0, 2, 3)), rtol=0, atol=1e-12)
    assert not torch.allclose(draw["body.4.running_mean"], posterior.module.get_buffer("body.4.running_mean"))


@pytest.mark.parametrize("wrong", [False, True])
def test_sampling_leaves_the_module_alone_also_after_an_exception(wrong: bool) -> None:
    posterior = fitted(images(20))
    module = posterior.module
    module.get_submodule("body.0").train()  # a mode of its own, to be found again
    modes = [child.training for child in module.modules()]
    state = copy.deepcopy(module.state_dict())
    momenta = [child.momentum for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    if wrong:
        labelled = Labelled(torch.zeros(3, 2, 9, 9, dtype=torch.double), torch.zeros(3).long(), Categorical(3))
        with pytest.raises(RuntimeError):  # the head cannot read it, after the statistics were computed
            SwagPosterior(module, posterior.gaussian, labelled).draw(2, generator=seeded())
        with pytest.raises(RuntimeError):
            posterior.draw(2, generator=seeded()).log_probs(labelled.inputs)
    else:
        posterior.draw(2, generator=seeded()).log_probs(posterior.labelled.inputs)
    assert modes == [child.training for child in module.modules()]
    assert momenta == [child.momentum for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("network", [ConvNet, lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3))])
def test_one_label_is_enough(network: Callable[[], nn.Module]) -> None:
    posterior = SWAG(QUICK).fit(network, images(1), generator=seeded())
    assert posterior.draw(3, generator=seeded()).log_probs(images(5).inputs).isfinite().all()


def test_frozen_parameters_stay_where_they_are() -> None:
    def network() -> nn.Module:
        module = mlp()
        module.get_parameter("0.weight").requires_grad_(False).fill_(0.25)
        return module

    draws = SWAG(QUICK).fit(network, points(20), generator=seeded()).draw(3, generator=seeded())
    assert all((draw["0.weight"] == 0.25).all() for draw in draws.weights)
    assert len({float(draw["2.weight"][0, 0]) for draw in draws.weights}) == 3


def test_it_is_known_by_name_with_plain_options() -> None:
    options = {"name": "swag", "rank": 5, "optimizer": "adam", "training": {"steps": 7}}
    assert make_method(Named.model_validate(options)) == SWAG(Training(steps=7), rank=5, optimizer="adam")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"share": 0.0}, "share of the steps must be between 0 and 1, and is 0.0"),
        ({"share": 1.0}, "share of the steps must be between 0 and 1"),
        ({"scale": 0.0}, "learning rate and scale must be above 0"),
        ({"learning_rate": -1.0}, "learning rate and scale must be above 0"),
        ({"snapshots": 1}, "at least 2 snapshots"),
        ({"rank": 1}, "rank is 2 or more, or 0 for the diagonal alone; it is 1"),
        ({"rank": -2}, "rank is 2 or more"),
        ({"training": Training(steps=2)}, "at least 3 training steps"),
    ],
)
def test_settings_that_cannot_be_are_told(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SWAG(**options)  # type: ignore[arg-type]


def test_what_cannot_be_treated_is_told_before_training() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, track_running_stats=True))
    with pytest.raises(UserError, match=r"running statistics of '1' \(InstanceNorm2d\)"):
        SWAG().check(module, torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match="prior_on names 'nowhere'"):
        SWAG(Training(prior_on=("nowhere",))).check(mlp(), torch.zeros(2, 2))


def test_a_loss_that_is_no_number_is_told_with_its_step() -> None:
    labelled = Labelled(torch.full((4, 2), 3e38), torch.zeros(4).long(), Categorical(3))
    with pytest.raises(UserError, match=r"The loss became (nan|inf) at step 1: lower"):
        SWAG(QUICK).fit(lambda: nn.Sequential(mlp(), nn.Linear(3, 3)), labelled, generator=seeded())
