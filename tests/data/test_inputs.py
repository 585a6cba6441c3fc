"""Inputs that are read when they are looked at: .npy files, map-style data sets, and processes that read ahead."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from activebdl import ActiveDataset, Normalise, UserError
from activebdl.data import MappedInputs, StreamedInputs
from activebdl.data.inputs import chunks

LABELS = torch.tensor([0, 1, 2, 0])
Array = np.ndarray[Any, Any]


def saved(folder: Path, array: Array, name: str = "pool.npy") -> Path:
    np.save(folder / name, array)
    return folder / name


def mapped(folder: Path, array: Array, mode: Any = "r") -> Any:
    return np.load(saved(folder, array), mmap_mode=mode)


def numbers(n: int, dtype: str, *shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 100, (n, *shape)).astype(dtype)


# ---- arrays in files ----


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("uint8", torch.uint8), ("int16", torch.int16), (">i4", torch.int32), ("bool", torch.bool),
        ("float16", torch.float32), ("float32", torch.float32), ("float64", torch.float32), (">f8", torch.float32),
    ],
)  # fmt: skip
@given(ids=st.lists(st.integers(0, 29), min_size=1, max_size=40), size=st.integers(1, 41))
def test_a_mapped_array_gives_its_items_in_the_order_of_the_ids(
    tmp_path_factory: pytest.TempPathFactory, stored: str, read: torch.dtype, ids: list[int], size: int
) -> None:
    array = numbers(30, stored, 2, 3)
    inputs = MappedInputs(mapped(tmp_path_factory.mktemp("mapped"), array))
    found = list(chunks(inputs, torch.tensor(ids), size))
    assert [len(chunk) for chunk in found] == [len(ids[at : at + size]) for at in range(0, len(ids), size)]
    assert {chunk.dtype for chunk in found} == {read}
    assert torch.cat(found).tolist() == array[ids].tolist()


def test_views_of_a_mapped_array_are_mapped_too(tmp_path: Path) -> None:
    array = numbers(12, "uint8", 4)
    for view in (lambda a: a[3:], lambda a: a[::-2], lambda a: a[:, None, 1:3], lambda a: a.T):  # pyright: ignore[reportUnknownVariableType]
        expected = np.ascontiguousarray(view(array))
        data = ActiveDataset.from_arrays(view(mapped(tmp_path, array)), None, expected, torch.arange(len(expected)))
        assert isinstance(data.pool, MappedInputs)
        assert data.input_shape == expected.shape[1:]
        assert data.pool[torch.arange(len(expected))].tolist() == expected.tolist()


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_what_a_user_wrote_into_a_mapped_array_stays(tmp_path: Path, mode: str) -> None:
    array = mapped(tmp_path, np.zeros((5, 2), np.uint8), mode)
    if mode != "r":
        array[3] = 7
    inputs = MappedInputs(array)
    for _ in range(2):  # the first look must not undo it
        assert inputs[torch.tensor([3])].tolist() == [[0, 0] if mode == "r" else [7, 7]]


def test_a_path_is_the_array_in_it(tmp_path: Path) -> None:
    array = numbers(4, "uint8", 2)
    path = saved(tmp_path, array)
    data = ActiveDataset.from_arrays(path, LABELS, str(path), LABELS, target_inputs=path)
    for inputs in (data.pool, data.test, data.target_inputs):
        assert isinstance(inputs, MappedInputs)
        assert inputs[torch.arange(4)].tolist() == array.tolist()
    assert data.normalise == Normalise(scale=255.0)  # as for uint8 in memory


def test_a_file_that_is_no_array_of_inputs_is_told(tmp_path: Path) -> None:
    def refused(path: Path, words: str) -> None:
        with pytest.raises(UserError, match=words):
            ActiveDataset.from_arrays(path, None, torch.zeros(3, 2), torch.arange(3))

    (tmp_path / "text.npy").write_text("1,2,3")
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", a=np.zeros((3, 2)))
    whole = saved(tmp_path, numbers(50, "float64", 9), "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:1000])
    for name in ("text.npy", "empty.npy", "cut.npy", "missing.npy", "."):
        refused(tmp_path / name, "cannot be read as an array of numbers that np.save has written")
    refused(tmp_path / "several.npz", "is an archive of arrays")
    refused(saved(tmp_path, np.array([["a", "b"]]), "words.npy"), "'words.npy' holds <U1, and inputs are numbers")
    refused(saved(tmp_path, np.array([{}, {}], dtype=object), "objects.npy"), "cannot be read as an array")
    refused(saved(tmp_path, np.zeros(3), "flat.npy"), r"at least two axes, items and features, not the shape \(3,\)")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_is_told_when_it_is_met_and_not_before(tmp_path: Path, bad: float) -> None:
    array = np.zeros((40, 2))
    array[33, 1] = bad
    data = ActiveDataset.from_arrays(mapped(tmp_path, array), None, torch.zeros(3, 2), torch.arange(3))
    good = torch.tensor([i for i in range(39, -1, -1) if i != 33])
    assert float(torch.cat(list(chunks(data.pool, good, 7))).abs().max()) == 0
    with pytest.raises(UserError, match="The input of item 33 of 'pool.npy' holds NaN or infinity"):
        list(chunks(data.pool, torch.arange(39, -1, -1), 7))


def resident_file_bytes() -> int:
    """What of mapped files is in memory now."""
    return 1024 * int(re.findall(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it there")
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_a_pass_over_a_file_leaves_nothing_of_it_in_memory(tmp_path: Path, dtype: str) -> None:
    size = 256 << 20
    item = 1 << 14
    shape = (size // item // np.dtype(dtype).itemsize, item)
    np.lib.format.open_memmap(tmp_path / "large.npy", "w+", dtype, shape)  # a file of holes: it takes no room
    before = resident_file_bytes()
    test = np.zeros((3, item), dtype)
    data = ActiveDataset.from_arrays(tmp_path / "large.npy", None, test, torch.arange(3))
    peak = resident_file_bytes()
    for _ in chunks(data.pool, torch.arange(len(data.pool)), 64):
        peak = max(peak, resident_file_bytes())
    assert peak - before < size / 10


def test_arrays_that_may_not_be_written_to_are_taken_as_they_are() -> None:
    array = numbers(4, "uint8", 2)
    array.setflags(write=False)
    labels = LABELS.numpy().copy()
    labels.setflags(write=False)
    data = ActiveDataset.from_arrays(array, labels, array, labels)  # a warning would fail
    assert isinstance(data.pool, Tensor)
    assert data.pool.tolist() == array.tolist()
    assert data.pool.data_ptr() == array.ctypes.data  # and no copy is made


# ---- items that are dicts, and images ----


class Dicts(Dataset[Any]):
    """A table with columns, as Hugging Face's datasets are: item i is a dict."""

    def __init__(self, images: list[Any], labels: list[Any]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        assert type(i) is int  # Arrow takes no tensor for an index
        return {"image": self.images[i], "kind": self.labels[i]}


def test_items_may_be_dicts() -> None:
    images = numbers(4, "uint8", 1, 6, 5)
    source = Dicts(list(images), LABELS.tolist())
    data = ActiveDataset.from_datasets(source, source, classes=["a", "b", "c"], input="image", label="kind")
    assert data.test_labels.tolist() == LABELS.tolist()
    assert data.pool[torch.tensor([3, 0])].tolist() == images[[3, 0]].tolist()
    assert data.normalise == Normalise(scale=255.0)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "Item 0 of Dicts is a dict of image, kind: say which is the label"),
        ({"label": "kind"}, "Item 0 of Dicts is a dict of image, kind: say which is the input, as in input='input'"),
        ({"label": "kind", "input": "picture"}, "Item 0 of Dicts has no 'picture' for the input; it has image, kind"),
        ({"label": "sort", "input": "image"}, "Item 0 of Dicts has no 'sort' for the label"),
    ],
)
def test_a_key_that_is_missing_is_told(keys: dict[str, Any], words: str) -> None:
    source = Dicts(list(numbers(4, "uint8", 1, 6, 5)), LABELS.tolist())
    with pytest.raises(UserError, match=words):
        ActiveDataset.from_datasets(source, source, classes=["a", "b", "c"], **keys)


