"""How the cycle tells how far it is, without knowing who listens.

A `Progress` is called with a phase and a total, and gives a context in which it is told how much more is done:

    with progress("fit", 800) as advance:
        advance(1)
"""

import contextlib
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

Advance = Callable[[int], object]
Progress = Callable[[str, int], AbstractContextManager[Advance]]


@contextlib.contextmanager
def silent(phase: str, total: int) -> Generator[Advance]:
    """Shows nothing."""
    yield lambda count: None


def together(*listeners: Progress) -> Progress:
    """Tells several of the same."""

    @contextlib.contextmanager
    def tell(phase: str, total: int) -> Generator[Advance]:
        with contextlib.ExitStack() as stack:
            advances = [stack.enter_context(listener(phase, total)) for listener in listeners]
            yield lambda count: [advance(count) for advance in advances]

    return tell


@contextlib.contextmanager
def bars(phase: str, total: int) -> Generator[Advance]:
    """A tqdm bar, gone when the phase is done; nothing in a log file, where the lines of the rounds say enough."""
    if total == 0:
        yield lambda count: None
        return
    with _bar(phase, total, leave=False) as bar:
        yield bar.update


@contextlib.contextmanager
def rounds_bar(total: int, done: int) -> Generator[Advance]:
    """The bar of the whole run, under which the phases have theirs.

    Args:
        total: Rounds of the run.
        done: Those that were done before it was resumed, which tell nothing about the time that is left.
    """
    with _bar("round", total, leave=False, initial=done) as bar:
        yield bar.update


def overall_bar(total: int) -> Any:
    """Tqdm's bar of all rounds of a comparison; how long they still take is its postfix, set by who knows better."""
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} rounds  {elapsed}{postfix}"
    return tqdm(total=total, desc="all", disable=None, leave=False, mininterval=0.2, bar_format=layout)


@contextlib.contextmanager
def download_bar(text: str, size: int | None, *, shown: bool) -> Generator[Advance]:
    """A bar of the bytes that have come, on a terminal; none where tqdm is not installed, for the core needs none.

    Args:
        text: What comes, and from where.
        size: Bytes; None where nobody knows.
        shown: Whether it is wanted at all.
    """
    if not shown or find_spec("tqdm") is None:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=size, desc=text, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        yield bar.update


def say(line: str = "") -> None:
    """Prints a line above the bars; the core has none where tqdm is not installed."""
    if find_spec("tqdm") is None:
        sys.stdout.write(f"{line}\n")
        return
    from tqdm import tqdm

    tqdm.write(line)


def _bar(phase: str, total: int, **options: Any) -> Any:
    from tqdm import tqdm

    layout = "{desc:<9}{percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt}  {elapsed}<{remaining}"
    return tqdm(total=total, desc=phase, disable=None, mininterval=0.2, bar_format=layout, **options)
