"""How the cycle tells how far it is, without knowing who listens.

A `Progress` is called with a phase and a total, and gives a context in which it is told how much more is done:

    with progress("fit", 800) as advance:
        advance(1)
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

Advance = Callable[[int], object]
Progress = Callable[[str, int], AbstractContextManager[Advance]]


@contextlib.contextmanager
def silent(phase: str, total: int) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda count: None


@contextlib.contextmanager
def bars(phase: str, total: int) -> Iterator[Advance]:
    """A tqdm bar that is gone when the phase is done; in a log file, nothing: there the rounds' lines say enough."""
    from tqdm.auto import tqdm

    if total == 0:
        yield lambda count: None
        return
    with tqdm(total=total, desc=f"  {phase:<8}", leave=False, disable=None, mininterval=0.2, ascii=" =") as bar:
        yield bar.update
