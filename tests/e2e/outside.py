"""What outlives a run that is killed: people who answer it, what they remember, and who watches what it does.

All of it is deterministic but for the order in which people answer, which no run may depend on.
"""

import contextlib
import json
import mmap
import os
import random
import struct
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activebdl import ABSTAIN, ActiveDataset, Annotation, Normalise, Request
from activebdl.progress import Advance
from activebdl.spec import RunSpec
from tests.conftest import blobs

SPEC = RunSpec.model_validate({
    "experiment": "faults",
    "dataset": "tests.e2e.outside:points",
    "network": {"name": "mlp", "hidden": [16], "dropout": 0.3},
    "posterior": {"name": "mc_dropout", "training": {"steps": 40}},
    "strategy": {"name": "power_bald", "beta": 4},
    "oracle": "tests.e2e.outside:People",
    "validation": 4,
    "counts": (10, 16, 22, 30, 38),
    "draws": 8,
    "test_draws": 8,
    "device": "cpu",
})  # fmt: skip
CORRECTED = {2: 0, 4: 2}  # while round 2 is asked for, a label of round 0 is corrected, by a process beside the run
REVISED = {3: 1, 4: 0}  # and these are revised by those who gave them; a correction stands above that


def points() -> ActiveDataset:
    """120 points of 3 classes in the pool, 60 to test."""
    x, y = blobs(180)
    return ActiveDataset.from_arrays(x[:120], y[:120], x[120:], y[120:], name="blobs", normalise=Normalise())


class Board:
    """What a process is doing, and for how long it has done what, in memory that it shares with those who forked it."""

    PHASES = ("start", "fit", "score", "test", "ask", "write", "log", "other")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)  # phase, whether a correction is wanted; then entries and seconds by phase
        self.clear()

    def clear(self) -> None:
        """Before a process is forked whose board it is to be."""
        self._memory[:] = bytes(4096)
        self._since = time.perf_counter()

    @property
    def now(self) -> str:
        return self.PHASES[self._memory[0]]

    @property
    def wants_correction(self) -> bool:
        return bool(self._memory[1])

    @wants_correction.setter
    def wants_correction(self, value: bool) -> None:
        self._memory[1] = value

    def of(self, phase: str) -> tuple[int, float]:
        """How often it was entered, and the seconds in it, without those of phases within it."""
        count, seconds = struct.unpack_from("dd", self._memory, self._place(phase))
        return int(count), seconds

    @contextlib.contextmanager
    def phase(self, name: str) -> Generator[None]:
        """While the process does this."""
        before = self.now
        self._add(name, 1, 0.0)
        self._go_over_to(name)
        try:
            yield
        finally:
            self._go_over_to(before)

    @contextlib.contextmanager
    def progress(self, phase: str, total: int) -> Generator[Advance]:
        """An `activebdl.progress.Progress`."""
        with self.phase(phase if phase in self.PHASES else "other"):
            yield lambda count: None

    def _go_over_to(self, phase: str) -> None:
        begin, self._since = self._since, time.perf_counter()
        self._add(self.now, 0, self._since - begin)
        self._memory[0] = self.PHASES.index(phase)

    def _add(self, phase: str, entries: int, seconds: float) -> None:
        count, before = self.of(phase)
        struct.pack_into("dd", self._memory, self._place(phase), count + entries, before + seconds)

    def _place(self, phase: str) -> int:
        return 16 * (1 + self.PHASES.index(phase))


board = Board()
dice = random.Random()  # in which order people answer


@dataclass(frozen=True)
class Log:
    """What happened outside, one line each; a line that was written stays, whoever is killed after it."""

    path: Path

    def add(self, event: str, **told: Any) -> None:
        line = json.dumps({"event": event, **told}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            assert os.write(file, line.encode()) == len(line)
        finally:
            os.close(file)

    def read(self, *events: str) -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [entry for entry in map(json.loads, lines) if not events or entry["event"] in events]


class People:
    """They answer in parts, in any order, abstain from some items, remember what they said, and change their minds.

    Of every other part they write the answers themselves, as a page does; the others are what `poll` returns.
    """

    def __init__(self, *, folder: Path) -> None:
        self.log = Log(folder.parent / "outside.jsonl")
        self.truth = points().labels
        self.out = set[int]()
        self.unsure: list[Annotation] = []

    def submit(self, request: Request) -> str:
        with board.phase("ask"):
            self.request, self.out, self.unsure = request, set(), []
            self.log.add("submit", key=request.key, ids=request.ids)
        return request.key

    def poll(self, ticket: str) -> list[Annotation]:
        with board.phase("ask"):
            self._acknowledge(self.unsure)  # asked again, they know that all of the last time is written
            self.unsure = []
            self._revise()
            said = self._some(keep_one=self._await_correction())
            if dice.random() < 0.5:
                self.request.record(said)
                self._acknowledge(said)
            else:
                self.unsure = said
            return said

    def _some(self, keep_one: bool) -> list[Annotation]:
        """The next part, but for the last answer where that has to wait."""
        open = [id for id in self.request.ids if id not in self.out]
        dice.shuffle(open)
        part = open[keep_one:][: dice.randint(1, 3)]
        remembered = {entry["id"] for entry in self.log.read("answer")}
        said = [Annotation(id, self._label(id), "people", cost=0.1 * (1 + id % 3), seconds=0.7 * id) for id in part]
        for annotation in said:
            if annotation.id not in remembered:
                self.log.add("answer", id=annotation.id, label=annotation.label)
        self.out |= set(part)
        return said

    def _label(self, id: int) -> int | None:
        assert self.truth is not None
        return ABSTAIN if id % 6 == 1 else int(self.truth[id])

    def _changed(self, rounds: dict[int, int], by: int) -> tuple[int, int] | None:
        """The item whose label is to be another, and that label; None where none is due."""
        if self.request.round not in rounds or not self.request.key.endswith("attempt-0"):
            return None
        key = f"round-{rounds[self.request.round]}-attempt-0"
        asked = next(entry["ids"] for entry in self.log.read("submit") if entry["key"] == key)
        id, label = min((id, label) for id in asked if (label := self._label(id)) is not None)
        return id, (label + by) % 3

    def _revise(self) -> None:
        due = self._changed(REVISED, by=1)
        if due is not None and list(due) not in [said[:2] for e in self.log.read("ack") for said in e["said"]]:
            revision = Annotation(*due, "people", cost=0.3)
            self.request.record([revision])
            self._acknowledge([revision])

    def _await_correction(self) -> bool:
        """Whether a correction is due that is not made yet."""
        due = self._changed(CORRECTED, by=2)
        if due is None or any((entry["id"], entry["label"]) == due for entry in self.log.read("corrected")):
            return False
        self.log.add("please", id=due[0], label=due[1])
        board.wants_correction = True
        return True

    def _acknowledge(self, said: list[Annotation]) -> None:
        if said:
            self.log.add("ack", said=[(each.id, each.label, each.annotator) for each in said])
