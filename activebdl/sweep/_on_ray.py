"""Children as tasks of Ray, on this machine or on many.

A child runs in a folder of its own, wherever that is, and tells the driver all that happens, with its journal after
each round; the driver puts that into the child's folder. One whose machine dies goes on elsewhere, from the last
journal.
"""

import contextlib
import os
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from activebdl.cluster import Cluster, Room, differing, lost, stand, versions
from activebdl.errors import UserError, words
from activebdl.files import MODEL
from activebdl.journal import Journal, elsewhere
from activebdl.journal_reading import snapshot
from activebdl.run_folders import JOURNAL, SPEC_FILE
from activebdl.spec import RunSpec
from activebdl.sweep._children import Begun, Event, Failed, Finished, Kept, Task, Tell, Told, Waits
from activebdl.sweep._processes import OUTPUT

_BESIDE = (SPEC_FILE, OUTPUT, MODEL)  # what the driver keeps with the journal
_TRIES = 4  # of a child, before it is given up
_LOOK = 1.0  # seconds between two looks at what the cluster has
_PEOPLE = ("web", "files")  # oracles that serve or write where the child runs


class OnRay:
    """Tasks of Ray.

    Args:
        cluster: Where they run, and what each of them has.
        jobs: How many at a time; None for as many as there is room for.
    """

    speaks = False

    def __init__(self, cluster: Cluster, jobs: int | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise UserError(f"--jobs takes how many runs go on at a time, 1 or more, not {jobs}.")
        self.cluster, self.jobs = cluster, jobs
        self._open = contextlib.ExitStack()
        self._ray: Any = None

    def check(self, spec: RunSpec) -> None:
        """See `Executor`."""
        if spec.oracle.name in _PEOPLE:
            raise UserError(
                f"The oracle '{spec.oracle.name}' works on this machine, and tasks of Ray may be on others; compare "
                "without --ray."
            )

    @property
    def width(self) -> int:
        """See `Executor`."""
        machines = [node["Resources"] for node in self._joined().nodes() if node["Alive"]]
        fits = sum(int(has.get("CPU", 0) // self.cluster.cpus) for has in machines)
        if self.cluster.gpus:
            fits = min(fits, sum(int(has.get("GPU", 0) // self.cluster.gpus) for has in machines))
        return max(1, min(fits, self.jobs or fits))

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """See `Executor`."""
        try:
            _Running(self._joined(), self.cluster, tasks, tell, self.jobs or len(tasks)).run()
        finally:
            self._ray = None
            self._open.close()

    def _joined(self) -> Any:
        if self._ray is None:
            self._ray = self._open.enter_context(self.cluster.joined(processes=self.jobs or 1))
        return self._ray


class _Running:
    """All children, until each has ended."""

    def __init__(self, ray: Any, cluster: Cluster, tasks: Sequence[Task], tell: Tell, most: int) -> None:
        self.ray, self.tasks, self.tell, self.most = ray, tasks, tell, most
        self.room = Room(ray, cluster)
        self.threads = cluster.threads
        self.remote = ray.remote(child).options(**cluster.options(), num_returns="streaming", max_retries=0)
        self.waiting = deque(range(len(tasks)))
        self.streams: dict[Any, int] = {}
        self.tries: Counter[int] = Counter()
        self.held: dict[int, contextlib.ExitStack] = {}  # the journals of those that are at work elsewhere

    def run(self) -> None:
        try:
            while self.waiting or self.streams:
                while self.waiting and len(self.streams) < self.most:
                    self._begin(self.waiting.popleft())
                if not self.streams:  # none of them could begin
                    continue
                ready, _ = self.ray.wait(list(self.streams), num_returns=1, timeout=_LOOK)
                for stream in ready:
                    self._hear(stream)
                if not ready:
                    self.room.check()
        finally:
            for stream in self.streams:
                self.ray.cancel(stream, force=True)
            for number in list(self.held):
                self.held.pop(number).close()

    def _begin(self, number: int) -> None:
        task = self.tasks[number]
        try:
            if (task.folder / JOURNAL).exists():
                with Journal(task.folder / JOURNAL):
                    pass  # nobody else has it, and what SQLite keeps beside it is in it now
            self.held[number] = contextlib.ExitStack()
            self.held[number].enter_context(elsewhere(task.folder / JOURNAL))
            there = [task.folder / name for name in (JOURNAL, *_BESIDE) if (task.folder / name).exists()]
            files = {path.name: path.read_bytes() for path in there}
        except (UserError, OSError) as error:
            self.held.pop(number, contextlib.ExitStack()).close()
            self.tell(number, Failed(words(error)))
            return
        self.streams[self.remote.remote(task, files, self.threads, versions(), os.getcwd())] = number

    def _hear(self, stream: Any) -> None:
        """Tells the next thing that a child says; begins it again where its machine is gone."""
        number = self.streams[stream]
        try:
            event: Event = self.ray.get(next(stream))
        except (*lost(self.ray), StopIteration) as error:
            del self.streams[stream]
            self.held.pop(number).close()
            self.tries[number] += 1
            if self.tries[number] < _TRIES:
                self.waiting.appendleft(number)
            else:
                self.tell(number, Failed(f"its process died {_TRIES} times, lastly by {words(error)}"))
            return
        except self.ray.exceptions.RayTaskError as error:
            event = Failed(words(error.cause), str(error))
        if isinstance(event, Finished | Waits | Failed):
            del self.streams[stream]
            self.held.pop(number).close()
        self.tell(number, event)


def child(task: Task, files: Mapping[str, bytes], threads: int, driver: dict[str, str], place: str) -> Iterator[Event]:
    """What happens on the machine where a child runs.

    Args:
        task: Which child.
        files: What there is of it, by name.
        threads: Of torch.
        driver: What the driver runs; this machine is to run the same.
        place: Where the driver stands, for paths and modules of the user's own.
    """
    trouble = differing(driver)
    if trouble is not None:
        yield Failed(trouble)
        return
    torch.set_num_threads(threads)
    stand(place)
    with tempfile.TemporaryDirectory(prefix="activebdl-", ignore_cleanup_errors=True) as disk:
        folder = Path(disk) / task.folder.name
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        yield from _events(Task(task.spec, folder))


def _events(task: Task) -> Iterator[Event]:
    """What a child tells, with its files before each new round and at its end."""
    from activebdl.sweep._child import dataset_of, run_child

    events: SimpleQueue[Event] = SimpleQueue()
    done = 0

    def tell(event: Event) -> None:
        nonlocal done
        if isinstance(event, Begun):
            done = event.done
        if not isinstance(event, Told) or event.round.number >= done:
            events.put(_kept(task.folder))  # first: what MLflow is told, the uid too, is never more than what is kept
        events.put(event)

    def run() -> None:
        try:
            with (task.folder / OUTPUT).open("a", buffering=1) as out, redirect_stdout(out), redirect_stderr(out):
                run_child(task, tell, lambda: dataset_of(task))
        except BaseException as error:
            events.put(Failed(str(error) or type(error).__name__))

    threading.Thread(target=run, daemon=True).start()
    while True:
        event = events.get()
        yield event
        if isinstance(event, Finished | Waits | Failed):
            return


def _kept(folder: Path) -> Kept:
    files = {name: (folder / name).read_bytes() for name in _BESIDE if (folder / name).exists()}
    if (folder / JOURNAL).exists():
        files[JOURNAL] = snapshot(folder / JOURNAL)
    return Kept(files)
