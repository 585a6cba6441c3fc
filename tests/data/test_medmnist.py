"""MedMNIST on small files of its form; a published one only where it is at hand, or can be fetched."""

import hashlib
import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from activebdl import UserError, load
from activebdl.cli import main
from activebdl.data import medmnist as module
from activebdl.data._published import Published
from activebdl.data.medmnist import CLASSES, SETS, read_medmnist

Arrays = dict[str, np.ndarray]
Edit = Callable[[Arrays], object]


def arrays(*, channels: tuple[int, ...] = (3,), classes: int = 8, side: int = 28) -> Arrays:
    """40 images to train with, 9 for validation, 12 to test, as `np.savez` is given them."""
    rng = np.random.default_rng(0)
    made: Arrays = {}
    for name, n in (("train", 40), ("val", 9), ("test", 12)):
        made[f"{name}_images"] = rng.integers(0, 256, (n, side, side, *channels), dtype=np.uint8)
        made[f"{name}_labels"] = rng.integers(0, classes, (n, 1), dtype=np.uint8)
    return made


def write(path: Path, of: Arrays) -> Path:
    np.savez_compressed(path, **of)  # pyright: ignore[reportArgumentType]
    return path


@pytest.mark.parametrize(
    ("name", "channels", "classes"), [("bloodmnist", (3,), 8), ("octmnist", (), 4), ("organamnist", (), 11)]
)
def test_the_training_images_are_the_pool(tmp_path: Path, name: str, channels: tuple[int, ...], classes: int) -> None:
    given = arrays(channels=channels, classes=classes)
    data = load("medmnist", path=write(tmp_path / f"{name}.npz", given))
    assert data.input_shape == (3 if channels else 1, 28, 28) and len(data.classes) == classes
    for inputs, labels, side in ((data.pool, data.labels, "train"), (data.test, data.test_labels, "test")):
        assert isinstance(inputs, Tensor) and labels is not None
        assert inputs.dtype == torch.uint8 and inputs.is_contiguous() and labels.dtype == torch.int64
        images = given[f"{side}_images"]
        for c, y, x in ((0, 0, 0), (0, 3, 27), (data.input_shape[0] - 1, 20, 5)):
            there = images[:, y, x, c] if channels else images[:, y, x]
            assert inputs[:, c, y, x].tolist() == there.tolist()
        assert labels.tolist() == given[f"{side}_labels"][:, 0].tolist()
    ends = torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8)
    assert data.normalise(ends).flatten().tolist() == pytest.approx([-1, 1])


def test_what_is_known_of_the_sets() -> None:
    classes = {name: len(names) for name, names in CLASSES.items()}
    assert classes == {  # as its authors list them
        "pathmnist": 9, "dermamnist": 7, "octmnist": 4, "pneumoniamnist": 2, "retinamnist": 5, "breastmnist": 2,
        "bloodmnist": 8, "tissuemnist": 8, "organamnist": 11, "organcmnist": 11, "organsmnist": 11,
    }  # fmt: skip
    assert SETS.keys() == CLASSES.keys()
    assert len({known.md5 for known in SETS.values()}) == 11 and {len(known.md5) for known in SETS.values()} == {32}
    for name, known in SETS.items():
        assert known.url == f"https://zenodo.org/records/10519652/files/{name}.npz?download=1"
        assert len(set(CLASSES[name])) == len(CLASSES[name]) and not any("," in each for each in CLASSES[name])


def test_a_larger_version_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "bloodmnist_64.npz", arrays(side=64))
    data = load("medmnist", path=path)
    assert data.input_shape == (3, 64, 64) and data.classes[0] == "basophil"
    assert data.name == f"bloodmnist-{hashlib.md5(path.read_bytes()).hexdigest()[:8]}"


def test_a_file_of_another_name_is_of_the_set_that_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.npz", arrays(classes=7))
    assert load("medmnist", path=path, set="dermamnist").classes[4] == "melanoma"
    with pytest.raises(
        UserError, match=r"'mine' is no set of MedMNIST .* set is one of pathmnist, dermamnist, .*smnist"
    ):
        load("medmnist", path=path)


