"""The pools made from MNIST, on files that have its form; the real bytes are checked by `test_fetch`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from activebdl import ActiveDataset, UserError, load
from activebdl.data.mnist import MNIST_STD

N, T = 600, 100


@pytest.fixture(autouse=True)
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits of noise: 600 in the pool and 100 to test, read from IDX files."""
    rng = np.random.default_rng(0)
    files: dict[str, Path] = {}
    for side, n in (("train", N), ("test", T)):
        for what, shape in (("images", (n, 28, 28)), ("labels", (n,))):
            path = tmp_path / f"{side}-{what}"
            values = rng.integers(0, 256 if what == "images" else 10, shape, dtype=np.uint8)
            header = bytes([0, 0, 8, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape)
            path.write_bytes(header + values.tobytes())
            files[f"{side}_{what}"] = path
    monkeypatch.setattr("activebdl.data.mnist.fetch", lambda name, cache, progress: files)


def seen(data: ActiveDataset, inputs: object) -> Tensor:
    assert isinstance(inputs, Tensor)
    assert inputs.dtype == torch.uint8
    return data.normalise(inputs)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_images_have_a_channel_and_labels_their_classes(name: str) -> None:
    data = load(name)
    assert data.input_shape == (1, 28, 28)
    assert (len(data.pool), len(data.test), len(data.classes)) == (N, T, 10)
    assert data.labels is not None
    assert data.labels.dtype == torch.int64


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_tuning_takes_the_last_training_images_for_the_test_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activebdl.data.mnist.HELD_OUT", 150)
    whole, tuning = load(name), load(name, tuning=True)
    assert isinstance(whole.pool, Tensor) and isinstance(tuning.pool, Tensor) and isinstance(tuning.test, Tensor)
    assert whole.labels is not None and tuning.labels is not None
    assert torch.equal(tuning.pool, whole.pool[: N - 150]) and torch.equal(tuning.test, whole.pool[N - 150 :])
    assert torch.equal(torch.cat([tuning.labels, tuning.test_labels]), whole.labels)
    assert tuning.name != whole.name


def test_repeats_are_the_images_with_noise_of_the_given_strength() -> None:
    base, data = load("mnist"), load("repeated_mnist", repeats=3, noise=0.1)
    assert len(data.pool) == 3 * N
    assert base.labels is not None
    assert data.labels is not None
    assert torch.equal(data.labels, base.labels.repeat(3))
    noise = seen(data, data.pool).view(3, N, -1) - seen(base, base.pool).view(1, N, -1)
    assert float(noise.mean()) == pytest.approx(0, abs=1e-3)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.01)
    between = torch.corrcoef(noise.flatten(1))
    assert bool((between - torch.eye(3)).abs().max() < 0.01)  # each copy has its own


def test_the_test_set_of_repeats_is_mnists_own() -> None:
    base, data = load("mnist"), load("repeated_mnist", noise=0.1)
    step = (1 + 8 * 0.1 * MNIST_STD) / 255 / MNIST_STD  # of the coding, in the network's units
    assert float((seen(data, data.test) - seen(base, base.test)).abs().max()) <= step / 2 + 1e-5


def test_the_noise_is_part_of_the_dataset() -> None:
    pools = [seen(data, data.pool) for data in (load("repeated_mnist"), load("repeated_mnist"))]
    assert torch.equal(pools[0], pools[1])
    other = load("repeated_mnist", seed=1)
    assert not torch.equal(seen(other, other.pool), pools[0])


def test_rare_classes_are_thinned_and_the_others_whole() -> None:
    base, data = load("mnist"), load("unbalanced_mnist", rare=[1, 7], keep=0.3)
    assert base.labels is not None
    assert data.labels is not None
    before, after = base.labels.bincount(), data.labels.bincount(minlength=10)
    for c in range(10):
        if c in (1, 7):
            assert 0.1 < int(after[c]) / int(before[c]) < 0.5
        else:
            assert after[c] == before[c]
    assert len(data.pool) == len(data.labels)
    assert torch.equal(data.test_labels, base.test_labels)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("repeated_mnist", {"repeats": 0}),
        ("repeated_mnist", {"noise": -1.0}),
        ("unbalanced_mnist", {"keep": 0.0}),
        ("unbalanced_mnist", {"rare": [10]}),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{name} needs"):
        load(name, **options)
