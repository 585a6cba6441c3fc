"""The contrastive loss against its equation, what it teaches, and where its weights go."""

import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from activebdl import (
    ActiveDataset,
    ActiveLearning,
    Affine,
    MCDropout,
    PseudoLabels,
    Query,
    SimCLR,
    Training,
    UserError,
)
from activebdl.pretraining import Pretrained, contrastive_loss, pretrained
from activebdl.progress import Advance
from activebdl.strategies import Strategy

CPU = torch.device("cpu")
SHIFTS = Affine(rotation=0, shift=0.15, scale=0, shear=0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "activebdl" / "pretrained"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ignore(count: int) -> None:
    pass


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 2),
    )  # fmt: skip


def strokes(n: int) -> tuple[Tensor, Tensor]:
    """Images of four strokes at random; and in how many of them the strokes are upright, more than two or not."""
    x, y = torch.zeros(n, 1, 12, 12), torch.zeros(n, dtype=torch.long)
    rng = seeded(4)
    for i in range(n):
        upright = torch.rand(4, generator=rng) < 0.5
        for up in upright.tolist():
            row, column = (int(v) for v in torch.randint(9, (2,), generator=rng))
            x[i, 0, row : row + (4 if up else 1), column : column + (1 if up else 4)] = 1
        y[i] = int(upright.sum() > 2)
    return x, y


def data(n: int = 200) -> ActiveDataset:
    x, y = strokes(n)
    return ActiveDataset.from_arrays(x, y, x[:20], y[:20])


def settings(steps: int = 30, temperature: float = 0.2) -> SimCLR:
    return SimCLR(steps, batch_size=32, temperature=temperature, projection=8, augmentation=SHIFTS)


def test_the_loss_is_that_of_the_equation() -> None:
    z, tau = torch.randn(10, 4, generator=seeded()).double(), 0.3
    total = 0.0
    for i in range(10):
        unit = [row / row.norm() for row in z]
        likeness = [math.exp(float(unit[i] @ other) / tau) for other in unit]
        total -= math.log(likeness[(i + 5) % 10] / (sum(likeness) - likeness[i]))
    assert float(contrastive_loss(z, tau)) == pytest.approx(total / 10, rel=1e-5)


def recognised(module: nn.Module, x: Tensor) -> float:
    """How often the feature nearest to that of a shifted image is that of the same image, shifted otherwise."""
    body = nn.Sequential(*list(module.eval().children())[:-1])
    with torch.no_grad():
        one, other = (nn.functional.normalize(body(SHIFTS(x, seeded(seed))), dim=1) for seed in (1, 2))
    return float(((one @ other.T).argmax(1) == torch.arange(len(x))).float().mean())


def test_features_tell_an_image_from_others_wherever_it_is_moved() -> None:
    pool = data()
    weights = settings(300).fit(net, pool, CPU, generator=seeded(), advance=ignore)
    x, _ = strokes(300)
    unseen = x[200:]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = recognised(net(), unseen)
        after = recognised(Pretrained(net, weights)(), unseen)
    assert after > before + 0.1, (before, after)


def test_all_layers_but_the_last_begin_with_what_was_learned() -> None:
    weights = settings().fit(net, data(), CPU, generator=seeded(), advance=ignore)
    made, again = Pretrained(net, weights)(), Pretrained(net, weights)()
    for name, value in made.state_dict().items():
        assert (name in weights) == (not name.startswith("9."))
        if name in weights:
            assert torch.equal(value, weights[name])
    assert not torch.equal(made.get_submodule("9").weight, again.get_submodule("9").weight)  # pyright: ignore


def test_the_same_seed_gives_the_same_weights_and_labels_have_no_say() -> None:
    def learned(pool: ActiveDataset, seed: int) -> Tensor:
        weights = settings().fit(net, pool, CPU, generator=seeded(seed), advance=ignore)
        return torch.cat([value.float().flatten() for value in weights.values()])

    x, y = strokes(200)
    other = ActiveDataset.from_arrays(x, 1 - y, x[:5], y[:5])
    assert torch.equal(learned(data(), 0), learned(other, 0))
    assert not torch.equal(learned(data(), 0), learned(data(), 1))


