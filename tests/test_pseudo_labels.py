"""The second term of the loss against its equation, and what it does: labels spread to items that look alike."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import activebdl
from activebdl import (
    IVON,
    MNF,
    SWAG,
    ActiveDataset,
    ActiveLearning,
    Affine,
    BayesByBackprop,
    Ensemble,
    Labelled,
    Laplace,
    MCDropout,
    Numbers,
    PseudoLabels,
    Training,
    UserError,
    portable,
)
from activebdl.data.dataset import Normalise, Unlabelled
from activebdl.data.inputs import StreamedInputs
from activebdl.likelihoods import Categorical, Gaussian
from activebdl.posteriors import InferenceMethod
from activebdl.posteriors.map import MAP
from activebdl.pseudo_labels import Guessing
from activebdl.training import train


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Fixed(nn.Module):
    """Outputs ``x W`` with fixed W, and the mode of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.5, -2.0]]))
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        return x @ self.weight


def pool_of(x: Tensor) -> Labelled:
    return Labelled(
        x[:1], torch.tensor([0]), Categorical(3), Normalise(mean=0.25, std=0.5), Unlabelled(x, torch.arange(1, len(x)))
    )


def loss(settings: PseudoLabels, module: nn.Module, labelled: Labelled, seed: int = 0) -> Tensor:
    return settings.over(labelled, 1, torch.contiguous_format, seeded(seed)).loss(module.train())


def test_the_loss_is_that_of_the_equation() -> None:
    x = torch.randn(40, 2, generator=seeded())
    labelled, module = pool_of(x), Fixed()
    settings = PseudoLabels(items=25, threshold=0.8, weight=0.7, augmentation=lambda u, rng: u * 1.5)
    found = loss(settings, module, labelled, seed=3)
    assert labelled.unlabelled is not None
    chosen = next(labelled.unlabelled.batches(25, 1, seeded(3))).double()
    weight, total, counted = module.weight.detach().double(), 0.0, 0
    for u in chosen:
        p = torch.softmax((u - 0.25) / 0.5 @ weight, 0)
        if p.max() >= 0.8:
            total -= float(torch.log_softmax((1.5 * u - 0.25) / 0.5 @ weight, 0)[p.argmax()])
            counted += 1
    assert 5 < counted < 25
    assert float(found.detach()) == pytest.approx(0.7 * total / 25, rel=1e-5)


def test_aligned_guesses_are_those_of_the_equation() -> None:
    """Against the sum written out, over four steps of a network that hardly ever says the third class by itself."""
    x = torch.randn(200, 2, generator=seeded())
    labelled, module = pool_of(x), Fixed()
    settings = PseudoLabels(items=30, threshold=0.7, weight=0.7, augmentation=lambda u, rng: u * 1.5, align=True)
    steps = settings.over(labelled, 4, torch.contiguous_format, seeded(3))
    assert labelled.unlabelled is not None
    weight, lately, moved = module.weight.detach().double(), None, 0
    for batch in labelled.unlabelled.batches(30, 4, seeded(3)):
        u = batch.double()
        p = torch.softmax((u - 0.25) / 0.5 @ weight, 1)
        lately = p.mean(0) if lately is None else 0.95 * lately + 0.05 * p.mean(0)
        total = 0.0
        for one, bent in zip(p, (1.5 * u - 0.25) / 0.5 @ weight, strict=True):
            q = [float(one[c]) / max(3 * float(lately[c]), 0.05) for c in range(3)]
            if max(q) / sum(q) >= 0.7:
                total -= float(torch.log_softmax(bent, 0)[q.index(max(q))])
            moved += q.index(max(q)) != int(one.argmax())
        found = float(steps.loss(module.train()).detach())
        assert found == pytest.approx(0.7 * total / 30, rel=1e-5)
    assert moved > 0


