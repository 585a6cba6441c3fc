"""Reading IDX files, the format that MNIST came in."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from activebdl.errors import UserError

UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path) -> Tensor:
    """Reads an uncompressed IDX file of unsigned bytes.

    The format: two zero bytes, a byte for the type, a byte for the number of dimensions, the length of each
    dimension as four bytes (most significant first), then the data, the last dimension running fastest.

    Returns:
        A uint8 tensor in the shape that the header tells.

    Raises:
        UserError: The file cannot be read or is not such a file.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)  # read once, and writable, as torch wants it
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if data[:2].tolist() == [0x1F, 0x8B]:
        raise UserError(f"'{path}' is compressed with gzip; uncompress it first.")
    if len(data) < 4 or data[:2].any():
        raise UserError(f"'{path}' is not an IDX file: it does not begin with two zero bytes, a type and a rank.")
    kind, rank = data[2:4].tolist()
    if kind != UNSIGNED_BYTE:
        raise UserError(f"'{path}' holds values of IDX type 0x{kind:02x}; only unsigned bytes (0x08) can be read.")
    start = 4 + 4 * rank
    if len(data) < start:
        raise UserError(f"'{path}' is cut short: it ends within its header.")
    shape: list[int] = data[4:start].view(">u4").tolist()
    if rank == 0 or 0 in shape:
        raise UserError(f"'{path}' holds no items: its header tells the shape {shape}.")
    if math.prod(shape) != len(data) - start:
        raise UserError(
            f"'{path}' is damaged: its header tells the shape {shape}, {math.prod(shape)} bytes, "
            f"but {len(data) - start} follow."
        )
    return torch.from_numpy(data[start:]).reshape(shape)  # pyright: ignore[reportUnknownMemberType]
