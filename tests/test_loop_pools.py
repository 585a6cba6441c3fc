"""The cycle on a pool that is read from elsewhere chooses what it chooses on the same pool in memory."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from torch import nn
from torch.utils.data import Dataset

from activebdl import IVON, ActiveDataset, ActiveLearning, MCDropout, Normalise, Round, Training, UserError, load
from activebdl.cli import main
from activebdl.runs import start
from activebdl.spec import read_spec
from activebdl.tracking.told import _are_images, _grid

N, T, CLASSES = 60, 30, ("circle", "cross", "square")
NORMALISE = Normalise(255.0, 0.5, 0.25)


def drawn(n: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Noisy images uint8 ``[n, 8, 8, 3]`` whose class is the corner that is bright; class after class."""
    labels = np.arange(n) * 3 // n
    images = np.random.default_rng(seed).integers(0, 150, (n, 8, 8, 3))
    for c, (top, left) in enumerate([(0, 0), (0, 4), (4, 4)]):
        images[labels == c, top : top + 4, left : left + 4] += 60
    return images.astype(np.uint8), labels


POOL, LABELS = drawn(N, 0)
TEST, TEST_LABELS = drawn(T, 1)


class Table(Dataset[Any]):
    """Items are dicts, with an image of Pillow in each."""

    def __init__(self, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        from PIL import Image

        return {"image": Image.fromarray(self.images[i]), "label": int(self.labels[i])}


def first(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def in_memory() -> ActiveDataset:
    return ActiveDataset.from_arrays(
        first(POOL), LABELS, first(TEST), TEST_LABELS, name="shapes", classes=CLASSES, normalise=NORMALISE
    )


def in_a_file(folder: Path) -> ActiveDataset:
    np.save(folder / "pool.npy", first(POOL))
    np.save(folder / "test.npy", first(TEST))
    pool = np.load(folder / "pool.npy", mmap_mode="r")
    return ActiveDataset.from_arrays(
        pool, LABELS, folder / "test.npy", TEST_LABELS, name="shapes", classes=CLASSES, normalise=NORMALISE
    )


def in_a_table(folder: Path, workers: int = 0) -> ActiveDataset:
    return ActiveDataset.from_datasets(
        Table(POOL, LABELS), Table(TEST, TEST_LABELS), labels=LABELS, name="shapes", classes=CLASSES,
        normalise=NORMALISE, input="image", label="label", workers=workers,
    )  # fmt: skip


def in_a_table_with_workers(folder: Path) -> ActiveDataset:
    return in_a_table(folder, workers=2)


def in_folders(folder: Path) -> ActiveDataset:
    from PIL import Image

    for side, images, labels in (("pool", POOL, LABELS), ("test", TEST, TEST_LABELS)):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / side / CLASSES[label] / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return load("image_folder", pool=folder / "pool", test=folder / "test", size=(8, 8))


PLACES: list[Callable[[Path], ActiveDataset]] = [in_a_file, in_a_table, in_a_table_with_workers, in_folders]


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def run(data: ActiveDataset, strategy: str, **options: Any) -> list[Round]:
    method = MCDropout(Training(steps=30, learning_rate=0.01))
    rounds = ActiveLearning(
        data, network, counts=(6, 10, 14), posterior=method, strategy=strategy, draws=8, test_draws=8, seed=3,
        device="cpu", chunk=13, **options,
    )  # fmt: skip
    return [replace(round, seconds={}, written_ms=0) for round in rounds]


@pytest.mark.parametrize("strategy", ["power_bald", "badge"])
@pytest.mark.parametrize("place", PLACES)
def test_where_the_pool_lies_changes_nothing(
    place: Callable[[Path], ActiveDataset], strategy: str, tmp_path: Path
) -> None:
    assert run(place(tmp_path), strategy) == run(in_memory(), strategy)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_asked_can_be_shown(place: Callable[[Path], ActiveDataset], tmp_path: Path) -> None:
    data = place(tmp_path)
    (first, *_) = run(data, "random")
    assert data.input_shape == (3, 8, 8) and _are_images(data)
    assert _grid(data, first) == _grid(in_memory(), first)


def test_an_item_that_is_not_finite_stops_the_cycle_with_its_id(tmp_path: Path) -> None:
    pool = first(POOL).astype(np.float32)
    pool[41, 0, 0, 0] = np.inf
    np.save(tmp_path / "pool.npy", pool)
    data = ActiveDataset.from_arrays(tmp_path / "pool.npy", LABELS, first(TEST).astype(np.float32), TEST_LABELS)
    with pytest.raises(UserError, match="The input of item 41 of 'pool.npy' holds NaN or infinity"):
        run(data, "power_bald")


def test_a_run_on_folders_from_a_yaml_file(tmp_path: Path) -> None:
    in_folders(tmp_path)
    places = {side: str(tmp_path / side) for side in ("pool", "test")}
    dataset: dict[str, Any] = {"name": "image_folder", **places, "size": [8, 8]}
    tree = {
        "dataset": dataset,
        "network": {"name": "mlp", "hidden": [16]}, "strategy": "bald", "initial": 6, "budget": 14, "query_size": 4,
        "growth": 0.0, "draws": 4, "device": "cpu",
        "posterior": {"name": "mc_dropout", "training": {"steps": 20}},
    }  # fmt: skip
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(tree))
    curve = start(read_spec(str(tmp_path / "trial.yaml")), tmp_path / "run")
    assert curve.counts == (6, 10, 14)
    written = yaml.safe_load((tmp_path / "run" / "spec.yaml").read_text())["dataset"]
    assert written == {**dataset, "channels": 3, "workers": 0}
    del dataset["test"]
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match="'image_folder' needs the option 'test'"):
        start(read_spec(str(tmp_path / "trial.yaml")), tmp_path / "another")


def test_the_command_line_tells_what_lies_in_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])  # main looks for modules where the user stands

    def told(*options: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["data", "image_folder", *options])
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    places = ("--set", "pool=pool", "--set", "test=test")
    code, words = told(*places, "--set", "size=[4, 6]")
    assert code == 0
    assert "pool 60, test 30, items of 3 x 4 x 6\n3 classes: circle, cross, square\nin the pool: 20, 20, 20" in words
    code, words = told(*places)
    assert code == 2 and "needs the option 'size'; it needs: pool, test, size" in words
    assert "'size' of the dataset 'image_folder'" in told(*places, "--set", "size=4")[1]


def test_lazy_layers_learn_their_sizes_from_the_pool() -> None:
    def lazy() -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(3))

    data = ActiveDataset.from_arrays(first(POOL), LABELS, first(TEST), TEST_LABELS)
    for method in (MCDropout(Training(steps=3)), IVON(Training(steps=3))):
        rounds = list(ActiveLearning(data, lazy, counts=(6, 9), posterior=method, draws=4, test_draws=2, device="cpu"))
        assert [round.n_labels for round in rounds] == [6, 9]