def test_a_class_that_is_never_guessed_is_not_made_up() -> None:
    """Its share is counted as a twentieth of an equal one at least, so what is one in a thousand stays improbable."""
    labelled = pool_of(torch.randn(40, 2, generator=seeded()))
    guessing = PseudoLabels(align=True).over(labelled, 1, torch.contiguous_format, seeded())

    class Twofold(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.4995, 0.4995, 0.001]).log().repeat(len(x), 1)

    q = guessing.guess(Twofold(), torch.zeros(5, 2))
    assert float(q[0, 2]) == pytest.approx(0.02 / (0.02 + 2 / 3), rel=1e-4)


def test_guesses_are_made_without_dropout_and_have_no_gradient() -> None:
    labelled, module = pool_of(torch.randn(40, 2, generator=seeded())), Fixed()
    loss(PseudoLabels(items=20, threshold=0.0, augmentation=lambda u, rng: -u), module, labelled).backward()
    assert module.modes == [False, True] and module.training
    assert labelled.unlabelled is not None
    u = next(labelled.unlabelled.batches(20, 1, seeded()))
    other = Fixed()
    with torch.no_grad():
        classes = other(labelled.normalise(u)).argmax(1)
    F.cross_entropy(other(labelled.normalise(-u)), classes).backward()
    torch.testing.assert_close(module.weight.grad, other.weight.grad)


class GuessingTwice(Guessing):
    def guess(self, module: nn.Module, u: Tensor) -> Tensor:
        one, other = (super(GuessingTwice, self).guess(module, u) for _ in range(2))
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        return one


class Twice(PseudoLabels):
    """Guesses twice, and the guesses are the same."""

    def over(self, *fit: Any) -> Guessing:
        return GuessingTwice(self, *fit)


@pytest.mark.parametrize("kind", [MCDropout, MAP, BayesByBackprop, MNF, partial(MNF, layers="all"), IVON, SWAG])
def test_no_posterior_draws_its_guesses(kind: Callable[[Training], InferenceMethod]) -> None:
    labelled = pool_of(torch.randn(40, 2, generator=seeded()))
    training = Training(steps=8, pseudo_labels=Twice(items=20, threshold=0.0, after=0.0, augmentation=None))

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

    kind(training).fit(network, labelled, generator=seeded())


def test_a_guess_that_is_not_sure_counts_for_nothing() -> None:
    labelled = pool_of(torch.randn(40, 2, generator=seeded()))
    assert float(loss(PseudoLabels(threshold=1.0, augmentation=None), Fixed(), labelled).detach()) == 0.0


def test_a_pool_that_is_used_up_teaches_nothing() -> None:
    x = torch.ones(4, 2)
    labelled = Labelled(x, torch.tensor([0, 0, 1, 2]), Categorical(3), unlabelled=Unlabelled(x, torch.arange(0)))
    semi = Training(steps=5, pseudo_labels=PseudoLabels(after=0.0))
    found = [
        train(Fixed, labelled, settings, generator=seeded()) for settings in (semi, replace(semi, pseudo_labels=None))
    ]
    torch.testing.assert_close(cast(Fixed, found[0]).weight, cast(Fixed, found[1]).weight, rtol=0, atol=0)


