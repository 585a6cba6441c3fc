"""The durable record of a run, one SQLite file: what was asked, what was answered, how each round went.

A request is written before the oracle sees it, every annotation before it is acknowledged, and each write is on the
disk when its method returns. So ``kill -9`` at any moment loses no label, and a run goes on from its journal alone.

Annotations are a history to which lines are added, and what they say never changes. When every item of a request has an
answer, the run takes it: all lines since the last time are stamped with that request, and the run goes by them from
there on, however often it is resumed.
"""

import contextlib
import json
import math
import os
import platform
import sqlite3
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from activebdl.annotations import Annotation, Label, standing
from activebdl.errors import UserError
from activebdl.journal_reading import RoundRecord
from activebdl.journal_schema import SCHEMA_VERSION, newer, upgrade


@dataclass(frozen=True)
class Asked:
    """One request, as written.

    Args:
        ids: In the order of choice.
        scores: Of each; None where the strategy has none.
        seconds: What choosing them took.
        samples: How many items times draws were looked at; None where that was not counted.
        predictions: What the model thought of each, as `activebdl.Request` has it; None where no oracle shows it.
    """

    ids: tuple[int, ...]
    scores: tuple[float | None, ...]
    seconds: float = 0.0
    samples: int | None = None
    predictions: tuple[tuple[float, ...], ...] | None = None


