"""Inputs that are read when they are looked at, so that a pool may be larger than memory.

B: items of a chunk, ids: [B], in any order.
"""

import mmap
import platform
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from activebdl.data._workers import read_ahead
from activebdl.errors import UserError, told

Key = str | int
"""Where in an item its input or its label is: a dict's key, or a tuple's position."""


class Inputs(Protocol):
    """Items that are taken by id: a tensor is one, and so are `MappedInputs` and `StreamedInputs`."""

    def __len__(self) -> int: ...
    def __getitem__(self, ids: Tensor, /) -> Tensor: ...


def chunks(inputs: Inputs, ids: Tensor, size: int) -> Generator[Tensor]:
    """The items with these ids, in this order, in stacks ``[<=size, ...]``."""
    if isinstance(inputs, StreamedInputs) and inputs.workers and len(ids) > size:
        return read_ahead(inputs.__getitem__, ids, size, inputs.workers, inputs.name)
    return (inputs[ids[start : start + size]] for start in range(0, len(ids), size))


def known_by(inputs: Inputs, looks: int) -> Tensor:
    """The items by which inputs are known again: all where they are in memory; else, for that may take hours, a few.

    Args:
        inputs: N items.
        looks: How many of those that are not in memory are read, spread from the first to the last.
    """
    return inputs if isinstance(inputs, Tensor) else inputs[_spread(len(inputs), looks)]


def sketch(inputs: Inputs) -> list[float]:
    """A number for each of 16 items, from the first to the last: how far it goes in one direction.

    It tells other items, and the same in another order; but not a picture that another library has decoded a little
    differently, see `alike`. There is none where every look at an item gives another, as random transforms do.
    """
    one, other = _directed(inputs), _directed(inputs)
    return one if alike(one, other) else []


def alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two sketches may be of the same items; one that is empty may be of any."""
    if not one or not other:
        return True
    a, b = torch.tensor(one, dtype=torch.double), torch.tensor(other, dtype=torch.double)
    little = 0.02 * (a.max() - a.min()) + 1e-5 * a.abs().max()
    return a.shape == b.shape and bool(((a - b).abs() <= little).all())


def _directed(inputs: Inputs) -> list[float]:
    items = inputs[_spread(len(inputs), 16)].flatten(1).double().nan_to_num(0, 0, 0)
    direction = torch.arange(1, items.shape[1] + 1, dtype=torch.double).sin()
    return [float(f"{value:.6g}") for value in (items @ direction).tolist()]


def _spread(count: int, looks: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, looks), dtype=torch.double).round().long()


class MappedInputs:
    """An array that stays in its file; only the items that are looked at are in memory.

    Args:
        array: ``[N, ...]``, what ``np.load("pool.npy", mmap_mode="r")`` gives, or a slice of it.

    Raises:
        UserError: It is no array of numbers, or has no axis but that of the items.
    """

    def __init__(self, array: "np.memmap[Any, Any]") -> None:
        file = getattr(array, "filename", None)
        self.name = "the pool's file" if file is None else f"'{Path(file).name}'"
        if array.dtype.kind not in "buif":
            raise UserError(f"{self.name} holds {array.dtype}, and inputs are numbers.")
        check_axes(array.shape)
        self.array = array
        # Floats become float32, of which networks are made, and the bytes are put in this machine's order.
        self._dtype = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")

    @staticmethod
    def open(path: str | Path) -> "MappedInputs":
        """The array in a ``.npy`` file.

        Raises:
            UserError: There is no such file, or it holds no such array.
        """
        try:
            found: object = np.load(Path(path).expanduser(), mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"'{path}' cannot be read as an array of numbers that np.save has written: {error}."
            ) from error
        if not isinstance(found, np.memmap):
            cast(Any, found).close()
            raise UserError(f"'{path}' is an archive of arrays; write the one that is meant with np.save, as .npy.")
        return MappedInputs(found)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, ids: Tensor, /) -> Tensor:
        found = np.asarray(self.array[ids.numpy()])  # a copy, since it is by a list of ids
        self._forget()
        with np.errstate(over="ignore"):  # beyond float32 is infinity, which is told
            items = torch.from_numpy(found.astype(self._dtype, copy=False))
        if items.is_floating_point():
            finite = items.isfinite().flatten(1).all(dim=1)
            if not bool(finite.all()):
                raise UserError(not_finite(int(ids[~finite][0]), self.name))
        return items

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which opens the file itself.

        Raises:
            UserError: That process would not find the same numbers there.
        """
        array, root = self.array, self.array
        while isinstance(root.base, np.memmap):
            root = root.base
        file = getattr(array, "filename", None)
        if file is None or array.mode == "c" or not array.flags.c_contiguous:
            raise UserError(f"{self.name} cannot be read by another process as it is here; write it with np.save.")
        offset = root.offset + array.ctypes.data - root.ctypes.data
        return _reopened, (str(Path(file).resolve()), array.dtype, offset, array.shape)

    def _forget(self) -> None:
        """Gives back the pages of the file that were read: else all of it would be resident after one pass.

        A mapping of mode "c" keeps them, for what the user wrote into it is nowhere else.
        """
        mapping: mmap.mmap | None = getattr(self.array, "_mmap", None)
        if mapping is not None and self.array.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)


def _reopened(file: str, dtype: "np.dtype[Any]", offset: int, shape: tuple[int, ...]) -> MappedInputs:
    """What another process had opened."""
    try:
        return MappedInputs(np.memmap(file, dtype, "r", offset, shape))
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{file}' cannot be read on {platform.node()}: {error}; every machine that looks at the pool needs it, "
            "under the same path."
        ) from error


