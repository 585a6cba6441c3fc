"""Kills runs with SIGKILL at random moments, resumes them, and compares their ends with a run that nobody killed.

    python -m tests.e2e.faults --runs 200 --kills 1 3 --seed 0 /tmp/faults

One process imports everything and computes nothing. Every life of a run is a fork of it, as is every correction of a
label that is made beside the run. Half of the kills come at a moment drawn from the length of a whole run, half are
aimed: at a random moment of the random entry into a random phase, so that short phases are met too.
"""

import argparse
import contextlib
import gc
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("MLFLOW_TRACKING_URI", None)

import mlflow.store.tracking.sqlalchemy_store
import sqlalchemy.dialects.sqlite
import torch
import torch._dynamo
from tqdm import tqdm

from activebdl import asking, labels, runs
from activebdl.journal import Journal
from activebdl.pictures import confusion_matrix
from activebdl.run_folders import begun
from activebdl.spec import RunSpec
from activebdl.tracking import MlflowTracking
from tests.e2e.outside import SPEC, Board, Log, board, dice
from tests.e2e.verdict import End, judge, what_is_kept

AIMS = ("start", "fit", "score", "test", "ask", "write", "log", "correct")
FRESH = 20  # every so many runs one begins without MLflow's store
LOADED = (mlflow.store.tracking.sqlalchemy_store, sqlalchemy.dialects.sqlite, torch._dynamo)  # once for all lives


@dataclass(frozen=True)
class Aim:
    """When to kill: so many seconds after the start, or after an entry into a phase as soon as the run is in it."""

    delay: float
    phase: str | None = None
    entry: int = 0


@dataclass
class Whole:
    """How long a run takes that nobody kills, in all and by phase, and how it ends."""

    seconds: float = 0.0
    phases: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    end: End | None = None

    def aims(self, count: int, rng: random.Random) -> Iterator[Aim]:
        """Random moments of a run, in their order, each told from the one before it, after which the run is resumed."""
        moments = sorted(rng.random() for _ in range(count))
        for share in (b - a for a, b in itertools.pairwise([0.0, *moments])):
            phase = rng.choice(AIMS) if rng.random() < 0.5 else None
            if phase is None:
                yield Aim(share * self.seconds)
            elif phase == "correct":
                yield Aim(rng.uniform(0, 0.03), phase)
            else:
                entries, seconds = self.phases[phase]
                yield Aim(rng.uniform(0, seconds / entries), phase, 1 + int(share * entries))


@dataclass
class Life:
    """How one life of a run ended: in which phase it was killed, or None where it came to its end."""

    killed_in: str | None
    correcting: bool = False


class Run:
    """One run, in a folder of its own, and the one who corrects its labels."""

    def __init__(self, place: Path, store: Path | None) -> None:
        self.place, self.folder, self.log = place, place / "mine", Log(place / "outside.jsonl")
        place.mkdir()
        if store is not None:  # it takes MLflow seconds to make one
            shutil.copy(store, place / "mlflow.db")
        self.person: int | None = None

    def life(self, aim: Aim | None, rng: random.Random) -> Life:
        """Starts or resumes the run; ends with it, or with its being killed."""
        board.clear()
        dice.seed(rng.random())
        life = _fork(lambda: _live(self.folder), self.place / "output.txt")
        born, since = time.monotonic(), None
        while True:
            pid, status = os.waitpid(life, os.WNOHANG)
            if pid:
                assert status == 0, f"{self.place}: {(self.place / 'output.txt').read_text()[-3000:]}"
                self._person_ends()
                return Life(None)
            self._correct()
            now = time.monotonic()
            if aim is not None:
                since = since or self._reached(aim, born)
                if since is not None and now >= since + aim.delay and self._is_in(aim.phase):
                    return self._kill(life, rng)
            time.sleep(0.0002)

    def _reached(self, aim: Aim, born: float) -> float | None:
        """Since when the aim's countdown runs; None when it does not yet."""
        if aim.phase is None:
            return born
        reached = self.person is not None if aim.phase == "correct" else board.of(aim.phase)[0] >= aim.entry
        return time.monotonic() if reached else None

    def _is_in(self, phase: str | None) -> bool:
        return phase in (None, "correct", board.now)

    def _kill(self, life: int, rng: random.Random) -> Life:
        os.kill(life, signal.SIGKILL)
        _, status = os.waitpid(life, 0)
        if not os.WIFSIGNALED(status):  # it was through
            self._person_ends()
            return Life(None)
        killed_in, correcting = board.now, self.person is not None
        if self.person is not None and rng.random() < 0.5:
            os.kill(self.person, signal.SIGKILL)
        self._person_ends()
        asked, said = what_is_kept(self.folder)
        self.log.add("killed", phase=killed_in, asked=sorted(asked), said=sorted(said, key=str))
        if begun(self.folder) is None:  # as one is told to do
            assert not self.log.read("submit")
            shutil.rmtree(self.folder, ignore_errors=True)
        return Life(killed_in, correcting)

    def _correct(self) -> None:
        """Corrects a label in a process beside the run, when one is due."""
        if self.person is not None and os.waitpid(self.person, os.WNOHANG)[0]:
            self.person = None
        if self.person is None and board.wants_correction:
            board.wants_correction = False
            done = [(entry["id"], entry["label"]) for entry in self.log.read("corrected")]
            due = self.log.read("please")[-1]
            if (due["id"], due["label"]) not in done:
                self.person = _fork(lambda: self._fix(due["id"], due["label"]), self.place / "output.txt")

    def _fix(self, id: int, label: int) -> None:
        labels.fix(self.folder / "journal.sqlite", [f"{id}={label}"])
        self.log.add("corrected", id=id, label=label)

    def _person_ends(self) -> None:
        if self.person is not None:
            os.waitpid(self.person, 0)
            self.person = None