class Images(Dataset[Tensor]):
    """Read item by item."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, id: int) -> Tensor:
        return self.x[id]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_pool_teaches_what_one_in_memory_does(workers: int) -> None:
    x = torch.randn(40, 2, generator=seeded())
    semi = Training(steps=6, pseudo_labels=PseudoLabels(items=8, threshold=0.4, after=0.3, augmentation=None))
    found: list[Tensor] = []
    for inputs in (x, StreamedInputs(Images(x), workers)):
        labelled = Labelled(x[:3], torch.arange(3), Categorical(3), unlabelled=Unlabelled(inputs, torch.arange(3, 40)))
        found.append(cast(Fixed, train(Fixed, labelled, semi, generator=seeded())).weight)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_fit_to_fewer_labels_leaves_the_pool_out() -> None:
    x = torch.randn(40, 2, generator=seeded())
    labelled = Labelled(x[:3], torch.arange(3), Categorical(3), unlabelled=Unlabelled(x, torch.arange(3, 40)))
    semi = Training(steps=5, pseudo_labels=PseudoLabels(threshold=0.4, after=0.0, augmentation=None))
    assert semi.pseudo_labels is not None

    def weight(training: Training) -> Tensor:
        return cast(Fixed, train(Fixed, labelled, training, generator=seeded())).weight

    plain, always = weight(replace(semi, pseudo_labels=None)), weight(semi)
    assert not torch.equal(plain, always)
    for from_labels, expected in ((3, always), (4, plain)):
        found = weight(replace(semi, pseudo_labels=replace(semi.pseudo_labels, from_labels=from_labels)))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def rings(n: int) -> tuple[Tensor, Tensor]:
    """Two rings, one in the other, points dense along each; and which ring each point is on."""
    angle = torch.rand(n, generator=seeded(5)) * 2 * math.pi
    ring = torch.arange(n) % 2
    radius = 1.0 + ring + 0.05 * torch.randn(n, generator=seeded(6))
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), ring


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def accuracy(module: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((module(x).argmax(1) == y).float().mean())


def test_thirty_labels_of_digits_teach_more_with_the_pool_than_without() -> None:
    data = activebdl.load("digits")
    assert isinstance(data.pool, Tensor) and isinstance(data.test, Tensor) and data.labels is not None

    def reader() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))

    plain = Training(steps=600, batch_size=32, augmentation=Affine(10, 0.06, 0.1, 0.1))
    bent = Affine(15, 0.1, 0.15, 0.2)
    semi = replace(plain, pseudo_labels=PseudoLabels(items=64, threshold=0.9, augmentation=bent))
    gains: list[float] = []
    for seed in range(3):
        order = torch.randperm(len(data.pool), generator=seeded(seed))
        few, rest = order[:30], order[30:]
        labelled = Labelled(
            data.pool[few], data.labels[few], Categorical(10), data.normalise, Unlabelled(data.pool, rest)
        )
        test = data.normalise(data.test)
        alone, together = (
            accuracy(train(reader, labelled, training, generator=seeded(seed)), test, data.test_labels)
            for training in (plain, semi)
        )
        gains.append(together - alone)
    assert min(gains) > 0.02, gains


class Told:
    """What was asked of an augmentation: when."""

    def __init__(self) -> None:
        self.step, self.at = 0, list[int]()

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        self.at.append(self.step)
        return x

    def on_step(self) -> None:
        self.step += 1


ALL: dict[str, Callable[[Training], InferenceMethod]] = {
    "map": MAP,
    "mc_dropout": MCDropout,
    "mc_dropout, shared masks": lambda training: MCDropout(training, masks_per_batch=2),
    "ensemble": lambda training: Ensemble(1, training=training),
    "bayes_by_backprop": lambda training: BayesByBackprop(training=training),
    "laplace": lambda training: Laplace(training=training),
    "swag": lambda training: SWAG(training=training),
    "ivon": lambda training: IVON(training=training),
    "mnf": lambda training: MNF(training=training),
}


def digits() -> Labelled:
    x, y = torch.randn(60, 6, generator=seeded()), torch.arange(60) % 2
    return Labelled(x[:20], y[:20], Categorical(2), Normalise(), Unlabelled(x, torch.arange(20, 60)))


class Listening(nn.Dropout):
    """Dropout, and whether it dropped at each of its calls."""

    dropped: ClassVar[list[bool]] = []

    def forward(self, input: Tensor) -> Tensor:
        self.dropped.append(self.training)
        return super().forward(input)


def listening() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Listening(0.2), nn.Linear(8, 2))


@pytest.mark.parametrize("name", ALL)
def test_each_posterior_begins_with_labels_alone_and_then_goes_on_with_the_pool(name: str) -> None:
    told = Told()
    training = Training(steps=40, batch_size=8, pseudo_labels=PseudoLabels(items=4, after=0.5, augmentation=told))
    ALL[name](training).fit(listening, digits(), generator=seeded(), on_step=told.on_step)
    assert told.at == list(range(told.at[0], 40))  # once a step, and never again without
    assert 0 < told.at[0] <= 20


@pytest.mark.parametrize("name", ["bayes_by_backprop", "ivon", "mnf", "swag", "mc_dropout"])
def test_what_drops_in_a_fit_is_what_drops_without_the_pool(name: str) -> None:
    def at_the_end(pseudo_labels: PseudoLabels | None) -> set[bool]:
        Listening.dropped.clear()
        training = Training(steps=40, batch_size=8, pseudo_labels=pseudo_labels)
        seen: list[int] = []

        def on_step() -> None:
            seen.append(len(Listening.dropped))

        ALL[name](training).fit(listening, digits(), generator=seeded(), on_step=on_step)
        return set(Listening.dropped[seen[-4] : seen[-1]])

    plain = at_the_end(None)
    assert at_the_end(PseudoLabels(items=4, augmentation=None)) - {False} == plain - {False}


@pytest.mark.parametrize("name", ALL)
def test_what_is_kept_of_a_fit_holds_no_pool(name: str, tmp_path: Path) -> None:
    pool = torch.randn(100_000, 6, generator=seeded())  # 2.4 MB
    few = digits()
    labelled = replace(few, unlabelled=Unlabelled(pool, torch.arange(len(pool))))
    training = Training(steps=12, batch_size=8, pseudo_labels=PseudoLabels(items=4, augmentation=None))

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

    posterior = ALL[name](training).fit(net, labelled, generator=seeded())
    portable.save(posterior, tmp_path / "posterior")
    assert (tmp_path / "posterior").stat().st_size < 1_000_000


@pytest.mark.parametrize("method", [MAP, MCDropout])
def test_only_what_has_no_label_takes_part(method: Callable[[Training], MAP | MCDropout]) -> None:
    x = torch.arange(30.0)[:, None].repeat(1, 2)  # an item's value is its id
    seen: set[int] = set()

    def look(u: Tensor, generator: torch.Generator) -> Tensor:
        seen.update(u[:, 0].int().tolist())
        return u

    data = ActiveDataset.from_arrays(x, torch.arange(30) % 2, x[:4], torch.tensor([0, 1, 0, 1]))
    training = Training(steps=200, batch_size=4, pseudo_labels=PseudoLabels(items=8, after=0, augmentation=look))
    cycle = ActiveLearning(data, net, counts=[14], posterior=method(training), strategy="random", validation=4)
    seen.clear()  # it was tried on an item before
    list(cycle)
    assert cycle.belief is not None
    pool = cycle.belief.pool
    assert seen == set(pool.unlabelled.tolist())
    assert len(seen) == 30 - 14


def test_numbers_have_no_confident_guesses() -> None:
    x = torch.randn(20, 2, generator=seeded())
    data = ActiveDataset.from_arrays(x, x[:, 0], x, x[:, 0], numbers=Numbers())
    posterior = MCDropout(Training(pseudo_labels=PseudoLabels()))
    with pytest.raises(UserError, match="guesses of classes"):
        ActiveLearning(data, net, counts=[4], posterior=posterior, strategy="random")


def test_without_a_pool_there_is_nothing_to_guess() -> None:
    x, y = rings(8)
    with pytest.raises(UserError, match="need the pool"):
        train(
            net,
            Labelled(x, y, Categorical(2)),
            Training(steps=3, pseudo_labels=PseudoLabels(after=0)),
            generator=seeded(),
        )


@pytest.mark.parametrize(
    "wrong", [{"items": 1}, {"threshold": 1.2}, {"weight": -1.0}, {"after": 1.0}, {"from_labels": -1}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    (value,) = wrong.values()
    with pytest.raises(UserError, match=f"{next(iter(wrong))}.*{value}"):
        PseudoLabels(**wrong)  # pyright: ignore[reportArgumentType]


def test_a_fit_of_numbers_refuses_them_too() -> None:
    x = torch.randn(20, 6, generator=seeded())
    labelled = Labelled(x, x[:, 0], Gaussian(), Normalise(), Unlabelled(x, torch.arange(20)))
    with pytest.raises(UserError, match="guesses of classes"):
        MCDropout(Training(steps=2, pseudo_labels=PseudoLabels())).fit(
            lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(6, 1)), labelled, generator=seeded()
        )
