"""Processes that read items ahead while others are worked on.

Each process has a pipe of its own and reads every W-th stack, so the order is that of the ids, and one that dies is
known at once, with the item that it was reading. Stacks cross the pipe as bytes: no shared memory is used, of which
containers often have little.

W: processes, ids: [n].
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activebdl.errors import UserError, told

Connection = multiprocessing.connection.Connection
_NONE_YET = -1


def read_ahead(read: Callable[[Tensor], Tensor], ids: Tensor, size: int, workers: int, what: str) -> Iterator[Tensor]:
    """Stacks of ``size`` items with these ids, in this order; one stack is read ahead by each process.

    Args:
        read: Items by id, ``[B] -> [B, ...]``, on the CPU; raises `UserError` where one cannot be read.
        ids: ``[n]``.
        size: B, items of a stack.
        workers: W.
        what: What is read, for the words of an error.

    Raises:
        UserError: What ``read`` raised, a process that died, or a ``read`` that cannot be handed to processes.
    """
    starts = range(0, len(ids), size)
    team: list[_Worker] = []
    try:
        for start in starts[:workers]:
            team.append(_Worker(read, ids, size, what, [worker.connection for worker in team]))
            team[-1].ask(start)
        for turn, following in enumerate([*starts[len(team) :], *[None] * len(team)]):
            worker = team[turn % len(team)]
            stack = worker.answer()
            if following is not None:
                worker.ask(following)
            yield stack
    finally:
        for worker in team:
            worker.stop()


class _Worker:
    """One process, and the pipe to it.

    Args:
        read: See `read_ahead`.
        ids: See `read_ahead`.
        size: See `read_ahead`.
        what: See `read_ahead`.
        others: This process's ends of the other pipes. A forked process must close its copies, or none of them would
            notice when this process is killed.
    """

    def __init__(
        self, read: Callable[[Tensor], Tensor], ids: Tensor, size: int, what: str, others: list[Connection]
    ) -> None:
        context: Any = multiprocessing.get_context()
        self.what = what
        self.connection, theirs = context.Pipe()
        self._current = context.RawValue("q", _NONE_YET)
        inherited = [*others, self.connection] if context.get_start_method() == "fork" else []
        # ids as an array: a tensor would go through shared memory
        arguments = (read, ids.numpy(), size, theirs, self._current, inherited)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        try:
            with warnings.catch_warnings():  # of a fork beside threads: the child has one thread, and reads alone
                warnings.simplefilter("ignore", DeprecationWarning)
                self.process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"{what} cannot be handed to worker processes ({error}); with workers=0 this process reads it."
            ) from error
        theirs.close()

    def ask(self, start: int) -> None:
        """Asks for the stack that starts there."""
        with contextlib.suppress(OSError):  # it died, which the answer will tell
            self.connection.send(start)

    def answer(self) -> Tensor:
        """The stack that was asked for."""
        try:
            found: object = self.connection.recv()
        except (EOFError, OSError):
            raise UserError(self._died()) from None
        if not isinstance(found, np.ndarray):
            raise UserError(str(found))
        return torch.from_numpy(found)

    def stop(self) -> None:
        """Ends the process, also in the middle of an item."""
        self.connection.close()
        self.process.terminate()
        self.process.join()

    def _died(self) -> str:
        self.process.join(5)  # seconds; it is gone, and only its exit code may take a moment
        code = self.process.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        at = self._current.value
        where = "before its first item" if at == _NONE_YET else f"at item {at}"
        return (
            f"A worker process that reads {self.what} died {how} {where}: too little memory, or a fault in what reads "
            "the items; with workers=0 this process reads them."
        )


def _serve(
    read: Callable[[Tensor], Tensor],
    ids: np.ndarray[Any, Any],
    size: int,
    connection: Connection,
    current: Any,
    inherited: list[Connection],
) -> None:
    """What a worker process does until nobody asks any more."""
    for end in inherited:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # a forked process must not use its parent's pool of threads
    with contextlib.suppress(EOFError, OSError):
        while True:
            start: int = connection.recv()
            connection.send(_stack(read, ids[start : start + size], current))


def _stack(read: Callable[[Tensor], Tensor], ids: np.ndarray[Any, Any], current: Any) -> object:
    """The items as an array, or the sentence of what went wrong with the first that cannot be read."""
    items: list[np.ndarray[Any, Any]] = []
    for id in ids.tolist():
        current.value = id
        try:
            items.append(read(torch.tensor([id])).numpy())
        except UserError as error:
            return str(error)
        except Exception as error:
            return f"A worker process cannot hand item {id} on: {told(error)}."
    return np.concatenate(items)