class Journal:
    """A run's journal; a context manager that holds it for this process alone. Its threads may share it.

    Args:
        path: The SQLite file, made when it does not exist; None keeps the journal in memory.
        beside: Whether the journal may be held by the process that runs it, to which this one adds annotations.

    Raises:
        UserError: The file cannot be written, is damaged or no journal, is of a newer version, or another process has
            it; the sentence says which.
    """

    def __init__(self, path: Path | None = None, *, beside: bool = False) -> None:
        self.path = path
        self._beside = beside
        if path is not None and beside:
            _refuse_elsewhere(path)
        self._lock = None if path is None or beside else _lock(path)
        self._turn = threading.RLock()  # of the threads of this process
        self._db = None
        try:
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
            # In WAL mode a commit is durable only with FULL: then it ends with a flush to the disk.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._make_or_check()
        except sqlite3.Error as error:
            self.close()
            raise UserError(f"The journal '{path}' cannot be used: {error}. It was left as it is.") from error
        except UserError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        with self._turn:
            if self._db is not None:
                self._db.close()
            if self._lock is not None and self._lock.is_locked:
                _release(self._lock)

    def about(self, key: str) -> Any:
        """What was noted about the run under that key; None when nothing was."""
        rows = self._rows("SELECT value FROM about WHERE key = ?", key)
        return json.loads(rows[0][0]) if rows else None

    def note(self, key: str, value: Any) -> None:
        """Notes something about the run, as JSON, in place of what was noted under that key."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, json.dumps(value)))

    def write_request(self, round: int, attempt: int, asked: Asked) -> None:
        """Writes a request, before the oracle sees it."""
        thoughts = [None] * len(asked.ids) if asked.predictions is None else [json.dumps(p) for p in asked.predictions]
        rows = zip(asked.ids, range(len(asked.ids)), asked.scores, thoughts, strict=True)
        with self._transaction() as db:
            db.execute("INSERT INTO requests VALUES (?, ?, ?, ?, NULL)", (round, attempt, asked.seconds, asked.samples))
            db.executemany(
                "INSERT INTO asked VALUES (?, ?, ?, ?, ?, ?)",
                [(id, round, attempt, position, score, thought) for id, position, score, thought in rows],
            )

    def request(self, round: int, attempt: int) -> Asked | None:
        """The request as written; None when it was not made yet."""
        head = self._rows("SELECT seconds, samples FROM requests WHERE round = ? AND attempt = ?", round, attempt)
        if not head:
            return None
        items = self._rows(
            "SELECT id, score, prediction FROM asked WHERE round = ? AND attempt = ? ORDER BY position", round, attempt
        )
        ids, scores, thoughts = zip(*items, strict=True) if items else ((), (), ())
        known = all(thought is not None for thought in thoughts)
        predictions = tuple(tuple(json.loads(thought)) for thought in thoughts) if known and items else None
        seconds, samples = head[0]
        return Asked(tuple(ids), tuple(scores), seconds, samples, predictions)

    def asked(self) -> frozenset[int]:
        """The ids of all items that were asked for."""
        return frozenset(id for (id,) in self._rows("SELECT id FROM asked"))

    def write_annotations(self, annotations: Sequence[Annotation]) -> None:
        """Writes annotations, before they are acknowledged; what an annotator said last, said again, is no news."""
        with self._transaction() as db:
            for a in annotations:
                if (a.role, a.label) == self._said_last(a):
                    continue
                db.execute(
                    "INSERT INTO annotations VALUES (NULL, ?, ?, (SELECT count(*) FROM annotations WHERE id = ? AND "
                    "annotator = ?), ?, ?, ?, ?, ?, NULL, NULL)",
                    (a.id, a.annotator, a.id, a.annotator, a.role, a.label, a.cost, a.seconds, _now_ms()),
                )

    def _said_last(self, a: Annotation) -> tuple[str, Label]:
        """Role and label of what this annotation takes the place of; a correction's is the last one by anybody."""
        by, roles = (a.annotator, ("vote",)) if a.role == "vote" else (a.annotator, ("answer", "withdrawn"))
        if a.role == "correction":
            by, roles = None, ("correction",)
        rows = self._rows(
            f"SELECT role, label FROM annotations WHERE id = ? AND annotator = ifnull(?, annotator) "
            f"AND role IN ({', '.join('?' * len(roles))}) ORDER BY number DESC LIMIT 1",
            a.id, by, *roles,
        )  # fmt: skip
        return rows[0] if rows else ("withdrawn", None)

    def annotations(self, round: int, attempt: int) -> dict[int, Annotation]:
        """The answers to a request's items that count by now, by id; an item without one is not there."""
        where = "JOIN asked USING (id) WHERE asked.round = ? AND asked.attempt = ?"
        return standing(self._history(where, round, attempt))

    def missing(self, round: int, attempt: int) -> list[int]:
        """Ids of a request's items that have no answer, in the order of choice."""
        asked = self._rows("SELECT id FROM asked WHERE round = ? AND attempt = ? ORDER BY position", round, attempt)
        answered = self.annotations(round, attempt)
        return [id for (id,) in asked if id not in answered]

    def take(self, round: int, attempt: int) -> bool:
        """Takes a request, when every item has an answer: what was said until now is what the run goes by from here on.

        Returns:
            Whether it is taken, now or before; if not, some item has no answer.
        """
        with self._transaction() as db:
            if self.taken(round, attempt):
                return True
            if self.missing(round, attempt):
                return False
            db.execute("UPDATE annotations SET round = ?, attempt = ? WHERE round IS NULL", (round, attempt))
            db.execute("UPDATE requests SET taken_ms = ? WHERE round = ? AND attempt = ?", (_now_ms(), round, attempt))
            return True

    def taken(self, round: int, attempt: int) -> bool:
        """Whether the run has taken the answers to a request."""
        where = "WHERE round = ? AND attempt = ? AND taken_ms IS NOT NULL"
        return bool(self._rows(f"SELECT 1 FROM requests {where}", round, attempt))

    def news(self, round: int, attempt: int) -> dict[int, Annotation]:
        """What the run took with a request: the answers to its items, and what is new of items of requests before it.

        An item whose answer was withdrawn since has an abstention.
        """
        touched = "SELECT id FROM annotations WHERE round = ? AND attempt = ? AND role != 'vote'"
        where = f"WHERE id IN ({touched}) AND (round, attempt) <= (?, ?)"
        history = self._history(where, round, attempt, round, attempt)
        withdrawn = {said.id: said for said in history if said.role == "withdrawn"}
        return withdrawn | standing(history)

    def waits_for(self) -> list[int]:
        """Ids of the items whose answers the run waits for, in the order of choice."""
        rows = self._rows("SELECT round, attempt FROM requests WHERE taken_ms IS NULL")
        return self.missing(*rows[0]) if rows else []

    def history(self) -> list[Annotation]:
        """All that was said, in the order in which it came."""
        return self._history("")

    def lines(self) -> int:
        """How many annotations there are in the history."""
        return self._rows("SELECT count(*) FROM annotations")[0][0]

    def paid(self) -> float:
        """What all annotations have cost."""
        return math.fsum(cost for (cost,) in self._rows("SELECT cost FROM annotations"))

    def paid_for(self, ids: Sequence[int]) -> dict[int, float]:
        """What all annotations of each of these items have cost."""
        costs: dict[int, list[float]] = {id: [] for id in ids}
        for id, cost in self._rows("SELECT id, cost FROM annotations"):
            if id in costs:
                costs[id].append(cost)
        return {id: math.fsum(each) for id, each in costs.items()}

    def cost(self, round: int) -> float:
        """What all annotations that the run had taken by the end of that round have cost."""
        rows = self._rows("SELECT cost FROM annotations WHERE round <= ?", round)
        return math.fsum(cost for (cost,) in rows)  # exact, in whatever order they came

    def samples(self, round: int) -> int | None:
        """How many items times draws were looked at to choose that round's items; None where that was not counted."""
        return self._rows("SELECT sum(samples) FROM requests WHERE round = ?", round)[0][0]

    def write_round(self, round: int, n_labels: int, results: Mapping[str, Any]) -> RoundRecord:
        """Writes the results of a round."""
        record = RoundRecord(n_labels, results, _now_ms())
        with self._transaction() as db:
            db.execute(
                "INSERT INTO rounds VALUES (?, ?, ?, ?)", (round, n_labels, json.dumps(results), record.written_ms)
            )
        return record

    def reopen(self, round: int) -> RoundRecord:
        """Forgets that the run stopped with this round, which goes on now."""
        record = self.round(round)
        assert record is not None
        results = {**record.results, "stopped": None}
        with self._transaction() as db:
            db.execute("UPDATE rounds SET results = ? WHERE round = ?", (json.dumps(results), round))
        return replace(record, results=results)

    def round(self, round: int) -> RoundRecord | None:
        """The results of a round; None when it has not come to them yet."""
        rows = self._rows("SELECT n_labels, results, written_ms FROM rounds WHERE round = ?", round)
        return RoundRecord(rows[0][0], json.loads(rows[0][1]), rows[0][2]) if rows else None

    def _history(self, where: str, *values: object) -> list[Annotation]:
        rows = self._rows(
            f"SELECT id, label, annotator, cost, annotations.seconds, role FROM annotations {where} ORDER BY number",
            *values,
        )
        return [Annotation(*row) for row in rows]

    def _make_or_check(self) -> None:
        version = self._rows("PRAGMA user_version")[0][0]
        if version > SCHEMA_VERSION:
            raise UserError(newer(self.path, version))
        if version == 0 and self._rows("SELECT 1 FROM sqlite_master"):
            raise UserError(f"'{self.path}' is no journal, but a database of something else; name another file.")
        if version < SCHEMA_VERSION and self._beside:
            raise UserError(f"The journal '{self.path}' is of an older activebdl; resume its run once with this one.")
        trouble = self._rows("PRAGMA quick_check(1)")[0][0]
        if trouble != "ok":
            raise sqlite3.DatabaseError(f"it is damaged ({' '.join(trouble.split())})")
        if version < SCHEMA_VERSION:
            self._database.executescript(upgrade(version))

    @property
    def _database(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    def _rows(self, sql: str, *values: object) -> list[Any]:
        with self._turn, self._told("read"):
            return self._database.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._turn, self._told("written"):
            db = self._database
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite has rolled back by itself where the disk is full
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self, verb: str) -> Generator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # our own mistake
        except sqlite3.DatabaseError as error:
            after = "What it holds is safe; mend this and resume."
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                after = "It is damaged and was left as it is; 'activebdl labels RUN --export' writes what can be read."
            raise UserError(f"The journal '{self.path}' cannot be {verb}: {error}. {after}") from error