def test_the_published_file_is_looked_for_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "medmnist").mkdir()
    path = write(tmp_path / "medmnist" / "pathmnist.npz", arrays())
    url, md5 = "https://127.0.0.1:1/pathmnist.npz?download=1", hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(SETS, "pathmnist", Published(url, md5, 40, 12))
    given: list[dict[str, Any]] = [{}, {"set": "pathmnist"}, {"path": path}]
    for options in given:
        data = load("medmnist", cache=tmp_path, **options)
        assert data.name == "pathmnist" and len(data.pool) == 40 and len(data.classes) == 9
    monkeypatch.setitem(SETS, "pathmnist", Published(url, md5, 41, 12))
    with pytest.raises(UserError, match="gave 40 images .* pathmnist has 41 and 12"):
        load("medmnist", cache=tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chestmnist", "chestmnist has several labels for one image, and activebdl needs one"),
        (
            "nodulemnist3d",
            "'nodulemnist3d' is no set of MedMNIST that can be taken; the option set is one of pathmnist",
        ),
    ],
)
def test_sets_that_cannot_be(name: str, said: str, tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [{"set": name}, {"path": tmp_path / f"{name}.npz"}]
    for options in given:  # before anything is fetched or read
        with pytest.raises(UserError, match=said):
            load("medmnist", cache=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def put(key: str, value: Callable[[np.ndarray], np.ndarray]) -> Edit:
    return lambda of: of.update({key: value(of[key])})


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda of: of.pop("train_labels"), "is not of MedMNIST's form: There is no item named 'train_labels.npy'"),
        (
            put("train_images", lambda x: x[..., :2]),
            r"train_images is uint8 \[40, 28, 28, 2\], and should be uint8 \[N",
        ),
        (put("test_images", lambda x: x[0, 0]), r"test_images is uint8 \[28, 3\]"),
        (put("train_images", lambda x: x[:0]), r"train_images is uint8 \[0, 28, 28, 3\]"),
        (put("train_images", lambda x: x / 255), r"train_images is float64 \[40"),
        (put("test_images", lambda x: x[..., 0]), r"have the shape \[3, 28, 28\], and those to test \[1, 28, 28\]"),
        (put("test_images", lambda x: x[:, 1:]), r"the shape \[3, 28, 28\], and those to test \[3, 27, 28\]"),
        (put("train_labels", lambda y: y[:-1]), r"train_labels is uint8 \[39, 1\], and should be integers \[40, 1\]"),
        (put("test_labels", lambda y: y * 0.5), r"test_labels is float64 \[12, 1\]"),
        (put("train_labels", lambda y: y.repeat(14, 1)), "has 14 labels for one image, and activebdl needs one"),
        (put("train_labels", lambda y: y.reshape(-1) * 0 + 8), "pool label of item 0 is 8; labels run from 0 to 7"),
        (put("test_labels", lambda y: y.astype(object)), "no whole .npz file: Object arrays cannot be loaded"),
    ],
    ids=["gone", "channels", "axes", "empty", "floats", "grey", "sides", "few", "half", "several", "label", "objects"],
)
def test_arrays_that_are_wrong(tmp_path: Path, edit: Edit, said: str) -> None:
    edit(of := arrays())
    path = write(tmp_path / "bloodmnist.npz", of)
    with pytest.raises(UserError, match=said):
        load("medmnist", path=path)


@pytest.mark.parametrize("bytes_", [b"", b"<html>404</html>", b"\x93NUMPY\x01\0", b"PK\x03\x04"])
def test_what_is_no_file_of_arrays(tmp_path: Path, bytes_: bytes) -> None:
    (tmp_path / "pathmnist.npz").write_bytes(bytes_)
    with pytest.raises(UserError, match=r"pathmnist.npz' is no whole \.npz file: "):
        load("medmnist", path=tmp_path / "pathmnist.npz")
    with pytest.raises(UserError, match=r"is no whole \.npz file: No such file"):
        read_medmnist(tmp_path / "absent")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_is_cut_or_has_a_wrong_byte_is_refused(tmp_path: Path, compressed: bool) -> None:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays())  # pyright: ignore[reportArgumentType]
    whole, path = buffer.getvalue(), tmp_path / "file.npz"
    harmed = bytearray(whole)
    harmed[5000] ^= 1  # within the first array
    for wrong in (whole[:50], whole[: len(whole) // 2], whole[:-1], bytes(harmed)):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=r"is no whole \.npz file: "):
            read_medmnist(path)


def test_an_array_that_goes_on_or_ends_early_is_refused(tmp_path: Path) -> None:
    of = arrays()
    for cut, more in ((0, b"!"), (7, b"")):
        with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
            for key, array in of.items():
                np.save(buffer := io.BytesIO(), array)
                archive.writestr(f"{key}.npy", buffer.getvalue()[: len(buffer.getvalue()) - cut] + more)
        with pytest.raises(UserError, match=r"is no whole \.npz file: "):
            read_medmnist(tmp_path / "file.npz")


def test_the_command_line_tells_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])  # main looks for modules where the user stands
    monkeypatch.setenv("ACTIVEBDL_OFFLINE", "1")
    monkeypatch.setenv("ACTIVEBDL_DATA", str(tmp_path / "cache"))
    path = write(tmp_path / "retinamnist.npz", arrays(classes=5))

    def told(*options: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["data", "medmnist", *options])
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    code, words = told("--set", f"path={path}")
    assert code == 0 and "pool 40, test 12, items of 3 x 28 x 28\n5 classes: 0, 1, 2, 3, 4\nin the pool: " in words
    code, words = told()
    assert code == 2 and "pathmnist.npz of medmnist is not in" in words and module.ZENODO in words
    assert told("--set", "set=chestmnist")[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["breastmnist", "pneumoniamnist", "bloodmnist", "pathmnist"])
def test_the_published_ones(name: str) -> None:
    try:
        data = load("medmnist", set=name)
    except UserError as error:
        if "could not be fetched" not in str(error) or "wrong checksum" in str(error):
            raise
        pytest.skip(str(error))
    assert data.name == name and data.labels is not None
    assert set(data.labels.tolist()) == set(range(len(data.classes)))
    assert data.input_shape == (3 if name in ("bloodmnist", "pathmnist") else 1, 28, 28)