class StreamedInputs:
    """The inputs of a map-style torch ``Dataset``, read item by item.

    Args:
        source: ``source[i]`` gives an input, a tuple that starts with one, or a dict that has one. An input is a
            tensor, an array, or an image of Pillow. Images become uint8 ``[channels, H, W]``; so do uint8 arrays
            ``[H, W]`` and ``[H, W, channels]``.
        workers: Processes that read ahead while a chunk is worked on, each one chunk; 0 reads in this process.
        key: Where in an item the input is; None takes the first entry of a tuple, or the item itself.
    """

    def __init__(self, source: TorchDataset[Any], workers: int = 0, key: Key | None = None) -> None:
        if not hasattr(source, "__len__"):
            raise UserError("A pool needs a map-style Dataset, one with __len__ and __getitem__.")
        if workers < 0:
            raise UserError(f"Worker processes are 0 or more, not {workers}.")
        self.source = source
        self.workers = workers
        self.key = key
        self.name = type(source).__name__

    def __len__(self) -> int:
        return len(cast(Sequence[Any], self.source))

    def __getitem__(self, ids: Tensor, /) -> Tensor:
        return torch.stack([self.item(int(i)) for i in ids])

    @cached_property
    def shape(self) -> torch.Size:
        """That of the first item, and so of all."""
        return self._read(0).shape

    def item(self, id: int) -> Tensor:
        """The input with that id, without its label.

        Raises:
            UserError: It cannot be read, is no array of finite numbers, or has another shape than the first.
        """
        found = self._read(id)
        if found.shape != self.shape:
            raise UserError(
                f"Item {id} of {self.name} has the shape {tuple(found.shape)}, and item 0 {tuple(self.shape)}; all "
                "inputs have the same."
            )
        if found.is_floating_point() and not bool(found.isfinite().all()):
            raise UserError(not_finite(id, self.name))
        return found

    def entry(self, id: int, key: Key | None, place: int, what: str) -> Any:
        """A part of an item as it comes.

        Args:
            id: The item's.
            key: Where in the item it is; None for "by place".
            place: Where in a tuple it is; an item that is no tuple has only a first place, itself.
            what: What it is called, "input" or "label".

        Raises:
            UserError: The item cannot be read, or has no such part.
        """
        who = f"Item {id} of {self.name}"
        try:
            found = self.source[id]
        except UserError as error:
            raise UserError(f"{who} cannot be read: {error}") from error
        except Exception as error:
            raise UserError(f"{who} cannot be read: {told(error)}.") from error
        if isinstance(found, Mapping):
            keys = ", ".join(map(str, cast(Mapping[Any, Any], found)))
            if key is None:
                raise UserError(f"{who} is a dict of {keys}: say which is the {what}, as in {what}='{what}'.")
            if key not in found:
                raise UserError(f"{who} has no '{key}' for the {what}; it has {keys}.")
            return found[key]
        entries = cast(Sequence[Any], found) if isinstance(found, tuple | list) else (found,)
        at = place if key is None else key
        if not isinstance(at, int) or not -len(entries) <= at < len(entries):
            raise UserError(f"{who} has no {what} at {at!r}; it is of type {type(found).__name__}.")
        return entries[at]

    def _read(self, id: int) -> Tensor:
        found = self.entry(id, self.key, 0, "input")
        try:
            tensor = _as_input(found).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"Item {id} of {self.name} is no tensor, array or image: {error}.") from error
        if tensor.layout != torch.strided:
            raise UserError(f"Item {id} of {self.name} is a sparse tensor; give a dense one.")
        return tensor


def as_tensor(given: object) -> Tensor:
    """Whatever torch takes, without its warning of arrays that may not be written to: nobody writes to inputs."""
    if isinstance(given, np.ndarray) and not given.flags.writeable:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
            return torch.as_tensor(given)
    return torch.as_tensor(given)


def single(tensor: Tensor) -> Tensor:
    """float32 in place of numpy's float64 and of half precision: what networks are made of."""
    return tensor.float() if tensor.is_floating_point() else tensor


def check_axes(shape: tuple[int, ...]) -> None:
    """Refuses a whole set of inputs that has no axis but that of the items."""
    if len(shape) < 2:
        raise UserError(f"Inputs need at least two axes, items and features, not the shape {tuple(shape)}.")


def not_finite(id: int, where: str) -> str:
    """What is told of an input that holds NaN or infinity."""
    return f"The input of item {id} of {where} holds NaN or infinity; mend or drop it."


def pixels(image: Any) -> Tensor:
    """An image of Pillow as uint8 ``[channels, H, W]``: grey with 1 channel, colours with 3, nothing of transparency.

    Greys of more than 8 bits stay what they are.
    """
    if image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0).copy())


def _as_input(found: object) -> Tensor:
    pillow = sys.modules.get("PIL.Image")  # where nobody has imported it, nothing is one of its images
    if pillow is not None and isinstance(found, pillow.Image):
        return single(pixels(found))
    if isinstance(found, np.ndarray) and found.dtype == np.uint8:
        if found.ndim == 2:
            found = found[None]
        elif found.ndim == 3 and found.shape[2] in (1, 3, 4) and found.shape[0] not in (1, 3, 4):
            found = np.moveaxis(found, 2, 0)
    return single(as_tensor(found))
