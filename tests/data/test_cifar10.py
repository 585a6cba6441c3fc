"""CIFAR-10 on small archives of its form; the published one only where it is at hand, or can be fetched."""

import gzip
import hashlib
import io
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from activebdl import ActiveDataset, ActiveLearning, MCDropout, Normalise, Round, Training, UserError, load
from activebdl.cli import main
from activebdl.data import cifar10 as module
from activebdl.data._published import Published
from activebdl.data.cifar10 import CIFAR10_CLASSES, read_cifar10
from activebdl.runs import start
from activebdl.spec import read_spec

FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, (6, 20), dtype=np.uint8)  # of six files with 20 images each
# What an image is, its colour alone tells: one of red, green and blue is bright, and all have the same grey.
BRIGHT = np.where(np.eye(3, dtype=bool)[LABELS], 180, 60)[..., None, None]
IMAGES = (BRIGHT + RNG.integers(-50, 50, (6, 20, 3, 32, 32))).astype(np.uint8)

Edit = Callable[[dict[str, bytes]], object]


def content() -> dict[str, bytes]:
    """The six files: for each image its label, then its red, green and blue, each from the top row down."""
    return {
        file: b"".join(
            bytes([label]) + b"".join(image[c, row].tobytes() for c in range(3) for row in range(32))
            for label, image in zip(LABELS[i], IMAGES[i], strict=True)
        )
        for i, file in enumerate(FILES)
    }