@contextlib.contextmanager
def elsewhere(path: Path) -> Generator[None]:
    """Holds the journal of a run that works on another disk, from where copies come that take this one's place.

    What anybody added here meanwhile would be gone with the next copy, so it is refused.

    Raises:
        UserError: Another process has it.
    """
    lock, sign = _lock(path), _elsewhere_file(path)
    try:
        sign.touch()
        yield
    finally:
        sign.unlink(missing_ok=True)
        _release(lock)


def _refuse_elsewhere(path: Path) -> None:
    if not _elsewhere_file(path).exists():
        return
    try:
        with FileLock(path.with_name(path.name + ".lock")).acquire(timeout=0):
            pass  # whoever held it was killed
    except Timeout:
        raise UserError(
            f"The run '{path.parent.name}' works on another machine, where nothing that is added here arrives. Wait "
            "for its end, or stop it."
        ) from None


def _elsewhere_file(path: Path) -> Path:
    """Says, beside the lock, that the journal is a copy."""
    return path.with_name(path.name + ".elsewhere")


def _release(lock: FileLock) -> None:
    _holder_file(Path(lock.lock_file)).unlink(missing_ok=True)
    lock.release()


def _lock(path: Path) -> FileLock:
    if not path.name or path.is_dir():
        raise UserError(f"A journal is a file, such as run.sqlite, and '{path}' is a folder.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(path.name + ".lock"), thread_local=False)
        lock.acquire(timeout=0)
        since = datetime.now().strftime("%H:%M on %d %B")
        _holder_file(Path(lock.lock_file)).write_text(f"process {os.getpid()} on {platform.node()}, since {since},")
    except Timeout:
        raise UserError(
            f"Another process is working on this run: {_holder(path)} holds '{path}'. Wait for it, or stop it."
        ) from None
    except OSError as error:
        raise UserError(f"The journal '{path}' cannot be written: {error.strerror or error}.") from error
    return lock


def _holder_file(lock: Path) -> Path:
    """Who has the lock, for people; the lock itself says whether somebody does."""
    return lock.with_suffix(".holder")


def _holder(path: Path) -> str:
    try:
        return _holder_file(path.with_name(path.name + ".lock")).read_text() or "it"
    except OSError:
        return "it"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
