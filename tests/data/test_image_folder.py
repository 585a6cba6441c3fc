"""Images in folders: what is found, what is read, and what is told of what cannot be read."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from activebdl import UserError, load
from activebdl.data.inputs import chunks

Array = np.ndarray[Any, Any]


def paint(path: Path, pixels: Array, **options: Any) -> Array:
    """Writes an image file, uint8 ``[H, W]`` or ``[H, W, 3]``, or uint16."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def noise(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    """Two cats and a dog in the pool, one of each to test; 4 rows, 6 columns."""
    for i, name in enumerate(
        ["pool/cat/b.png", "pool/dog/a.png", "pool/cat/a/deep.PNG", "test/dog/z.png", "test/cat/y.png"]
    ):
        paint(tmp_path / name, noise(i, 4, 6, 3))
    return {"pool": str(tmp_path / "pool"), "test": str(tmp_path / "test"), "size": [4, 6]}


@pytest.mark.parametrize("workers", [0, 2])
def test_ids_go_by_names_and_classes_by_folders(folders: dict[str, Any], workers: int) -> None:
    data = load("image_folder", **folders, workers=workers)
    assert data.classes == ("cat", "dog") and data.input_shape == (3, 4, 6)
    assert data.labels is not None and data.labels.tolist() == [0, 0, 1]  # cat/a/deep, cat/b, dog/a
    assert data.test_labels.tolist() == [0, 1]
    read = torch.cat(list(chunks(data.pool, torch.tensor([2, 0, 1]), 2)))
    expected = np.stack([noise(seed, 4, 6, 3).transpose(2, 0, 1) for seed in (1, 2, 0)])
    assert read.dtype == torch.uint8 and read.tolist() == expected.tolist()
    x = data.normalise(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1))
    torch.testing.assert_close(x, torch.tensor([[-2.0], [2.0]]))


def test_images_are_brought_to_one_size_and_kind(tmp_path: Path) -> None:
    for folder in ("pool", "test"):
        paint(tmp_path / folder / "a" / "grey.png", np.full((9, 5), 100, np.uint8))
        paint(tmp_path / folder / "b" / "colour.bmp", np.full((3, 7, 3), (255, 0, 0), np.uint8))
        half = np.zeros((40, 20), np.uint8)
        half[:20] = 255  # bright above; the camera was held with its right side up
        paint(tmp_path / folder / "b" / "turned.jpg", half, exif=turned_by_90(), quality=100)
    places: dict[str, Any] = {"pool": tmp_path / "pool", "test": tmp_path / "test", "size": (2, 4)}
    grey, red, turned = load("image_folder", **places).pool[torch.arange(3)]
    assert grey.unique().tolist() == [100] and grey.shape == (3, 2, 4)
    assert [channel.unique().tolist() for channel in red] == [[255], [0], [0]]
    assert bool((turned[:, :, 0] < 60).all()) and bool((turned[:, :, 3] > 200).all())
    single = load("image_folder", **places, channels=1).pool[torch.arange(3)]
    assert single.shape == (3, 1, 2, 4)
    assert single[1].unique().tolist() == [76]  # ITU-R 601-2: 0.299 of 255


def turned_by_90() -> Any:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # the first row of the file is the right side of the scene
    return exif


def test_a_pool_without_folders_has_no_labels_and_other_files_are_no_images(folders: dict[str, Any]) -> None:
    pool = Path(folders["pool"])
    shutil.rmtree(pool)
    for i, name in enumerate(["2.png", "1.png", "._1.png", ".thumbnails/1.png"]):
        paint(pool / name, noise(i, 4, 6, 3))
    (pool / "notes.txt").write_text("not an image")
    data = load("image_folder", **folders)
    assert data.labels is None and len(data.pool) == 2
    assert data.pool[torch.tensor([0])][0].tolist() == noise(1, 4, 6, 3).transpose(2, 0, 1).tolist()


def test_a_class_may_be_in_the_pool_alone(folders: dict[str, Any]) -> None:
    paint(Path(folders["pool"]) / "bird" / "a.png", noise(0, 4, 6, 3))
    data = load("image_folder", **folders)
    assert data.classes == ("bird", "cat", "dog") and data.test_labels.tolist() == [1, 2]


def test_other_files_are_another_data_set(folders: dict[str, Any]) -> None:
    before = load("image_folder", **folders).name
    assert load("image_folder", **folders).name == before and before.startswith("pool-4x6x3-")
    pool = Path(folders["pool"])
    (pool / "cat" / "b.png").rename(pool / "cat" / "c.png")
    assert load("image_folder", **folders).name != before


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_file_that_cannot_be_decoded_is_told_with_its_path_and_id(
    folders: dict[str, Any], damage: str, workers: int
) -> None:
    path = Path(folders["pool"]) / "cat" / "b.png"
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "cut": whole[: len(whole) // 2]}[damage])
    data = load("image_folder", **folders, workers=workers)
    with pytest.raises(
        UserError, match=f"^Item 1 of ImageFiles cannot be read: the image '{path}' cannot be decoded: "
    ):
        list(chunks(data.pool, torch.arange(3), 1))


def test_folders_that_cannot_be_are_told(folders: dict[str, Any], tmp_path: Path) -> None:
    def refused(words: str, **options: Any) -> None:
        with pytest.raises(UserError, match=words):
            load("image_folder", **{**folders, **options})

    refused("There is no folder '.*nowhere' to read images from", pool=tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    refused("There are no images in '.*bare': no file there ends in .png", pool=tmp_path / "bare")
    paint(tmp_path / "bare" / "a.png", noise(0, 4, 6))
    refused("The images in '.*bare' have no classes", test=tmp_path / "bare")
    paint(tmp_path / "bare" / "cat" / "a.png", noise(0, 4, 6))
    refused("'.*a.png' lies beside folders of classes", pool=tmp_path / "bare")
    for size in ([0, 6], 32, "ab", [4, 6, 3], [4.0, 6]):
        refused(r"a size \(height, width\) of 1 or more, and 1 or 3 channels, not ", size=size)
    refused("1 or 3 channels, not .* and 2", channels=2)
    paint(tmp_path / "years" / "2024" / "a.png", noise(0, 4, 6))
    refused(r"The folders in '.*years' \(2024\) are none of the classes in '.*test'", pool=tmp_path / "years")


def test_images_of_more_than_8_bits_are_refused_and_not_cut_off(folders: dict[str, Any]) -> None:
    path = Path(folders["pool"]) / "cat" / "b.png"
    paint(path, np.linspace(0, 63000, 24).astype(np.uint16).reshape(4, 6))
    data = load("image_folder", **folders, channels=1)
    with pytest.raises(UserError, match="b.png' has more than 8 bits a channel; give such a pool as a .npy file"):
        list(chunks(data.pool, torch.arange(3), 1))


def test_folders_that_are_linked_are_read_too(folders: dict[str, Any], tmp_path: Path) -> None:
    before = len(load("image_folder", **folders).pool)
    (Path(folders["pool"]) / "cat").rename(tmp_path / "elsewhere")
    (Path(folders["pool"]) / "cat").symlink_to(tmp_path / "elsewhere")
    assert len(load("image_folder", **folders).pool) == before


def test_an_option_that_is_needed_is_told() -> None:
    with pytest.raises(UserError, match="'image_folder' needs the option 'test'; it needs: pool, test, size"):
        load("image_folder", pool="somewhere")


def test_without_pillow_it_says_so(folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UserError, match="Images are decoded by Pillow: pip install 'activebdl\\[cli\\]'"):
        load("image_folder", **folders)
