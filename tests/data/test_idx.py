import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from activebdl.data.idx import read_idx
from activebdl.errors import UserError


def encode(shape: Sequence[int], values: bytes, kind: int = 0x08, start: bytes = b"\0\0") -> bytes:
    return start + bytes((kind, len(shape))) + b"".join(struct.pack(">I", size) for size in shape) + values


def test_a_file_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(bytes.fromhex("00 00 08 03  00000001 00000002 00000003  00 01 02 7f 80 ff"))
    read = read_idx(path)
    assert read.dtype == torch.uint8
    assert read.tolist() == [[[0, 1, 2], [127, 128, 255]]]  # the last dimension runs fastest


def test_lengths_above_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(encode([70_000], bytes(i % 10 for i in range(70_000))))  # 70,000 = 0x00011170: three bytes count
    assert torch.equal(read_idx(str(path)), (torch.arange(70_000) % 10).to(torch.uint8))


@given(arrays(np.uint8, array_shapes(max_dims=4, max_side=6)))
def test_what_is_written_is_read(values: np.ndarray) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(encode(values.shape, values.tobytes()))
        read = read_idx(path)
        assert tuple(read.shape) == values.shape
        assert np.array_equal(read.numpy(), values)


@given(arrays(np.uint8, array_shapes(max_dims=3, max_side=4)), st.data())
def test_no_other_length_is_taken(values: np.ndarray, data: st.DataObject) -> None:
    whole = encode(values.shape, values.tobytes())
    cut = data.draw(st.integers(0, len(whole) - 1))
    longer = data.draw(st.binary(min_size=1, max_size=9))
    with TemporaryDirectory() as folder:
        path = Path(folder, "file")
        for wrong in (whole[:cut], whole + longer):
            path.write_bytes(wrong)
            with pytest.raises(UserError, match="file"):
                read_idx(path)


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(content)
        try:
            read = read_idx(path)
        except UserError:
            return
        assert encode(read.shape, read.numpy().tobytes()) == content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not an IDX file"),
        (b"\0\0\x08", "is not an IDX file"),
        (encode([1], b"x", start=b"\0\1"), "is not an IDX file"),
        (encode([1], b"x", start=b"\1\0"), "is not an IDX file"),
        (b"<html><body>404</body></html>", "is not an IDX file"),
        (gzip.compress(encode([1], b"x"), mtime=0), "compressed with gzip"),
        (encode([1], b"x", kind=0x09), "IDX type 0x09"),  # signed bytes
        (encode([1], bytes(4), kind=0x0D), "IDX type 0x0d"),  # floats
        (encode([2, 3], b"")[:9], "ends within its header"),
        (encode([], b""), "holds no items"),
        (encode([], b"x"), "holds no items"),
        (encode([0], b""), "holds no items"),
        (encode([5, 0, 3], b""), "holds no items"),
        (encode([2, 3], bytes(5)), r"the shape \[2, 3\], 6 bytes, but 5 follow"),
        (encode([2, 3], bytes(7)), r"the shape \[2, 3\], 6 bytes, but 7 follow"),
        (encode([2**31, 2**31, 4], b""), "but 0 follow"),  # in 64 bits, the product would overflow to 0
    ],
)
def test_malformed(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_the_most_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "deep"
    path.write_bytes(encode([1] * 255, b"x"))
    assert tuple(read_idx(path).shape) == (1,) * 255  # the header has one byte for the rank


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_idx(tmp_path / "absent")
    with pytest.raises(UserError, match="Is a directory"):
        read_idx(tmp_path)


def test_what_was_read_can_be_written_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(encode([2], b"\1\2"))
    read_idx(path)[0] = 9  # torch warns of memory that cannot be written
    assert read_idx(path).tolist() == [1, 2]