def _fork(work: Callable[[], object], output: Path) -> int:
    """Does the work in a process of its own."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        tqdm.set_lock(threading.RLock())  # its own is one with its siblings, and who is killed never gives it back
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _live(folder: Path) -> None:
    """A life of the run, which tells the board what it does."""
    asking._LONGEST_PAUSE = 0.01
    runs.bars = board.progress
    transaction = Journal._transaction

    @contextlib.contextmanager
    def watched(self: Journal) -> Generator[sqlite3.Connection]:
        with board.phase("write"), transaction(self) as db:
            yield db

    Journal._transaction = watched
    with board.phase("start"):
        with board.phase("log"):
            tracking = Watched(MlflowTracking.prepare(folder.parent, SPEC.experiment))
        if begun(folder) is None:
            runs.start(SPEC, folder, tracking=tracking)
        else:
            runs.resume(folder, tracking=tracking)


@dataclass(frozen=True)
class Watched:
    """MLflow, which tells the board when it is being told."""

    inner: MlflowTracking

    @contextlib.contextmanager
    def run(self, spec: RunSpec, name: str, uid: str, model: Path | None = None) -> Generator[runs.TrackRound]:
        with contextlib.ExitStack() as stack:
            with board.phase("log"):
                send = stack.enter_context(self.inner.run(spec, name, uid, model))

            def watched(*told: Any) -> None:
                with board.phase("log"):
                    send(*told)

            with board.phase("other"):
                yield watched

    def comparison(self, name: str, uid: str) -> AbstractContextManager[runs.Tracking]:
        raise NotImplementedError


def trials(place: Path, count: int, kills: tuple[int, int], seed: int) -> Iterator[tuple[list[Life], list[str]]]:
    """Runs so many, each killed at least once and resumed to its end: how its lives ended, and what is wrong then."""
    store, begin = place / "mlflow.db", time.monotonic()
    os.waitpid(_fork(lambda: MlflowTracking.prepare(place, "other"), place / "output.txt"), 0)
    making = time.monotonic() - begin
    whole = _whole(place / "whole", store)
    assert whole.end is not None
    for number in range(count):
        for again in itertools.count():
            rng = random.Random(f"{seed} {number} {again}")
            aims = list(whole.aims(rng.randint(*kills), rng))
            if number % FRESH == FRESH - 1:  # it makes MLflow's store too, and is killed at that
                run, aims = Run(place / f"{number}-{again}", None), [Aim(rng.uniform(0, making)), *aims]
            else:
                run = Run(place / f"{number}-{again}", store)
            lives = [run.life(aim, rng) for aim in aims]
            if all(life.killed_in is None for life in lives):
                shutil.rmtree(run.place)  # it was through before its first
                continue
            run.life(None, rng)
            faults = judge(End.of(run.place), whole.end, run.log)
            yield lives, [f"run {run.place.name}: {fault}" for fault in faults]
            if not faults:
                shutil.rmtree(run.place)
            break


def _whole(place: Path, store: Path) -> Whole:
    """A run that nobody kills."""
    run, begin = Run(place, store), time.monotonic()
    run.life(None, random.Random(0))
    seconds = time.monotonic() - begin
    return Whole(seconds, {phase: board.of(phase) for phase in Board.PHASES}, End.of(place))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills", type=int, nargs=2, default=(1, 3), help="of each run, at least and at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("folder", type=Path, help="where the runs are, which must not be there yet")
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    torch.set_num_threads(1)
    confusion_matrix([[1]], ["fonts"], "are found once")
    assert threading.active_count() == 1  # a fork has the thread alone that made it
    gc.freeze()
    try:
        report = _report(given.folder.resolve(), given.runs, tuple(given.kills), given.seed)
    finally:
        gc.unfreeze()
    (given.folder / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))  # noqa: T201


def _report(place: Path, count: int, kills: tuple[int, int], seed: int) -> dict[str, Any]:
    begin, phases, correcting, wrong, faults = time.monotonic(), Counter[str](), 0, 0, list[str]()
    for lives, found in trials(place, count, kills, seed):
        phases.update(life.killed_in for life in lives if life.killed_in is not None)
        correcting += sum(life.correcting for life in lives)
        wrong += bool(found)
        faults += found
        for fault in found:
            print(fault, file=sys.stderr, flush=True)  # noqa: T201
    return {
        "runs": count,
        "identical": count - wrong,
        "lost": sum(": lost: " in fault for fault in faults),
        "asked twice": sum(": asked twice: " in fault for fault in faults),
        "kills": phases.total(),
        "kills by phase": {phase: phases[phase] for phase in Board.PHASES},
        "kills while a label was corrected": correcting,
        "seconds": round(time.monotonic() - begin),
        "faults": faults,
    }


if __name__ == "__main__":
    main()
