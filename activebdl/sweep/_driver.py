"""Who hears what the children tell: MLflow, the report, and people at the terminal learn it from here alone."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from activebdl.data import ActiveDataset
from activebdl.errors import Waiting
from activebdl.files import MODEL, write_safely
from activebdl.progress import say
from activebdl.report import Curve, write_report
from activebdl.runs import Tracking, TrackRound
from activebdl.sweep._children import Begun, Event, Failed, Finished, Kept, Task, Told, Waits
from activebdl.sweep._time_left import TimeLeft

FAILED = "failed.txt"
"""The whole traceback of a child that failed, in its folder."""


class Driver:
    """Takes the events of all children; a context, at whose end no child is open in MLflow any more.

    Args:
        tasks: The children.
        dataset: Theirs.
        tracking: Of the comparison.
        bar: Shows how far all of them are; None where the children show it themselves.
    """

    def __init__(self, tasks: Sequence[Task], dataset: ActiveDataset, tracking: Tracking, bar: TimeLeft | None) -> None:
        self.tasks, self.dataset, self.tracking, self.bar = tasks, dataset, tracking, bar
        self.failed: dict[int, str] = {}
        self.waits: dict[int, str] = {}
        self._curves: dict[int, Curve] = {}
        self._open: dict[int, tuple[AbstractContextManager[TrackRound], TrackRound]] = {}
        self._rounds = [0] * len(tasks)  # that were taken of each
        self._done = [0] * len(tasks)  # that were done before

    @property
    def curves(self) -> list[Curve]:
        """Of those that are finished, in the order of the tasks."""
        return [self._curves[number] for number in sorted(self._curves)]

    @property
    def ended(self) -> int:
        """How many have, however they did."""
        return len(self._curves) + len(self.waits) + len(self.failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in list(self._open):
            self._close(number, error)

    def take(self, number: int, event: Event) -> None:
        """One event of the child with that number."""
        task = self.tasks[number]
        match event:
            case Begun(uid, done):
                if number in self._open:
                    return  # it was tried again by whoever runs it
                (task.folder / FAILED).unlink(missing_ok=True)
                self._done[number] = done
                run = self.tracking.run(task.spec, task.folder.name, uid, task.folder / MODEL)
                self._open[number] = run, run.__enter__()
            case Told(round):
                if round.number == self._rounds[number]:  # and not one that was told before
                    self._rounds[number] += 1
                    self._open[number][1](self.dataset, round)
                    if self.bar is not None:
                        self.bar.take(number, round)
            case Kept(files):
                for name, content in files.items():
                    write_safely(task.folder / name, content)
                if MODEL not in files:  # what there was is of fewer labels
                    (task.folder / MODEL).unlink(missing_ok=True)
            case Finished(curve):
                self._close(number, None)
                self._curves[number] = curve
                write_report(self.curves, task.folder.parent)
                self._say(number, _reached(curve, self._done[number]))
            case Waits(sentence):
                self.waits[number] = sentence
                self._close(number, Waiting(sentence))
                self._say(number, f"waits: {sentence}")
            case Failed(reason, trace):
                self.failed[number] = reason
                self._close(number, RuntimeError(reason))
                (task.folder / FAILED).unlink(missing_ok=True)
                if trace is not None:
                    write_safely(task.folder / FAILED, trace)
                self._say(number, f"FAILED: {reason}", always=True)

    def _close(self, number: int, error: BaseException | None) -> None:
        """Ends it in MLflow, as an exception within would."""
        if number in self._open:
            run, _ = self._open.pop(number)
            run.__exit__(type(error) if error is not None else None, error, None)

    def _say(self, number: int, what: str, *, always: bool = False) -> None:
        """A line for a child that has ended."""
        if self.bar is not None:
            self.bar.end(number)
            say(f"[{self.ended}/{len(self.tasks)}] {self.tasks[number].label}: {what}")
        elif always:
            say(f"  {what}")


def _reached(curve: Curve, done: int) -> str:
    """What a child came to, and what it took."""
    last = curve.heights[-1]
    reached = f"{100 * last:.2f} %" if curve.headline == "accuracy" else f"RMSE {last:.4g}"
    minutes = curve.seconds / 60
    took = f"{minutes:.1f} min" if minutes >= 1 else f"{curve.seconds:.0f} s"
    how = "finished before" if done == len(curve.counts) else took
    return f"{reached} at {curve.counts[-1]:,} labels, {how}{', stopped early' if curve.stopped else ''}"
