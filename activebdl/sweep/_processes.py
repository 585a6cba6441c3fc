"""Children in processes of this machine, several at a time, each with its share of the cores.

The processes are spawned, not forked: torch's threads do not survive a fork. Each takes one child after the other, so
that torch and the data set are loaded once. It ends when its driver does, whatever ended that.

Sums on a CPU may differ in their last bits with the number of threads, and selections with them: to have the same runs
with any number of jobs, set OMP_NUM_THREADS, which is obeyed. A GPU is shared by all.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Sequence
from functools import partial
from io import TextIOWrapper
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import cast

from activebdl.errors import UserError
from activebdl.spec import RunSpec
from activebdl.sweep._children import Failed, Finished, Task, Tell, Waits

OUTPUT = "output.txt"
"""What a child would have said on a terminal, in its folder."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_LOOK = 1.0  # seconds between two looks at who is alive
_LAST_WORDS = 5.0  # seconds that an idle process may take to end


class Processes:
    """Spawned processes.

    Args:
        jobs: How many, at most.
    """

    speaks = False

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise UserError(f"--jobs takes how many runs go on at a time, 1 or more, not {jobs}.")
        self.width = jobs

    def check(self, spec: RunSpec) -> None:
        """See `Executor`."""
        if spec.oracle.name == "web":
            raise UserError(
                "The labelling page serves one run at a time; compare with --jobs 1, or with --oracle files, where "
                "people answer all runs at once."
            )

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """See `Executor`."""
        waiting = deque(enumerate(tasks))
        workers: list[_Worker] = []
        try:
            with _environment(min(self.width, len(tasks))):
                while waiting or any(worker.number is not None for worker in workers):
                    workers = [worker for worker in workers if worker.is_alive]
                    while len(workers) < min(self.width, len(tasks)) and waiting:
                        workers.append(_Worker())
                    for worker in workers:
                        if worker.number is None and waiting:
                            worker.begin(*waiting.popleft())
                    _listen(workers, tell)
            for worker in workers:
                worker.dismiss()
        finally:
            for worker in workers:
                worker.stop()


class _Worker:
    """A process, and the child that it works on; it has none where ``number`` is None."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,))
        self.number: int | None = None
        self.is_alive = True
        with _deaf_to_the_keyboard():
            self.process.start()
        theirs.close()  # so that its end is heard here

    def begin(self, number: int, task: Task) -> None:
        """Hands it the next child."""
        self.number = number
        with contextlib.suppress(OSError):  # it has died; that is heard when it is listened to
            self.connection.send(task)

    def hear(self, tell: Tell) -> None:
        """Tells the next thing that it says, or that it has died."""
        try:
            if self.process.exitcode is not None and not self.connection.poll():
                raise EOFError
            event = self.connection.recv()
        except (EOFError, OSError):
            self.is_alive = False
            self.process.join()
            event = Failed(f"its process {_how_it_ended(self.process.exitcode or 0)}")
        number = self.number
        if isinstance(event, Finished | Waits | Failed):
            self.number = None
        if number is not None:
            tell(number, event)

    def dismiss(self) -> None:
        """Tells it that there is no more."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(_LAST_WORDS)

    def stop(self) -> None:
        """Ends it now: what it had in its journal is safe at any moment."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


def _listen(workers: Sequence[_Worker], tell: Tell) -> None:
    """Hears one thing of each that has something to say, or has died."""
    ready = wait([worker.connection for worker in workers], timeout=_LOOK)
    for worker in workers:
        # One that died is heard by its connection, unless a process that it had started still holds the other end.
        if worker.connection in ready or worker.process.exitcode is not None:
            worker.hear(tell)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    memory = ", as when memory runs out" if name == "SIGKILL" else ""
    return f"died with signal {-code} ({name}{memory})"


@contextlib.contextmanager
def _environment(jobs: int) -> Generator[None]:
    """The processes' share of the cores, which torch reads when it is imported there; none where the user chose."""
    threads = str(max(1, cores() // jobs))
    chosen = {name: threads for name in _THREADS if not any(name in os.environ for name in _THREADS)}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name in chosen:
            del os.environ[name]


@contextlib.contextmanager
def _deaf_to_the_keyboard() -> Generator[None]:
    """A process that is started within never hears Ctrl-C, which a terminal sends to all: the driver stops it."""
    resource_tracker.ensure_running()  # it would start within, and lift what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(connection: Connection) -> None:
    """The life of a worker."""
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    from tqdm import tqdm

    from activebdl.sweep._child import dataset_of, run_child

    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves behind

    while (task := connection.recv()) is not None:
        _speak_into(task.folder / OUTPUT)
        run_child(task, connection.send, partial(dataset_of, task))


def _end_with_the_driver() -> None:
    """At once, as ``kill -9`` would: the next driver waits for the journal."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _speak_into(path: Path) -> None:
    """All that is written to the terminal goes to the file, after what a life before this one wrote."""
    sys.stdout.flush()
    sys.stderr.flush()
    cast(TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