def learn(pool: ActiveDataset, how: SimCLR, seed: int, advance: Advance = ignore) -> Pretrained:
    return pretrained(net, pool, how, CPU, seed=seed, generator=seeded(seed), advance=advance)


def test_what_was_learned_before_is_not_learned_again(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    first = learn(data(), settings(), 0)
    told: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(SimCLR, "fit", None)
        again = learn(data(), settings(), 0, told.append)
    assert sum(told) == 30
    assert all(torch.equal(again.weights[name], value) for name, value in first.weights.items())
    assert len(list(own_cache.glob("*.pt"))) == 1
    for pool, how, seed in (
        (data(150), settings(), 0),
        (data(), settings(temperature=0.5), 0),
        (data(), settings(), 1),
    ):
        learn(pool, how, seed)
    assert len(list(own_cache.glob("*.pt"))) == 4


def test_every_fit_begins_with_it() -> None:
    still = Training(steps=1, learning_rate=1e-12, weight_decay=0)
    pool = data()
    cycle = ActiveLearning(
        pool, net, counts=[4, 8], posterior=MCDropout(still), strategy="random", pretraining=settings()
    )
    for _ in cycle:
        assert cycle.belief is not None
        module: nn.Module = cycle.belief.posterior.module  # pyright: ignore
        learned = cycle.learner.fresh.weights  # pyright: ignore
        torch.testing.assert_close(module.get_parameter("4.weight"), learned["4.weight"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, own_cache: Path, kept: bool) -> None:
    training = Training(steps=12, batch_size=8, pseudo_labels=PseudoLabels(items=8))

    def cycle(journal: Path | None) -> ActiveLearning:
        return ActiveLearning(
            data(), net, counts=[6, 9, 12], posterior=MCDropout(training), strategy="bald", start="k_means", draws=4,
            test_draws=4, journal=journal, pretraining=settings(), views=2,
        )  # fmt: skip

    whole = list(cycle(None))
    next(iter(cycle(tmp_path / "journal.sqlite")))
    if not kept:
        shutil.rmtree(own_cache)
    again = list(cycle(tmp_path / "journal.sqlite"))
    for one, other in zip(whole, again, strict=True):
        assert one.ids == other.ids and one.scores == other.scores and one.metrics == other.metrics


def test_a_file_that_cannot_be_read_is_learned_again(own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = learn(data(), settings(), 0)
    (file,) = own_cache.glob("*.pt")
    for damage in (b"", b"no weights", file.read_bytes()[:1000]):
        file.write_bytes(damage)
        again = learn(data(), settings(), 0)
        assert all(torch.equal(again.weights[name], value) for name, value in first.weights.items())
    assert caplog.text.count("is learned again") == 3


def test_without_a_place_for_a_cache_it_is_learned_all_the_same(own_cache: Path) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text("a file where the folder should be")
    assert learn(data(), settings(), 0).weights


def test_a_network_that_does_something_else_learns_by_itself(own_cache: Path) -> None:
    class Scaled(nn.Sequential):
        def __init__(self, by: float) -> None:
            super().__init__(*net().children())
            self.by = by

        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input * self.by)

    for by in (1.0, 2.0, 1.0):
        pretrained(lambda by=by: Scaled(by), data(), settings(2), CPU, seed=0, generator=seeded(), advance=ignore)
    assert len(list(own_cache.glob("*.pt"))) == 2


def test_an_augmentation_that_does_something_else_teaches_by_itself(own_cache: Path) -> None:
    def dimmed(by: float) -> SimCLR:
        def dim(x: Tensor, generator: torch.Generator) -> Tensor:
            return x * by

        return SimCLR(2, batch_size=32, projection=8, augmentation=dim)

    for by in (0.5, 0.8, 0.5):
        learn(data(), dimmed(by), 0)
    assert len(list(own_cache.glob("*.pt"))) == 2


def test_a_pool_that_differs_in_one_item_teaches_by_itself(own_cache: Path) -> None:
    pool = data(1200)
    assert isinstance(pool.pool, Tensor)
    other = pool.pool.clone()
    other[599] = 0
    for items in (pool.pool, other, pool.pool.clone()):
        learn(replace(pool, pool=items), settings(2), 0)
    assert len(list(own_cache.glob("*.pt"))) == 2


@pytest.mark.parametrize("steps", [1, 2, 9, 10])
def test_a_few_steps_will_do(steps: int) -> None:
    told: list[int] = []
    settings(steps).fit(net, data(40), CPU, generator=seeded(), advance=told.append)
    assert sum(told) == steps


def test_who_waits_for_the_same_features_says_so(own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    def learn() -> Pretrained:
        return pretrained(net, data(), settings(2), CPU, seed=0, generator=seeded(), advance=ignore)

    first = learn()
    (lock,) = own_cache.glob("*.lock")
    with ThreadPoolExecutor(1) as another:
        with FileLock(lock):
            second = another.submit(learn)
            for _ in range(3000):
                if caplog.records:
                    break
                time.sleep(0.01)
            assert not second.done()
        found = second.result()
    assert [record.message for record in caplog.records] == [
        "another run learns the same from the pool; this one waits for it."
    ]
    assert all(torch.equal(first.weights[key], found.weights[key]) for key in first.weights)


def test_a_loss_that_runs_away_is_told_and_not_kept(own_cache: Path) -> None:
    wild = SimCLR(20, batch_size=32, learning_rate=1e30, projection=8, augmentation=SHIFTS)
    with pytest.raises(UserError, match="lower its learning rate"):
        pretrained(net, data(), wild, CPU, seed=0, generator=seeded(), advance=ignore)
    assert not list(own_cache.glob("*.pt"))


@pytest.mark.parametrize("pretraining", [None, settings()])
def test_strategies_without_a_model_see_the_features(pretraining: SimCLR | None) -> None:
    seen: list[Tensor] = []

    def looks(query: Query) -> Tensor:
        seen.append(query.items(query.unlabelled))
        return query.unlabelled[: query.quantity]

    pool = data(40)
    cycle = ActiveLearning(
        pool,
        net,
        counts=[4],
        posterior=MCDropout(Training(steps=1)),
        strategy="random",
        start=Strategy("looks", joint=looks, needs=("items",)),
        pretraining=pretraining,
    )
    list(cycle)
    if pretraining is None:
        assert seen[0].shape == (40, 1, 12, 12)
        return
    module = cycle.learner.fresh().eval()
    with torch.no_grad():
        expected = nn.Sequential(*list(module.children())[:-1])(pool.pool)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5)


def test_a_network_without_a_last_layer_is_refused_before_any_label() -> None:
    def no_head() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with pytest.raises(UserError, match="nn.Linear"):
        ActiveLearning(data(), no_head, counts=[4], pretraining=settings())


def test_whose_augmentation_cannot_treat_the_items_is_told() -> None:
    x, y = torch.rand(20, 5), torch.arange(20) % 2
    vectors = ActiveDataset.from_arrays(x, y, x, y)

    def reader() -> nn.Module:
        return nn.Sequential(nn.Dropout(0.1), nn.Linear(5, 2))

    with pytest.raises(UserError, match="augmentation of pretraining does not suit.* needs images"):
        ActiveLearning(vectors, reader, counts=[4], pretraining=SimCLR())
    guessing = MCDropout(Training(pseudo_labels=PseudoLabels()))
    with pytest.raises(UserError, match="augmentation of pseudo_labels does not suit.* needs images"):
        ActiveLearning(vectors, reader, counts=[4], posterior=guessing)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch_size": 1}, {"projection": 0}, {"temperature": 0.0}, {"learning_rate": -1.0}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="SimCLR"):
        SimCLR(**wrong)  # pyright: ignore[reportArgumentType]