def test_places_in_a_tuple_may_be_named() -> None:
    class LabelFirst(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> Any:
            return int(LABELS[i]), torch.full((2,), float(i))

    data = ActiveDataset.from_datasets(LabelFirst(), LabelFirst(), classes=["a", "b", "c"], input=1, label=0)
    assert data.test_labels.tolist() == LABELS.tolist()
    assert data.pool[torch.tensor([2])].tolist() == [[2.0, 2.0]]
    with pytest.raises(UserError, match="Item 0 of LabelFirst has no label at 2; it is of type tuple"):
        ActiveDataset.from_datasets(LabelFirst(), LabelFirst(), classes=["a", "b", "c"], label=2)


def test_images_become_channels_first() -> None:
    from PIL import Image

    grey, colour = numbers(1, "uint8", 6, 5)[0], numbers(1, "uint8", 6, 5, 3)[0]
    first = colour.transpose(2, 0, 1)
    luma = Image.fromarray(grey)
    given: list[tuple[Any, Array]] = [
        (luma, grey[None]),
        (Image.fromarray(colour), first),
        (Image.fromarray(np.dstack([colour, colour[..., :1]])), first),  # with transparency, which is left out
        (Image.merge("LA", [luma, luma]), grey[None]),
        (Image.fromarray(grey > 50), np.where(grey > 50, 255, 0)[None]),
        (Image.fromarray(grey.astype(np.uint16) * 200), grey[None].astype(int) * 200),
        (Image.fromarray(grey).convert("P"), np.stack([grey] * 3)),  # colours by a table, here of greys
        (grey, grey[None]),
        (colour, first),
        (first, first),
        (torch.from_numpy(colour), colour),  # a tensor is as its maker wants it
    ]
    for image, expected in given:
        found = StreamedInputs(Dicts([image], [0]), key="image")[torch.tensor([0])][0]
        assert found.tolist() == expected.tolist()