def write(path: Path, files: dict[str, bytes], folder: str = "cifar-10-batches-bin") -> Path:
    """An archive with more in it than is read, its files in no order, as in the published one."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.addfile(directory := tarfile.TarInfo(folder))
        directory.type = tarfile.DIRTYPE
        for name, bytes_ in sorted({**files, "batches.meta.txt": b"airplane\n", "readme.html": b"<html>"}.items())[
            ::-1
        ]:
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(bytes_)
            archive.addfile(member, io.BytesIO(bytes_))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write(tmp_path / "small.tar.gz", content())


def in_memory() -> ActiveDataset:
    """The same without a file, normalised as CIFAR-10 is everywhere."""
    normalise = Normalise(255.0, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    pool, labels = IMAGES[:5].reshape(-1, 3, 32, 32), LABELS[:5].reshape(-1)
    return ActiveDataset.from_arrays(
        pool, labels, IMAGES[5], LABELS[5], name="same", classes=CIFAR10_CLASSES, normalise=normalise
    )


def test_what_is_written_is_read(archive: Path) -> None:
    (pool, labels), (test, test_labels) = read_cifar10(archive)
    assert pool.dtype == test.dtype == torch.uint8 and labels.dtype == test_labels.dtype == torch.int64
    assert np.array_equal(pool.numpy(), IMAGES[:5].reshape(100, 3, 32, 32))
    assert np.array_equal(test.numpy(), IMAGES[5])
    assert labels.tolist() == LABELS[:5].reshape(-1).tolist() and test_labels.tolist() == LABELS[5].tolist()


def test_an_image_written_by_hand(tmp_path: Path) -> None:
    image = bytearray(3072)
    image[0], image[31], image[32], image[1024], image[3071] = 1, 2, 3, 4, 5
    write(tmp_path / "one", dict.fromkeys(FILES, bytes([9]) + bytes(image)))
    pool, labels = read_cifar10(tmp_path / "one")[0]
    seen = {tuple(at): int(pool[tuple(at)]) for at in pool[:1].nonzero().tolist()}
    assert seen == {(0, 0, 0, 0): 1, (0, 0, 0, 31): 2, (0, 0, 1, 0): 3, (0, 1, 0, 0): 4, (0, 2, 31, 31): 5}
    assert labels.tolist() == [9] * 5


def test_the_data_set(archive: Path) -> None:
    data, same = load("cifar10", path=str(archive)), in_memory()
    assert data.input_shape == (3, 32, 32) and len(data.classes) == 10
    assert (data.classes[0], data.classes[5], data.classes[9]) == ("airplane", "dog", "truck")
    assert isinstance(data.test, Tensor)
    grey = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1) * 255  # the mean of all of CIFAR-10, in each colour
    assert float(data.normalise(grey).abs().max()) < 1e-6
    spread = torch.tensor([0.2470, 0.2435, 0.2616]).view(1, 3, 1, 1) * 255
    assert torch.allclose(data.normalise(grey + spread), torch.ones(()), atol=1e-5)
    assert data.name == f"cifar10-{hashlib.md5(archive.read_bytes()).hexdigest()[:8]}" and same.name == "same"


def test_the_published_file_is_looked_for_in_the_cache(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, md5 = "https://127.0.0.1:1/small.tar.gz", hashlib.md5(archive.read_bytes()).hexdigest()
    (tmp_path / "cache/cifar10").mkdir(parents=True)
    archive.rename(tmp_path / "cache/cifar10/small.tar.gz")
    monkeypatch.setattr(module, "CIFAR10", Published(url, md5, 100, 20))
    data = load("cifar10", cache=tmp_path / "cache")
    assert data.name == "cifar10" and len(data.pool) == 100
    monkeypatch.setattr(module, "CIFAR10", Published(url, md5, 50_000, 10_000))
    with pytest.raises(UserError, match=r"gave 100 images .* cifar10 has 50,000 and 10,000"):
        load("cifar10", cache=tmp_path / "cache")


def cut(file: str, end: int | None) -> Edit:
    return lambda files: files.update({file: files[file][:end]})


def relabel(file: str, image: int, label: int) -> Edit:
    at = image * 3073
    return lambda files: files.update({file: files[file][:at] + bytes([label]) + files[file][at + 1 :]})


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (cut("data_batch_2.bin", -1), "damaged: data_batch_2.bin has 61,459 bytes, and each image takes 3,073"),
        (cut("data_batch_2.bin", 0), "damaged: data_batch_2.bin has 0 bytes"),
        (
            relabel("data_batch_4.bin", 7, 10),
            "damaged: image 7 of data_batch_4.bin has the label 10; labels run from 0",
        ),
        (relabel("test_batch.bin", 19, 255), "damaged: image 19 of test_batch.bin has the label 255"),
        (lambda files: files.pop("data_batch_5.bin"), "has no data_batch_5.bin: it is not CIFAR-10's binary version"),
        (lambda files: files.pop("test_batch.bin"), "has no test_batch.bin"),
        (lambda files: files.clear(), "has no data_batch_1.bin.*that for Python or Matlab cannot be read"),
    ],
    ids=["cut", "empty", "label", "test label", "no batch", "no test", "another version"],
)
def test_files_that_are_wrong(tmp_path: Path, edit: Edit, said: str) -> None:
    edit(files := content())
    path = write(tmp_path / "wrong.tar.gz", files)
    with pytest.raises(UserError, match=said) as caught:
        load("cifar10", path=path)
    assert str(caught.value).startswith(f"'{path}'")


def test_an_archive_that_is_cut_is_refused_wherever(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    for end in (0, 1, 11, len(whole) // 3, len(whole) // 2, len(whole) - 9):
        (tmp_path / "cut").write_bytes(whole[:end])
        with pytest.raises(UserError, match=f"'{tmp_path / 'cut'}' (is no whole archive|has no|is damaged)"):
            read_cifar10(tmp_path / "cut")


def test_a_byte_that_is_wrong_is_found(archive: Path, tmp_path: Path) -> None:
    whole = bytearray(archive.read_bytes())
    whole[-6] ^= 1  # of gzip's own sum
    (tmp_path / "harmed").write_bytes(whole)
    with pytest.raises(UserError, match="no whole archive of CIFAR-10"):
        read_cifar10(tmp_path / "harmed")


@pytest.mark.parametrize(
    "bytes_", [b"", b"<html>404</html>", gzip.compress(b"no tar", mtime=0)], ids=["nothing", "a page", "no tar"]
)
def test_what_is_no_archive(tmp_path: Path, bytes_: bytes) -> None:
    (tmp_path / "file").write_bytes(bytes_)
    with pytest.raises(UserError, match="no whole archive of CIFAR-10, cifar-10-binary.tar.gz: "):
        read_cifar10(tmp_path / "file")
    with pytest.raises(UserError, match="no whole archive .*: No such file"):
        read_cifar10(tmp_path / "absent")


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10))


def cycle(data: ActiveDataset) -> list[Round]:
    rounds = ActiveLearning(
        data, network, counts=(6, 10, 14), posterior=MCDropout(Training(steps=20)),
        strategy="bald", draws=4, test_draws=4, seed=1, device="cpu",
    )  # fmt: skip
    return [replace(round, seconds={}, written_ms=0) for round in rounds]


def test_the_cycle_asks_the_same_as_of_arrays(archive: Path) -> None:
    assert cycle(load("cifar10", path=archive)) == cycle(in_memory())


def test_three_rounds_learn_colours(archive: Path, tmp_path: Path) -> None:
    tree: dict[str, Any] = {
        "dataset": {"name": "cifar10", "path": str(archive)},
        "network": "batchbald_cnn", "strategy": "bald", "initial": 12, "budget": 20, "query_size": 4, "growth": 0.0,
        "draws": 4, "test_draws": 8, "device": "cpu",
        "posterior": {"name": "mc_dropout", "training": {"steps": 20, "batch_size": 16}},
    }  # fmt: skip
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(tree))
    curve = start(read_spec(str(tmp_path / "trial.yaml")), tmp_path / "run")
    assert curve.counts == (12, 16, 20)
    assert curve.metrics["accuracy"][-1] >= 0.9  # of three colours, which no grey picture would tell


def test_the_command_line_tells_what_it_is(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])  # main looks for modules where the user stands
    with pytest.raises(SystemExit) as caught:
        main(["data", "cifar10", "--set", f"path={archive}"])
    told = capsys.readouterr().out
    assert caught.value.code == 0 and "pool 100, test 20, items of 3 x 32 x 32" in told
    counts = [int((LABELS[:5] == label).sum()) for label in range(10)]
    assert f"in the pool: {', '.join(map(str, counts))}" in told


@pytest.mark.slow
def test_the_published_one() -> None:
    try:
        data = load("cifar10")
    except UserError as error:
        if "could not be fetched" not in str(error) or "wrong checksum" in str(error):
            raise
        pytest.skip(str(error))
    assert data.labels is not None
    assert data.labels.bincount().tolist() == [5000] * 10 and data.test_labels.bincount().tolist() == [1000] * 10
    assert data.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]  # frog, truck, truck, deer, automobile, ...
    assert isinstance(data.pool, Tensor)
    means = data.pool.double().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
