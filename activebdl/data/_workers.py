"""Processes that read items ahead while others are worked on: torch's own, with errors that say which item it was."""

import multiprocessing
import pickle
import warnings
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from activebdl.errors import UserError, told

Ids = np.ndarray[Any, Any]


def read_ahead(read: Callable[[Tensor], Tensor], ids: Tensor, size: int, workers: int, what: str) -> Generator[Tensor]:
    """Stacks of ``size`` items with these ids, in this order; one stack is read ahead by each process.

    Args:
        read: Items by id, ``[B] -> [B, ...]``, on the CPU; raises `UserError` where one cannot be read.
        ids: ``[n]``.
        size: B, items of a stack.
        workers: Processes.
        what: What is read, for the words of an error.

    Raises:
        UserError: What ``read`` raised, a process that died, or a ``read`` that cannot be handed to processes.
    """
    loader = DataLoader(
        _Stacks(read),
        batch_size=None,
        sampler=[ids[start : start + size].numpy() for start in range(0, len(ids), size)],
        num_workers=workers,
        prefetch_factor=1,
        collate_fn=_as_it_is,
        multiprocessing_context=multiprocessing.get_context(),
        generator=torch.Generator(),  # or it would move the global one
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Got pickle error", UserWarning)  # it is told below, in one sentence
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # the user said how many
            stacks = iter(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"{what} cannot be handed to worker processes ({error}); with workers=0 this process reads it."
        ) from error
    done = 0
    while done < len(ids):
        try:
            found: object = next(stacks)
        except RuntimeError as error:
            raise UserError(worker_died(f"the items from {int(ids[done])} on of {what}")) from error
        if not isinstance(found, np.ndarray):
            raise UserError(str(found))
        done += len(found)
        yield torch.from_numpy(found)


def is_worker_gone(error: Exception) -> bool:
    """Whether it says that a worker process died: torch raises that wherever the process is that waits for none."""
    return str(error).startswith("DataLoader worker")


def worker_died(reading: str) -> str:
    """The sentence for it."""
    return (
        f"A worker process died that read {reading}: too little memory, or a fault in what reads them; with workers=0 "
        "this process reads them."
    )


class _Stacks(TorchDataset[object]):
    """Whole stacks by their ids, as arrays: tensors would cross by shared memory, of which containers have little."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        self.read = read

    def __getitem__(self, ids: Ids) -> Ids | str:
        """The items, or the sentence of what went wrong with the first that cannot be read."""
        try:
            return self.read(torch.from_numpy(ids)).numpy()
        except UserError as error:
            return str(error)
        except Exception as error:
            return f"A worker process cannot hand the items from {ids[0]} on: {told(error)}."


def _as_it_is(found: object) -> object:
    return found
