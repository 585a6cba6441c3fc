"""What a child of a comparison is, what it tells while it runs, and what runs several of them.

A child is one strategy with one posterior and one seed. The driver, `activebdl.sweep.compare`, hands all of them to an
`Executor` and hears `Event`s; it alone writes to MLflow, to the report, and to the terminal. Tasks and events can be
pickled, so that a child may run in another process or on another machine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from activebdl.build import make_strategy
from activebdl.report import Curve
from activebdl.rounds import Round
from activebdl.run_folders import short
from activebdl.spec import RunSpec


@dataclass(frozen=True)
class Task:
    """One child.

    Args:
        spec: What it is, every default written out.
        folder: Where it lives, on the driver's disk.
    """

    spec: RunSpec
    folder: Path

    @property
    def label(self) -> str:
        """What tells it from its siblings, for people."""
        return f"{make_strategy(self.spec.strategy).label}, {short(self.spec.posterior.name)}, seed {self.spec.seed}"


@dataclass(frozen=True)
class Begun:
    """It begins or goes on; told again where it is tried again.

    Args:
        uid: Of the run, the same whenever it goes on.
        done: Rounds that were done before.
    """

    uid: str
    done: int = 0


@dataclass(frozen=True)
class Told:
    """A round; those that were done before are told again, from the first one on."""

    round: Round


@dataclass(frozen=True)
class Kept:
    """Files for the child's folder, by name, of a child that runs on another disk; each is whole."""

    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Finished:
    """It is finished."""

    curve: Curve


@dataclass(frozen=True)
class Waits:
    """It waits for labels, and goes on when they are there; the sentence says what to do."""

    sentence: str


@dataclass(frozen=True)
class Failed:
    """It failed.

    Args:
        reason: In one sentence.
        traceback: Where it was raised, in the user's code or in ours; None where the sentence says it all.
    """

    reason: str
    traceback: str | None = None


End = Finished | Waits | Failed
Event = Begun | Told | Kept | End

Tell = Callable[[int, Event], object]
"""Told the child, by its place among the tasks, and the event. It is not to be called by two threads at once."""


class Executor(Protocol):
    """Runs the children, several at a time or one after the other.

    Args:
        width: How many children run at a time, to estimate the time that is left.
        speaks: Whether children tell people themselves how far they are, so that the driver need not.
    """

    @property
    def width(self) -> int: ...

    @property
    def speaks(self) -> bool: ...

    def check(self, spec: RunSpec) -> None:
        """Before anything is begun.

        Raises:
            UserError: It cannot run such children.
        """
        ...

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """Runs all tasks, begun ones in the order given; returns when each has told its `End`, the last of its events.

        A child that fails, or whose process dies, is an event; siblings go on. On any exception, KeyboardInterrupt
        too, all that was started is stopped before it passes on.
        """
        ...
