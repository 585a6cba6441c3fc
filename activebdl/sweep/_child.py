"""What happens where a child runs, in this process or in another."""

import contextlib
import traceback
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from activebdl.build import make_dataset
from activebdl.data import ActiveDataset
from activebdl.errors import UserError, Waiting, words
from activebdl.journal_reading import read_rounds
from activebdl.progress import say
from activebdl.run_folders import JOURNAL, begun
from activebdl.runs import Tracking, TrackRound, resume, start
from activebdl.spec import RunSpec
from activebdl.sweep._children import Begun, End, Event, Failed, Finished, Task, Tell, Told, Waits

PATIENCE = 15.0  # seconds; a worker whose driver was killed ends by itself and lets go of its journal


def run_child(task: Task, tell: Callable[[Event], object], dataset: Callable[[], ActiveDataset]) -> None:
    """Starts a child, or goes on with it, and tells all about it; it raises nothing but what is no Exception.

    Args:
        task: Which one.
        tell: Told the events, `End` last.
        dataset: Gives the data set.
    """
    tell(_end_of(task, tell, dataset))


def _end_of(task: Task, tell: Callable[[Event], object], dataset: Callable[[], ActiveDataset]) -> End:
    try:
        journal = task.folder / JOURNAL
        _wait_for(journal)
        known = begun(task.folder) is not None
        done = len(read_rounds(journal)) if known else 0
        go = partial(resume, spec=task.spec) if known else partial(start, task.spec)
        return Finished(go(task.folder, tracking=_Telling(tell, done), dataset=dataset()))
    except Waiting as waiting:
        return Waits(str(waiting))
    except UserError as error:
        return Failed(str(error), traceback.format_exc() if error.__cause__ is not None else None)
    except Exception as error:
        return Failed(words(error), traceback.format_exc())


_loaded: dict[str, ActiveDataset] = {}


def dataset_of(task: Task) -> ActiveDataset:
    """A child's data set, in a process that works for the driver: the last one that it has loaded, or another."""
    key = task.spec.dataset.model_dump_json()
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = make_dataset(task.spec.dataset, progress=False)
    return _loaded[key]


class _Telling:
    """In the place of MLflow: what is tracked is told to the driver, which alone writes there."""

    def __init__(self, tell: Callable[[Event], object], done: int) -> None:
        self._tell, self._done = tell, done

    @contextlib.contextmanager
    def run(self, spec: RunSpec, name: str, uid: str, model: Path | None = None) -> Generator[TrackRound]:
        self._tell(Begun(uid, self._done))
        yield lambda dataset, round: self._tell(Told(round))

    @contextlib.contextmanager
    def comparison(self, name: str, uid: str) -> Generator[Tracking]:
        yield self


def _wait_for(journal: Path) -> None:
    """Until nobody holds it, or longer than a dying worker would; who opens it then says who does."""
    lock = FileLock(journal.with_name(journal.name + ".lock"))
    if Path(lock.lock_file).exists():
        with contextlib.suppress(Timeout), lock.acquire(timeout=PATIENCE):
            pass


class InThisProcess:
    """One child after the other, with the lines and the bars of a single run.

    Args:
        dataset: The data set, which all children share.
    """

    width, speaks = 1, True

    def __init__(self, dataset: ActiveDataset) -> None:
        self.dataset = dataset

    def check(self, spec: RunSpec) -> None:
        """See `Executor`: whatever one run can have."""

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """See `Executor`."""
        for number, task in enumerate(tasks):
            say(f"\n[{number + 1}/{len(tasks)}] {task.label}")
            run_child(task, partial(tell, number), lambda: self.dataset)
