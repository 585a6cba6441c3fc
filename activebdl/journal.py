"""The durable record of a run, one SQLite file: what was asked, what was answered, how each round went.

A request is written before the oracle sees it, every annotation before it is acknowledged, and each write is on the
disk when its method returns. So ``kill -9`` at any moment loses no label, and a run goes on from its journal alone.
"""

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from activebdl.annotations import Annotation
from activebdl.errors import UserError

SCHEMA_VERSION = 3

_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE requests (       -- round r asks for what is labelled in round r, round -1 for what is held out for
                              -- validation; attempt 1, 2, ... replaces abstentions
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, seconds REAL NOT NULL,
    samples INTEGER,          -- items times draws that were looked at to choose; NULL where nobody counted
    PRIMARY KEY (round, attempt)) WITHOUT ROWID;

CREATE TABLE asked (          -- the primary key says: no item is asked for twice
    id INTEGER PRIMARY KEY, round INTEGER NOT NULL, attempt INTEGER NOT NULL, position INTEGER NOT NULL, score REAL,
    FOREIGN KEY (round, attempt) REFERENCES requests);

CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, n_labels INTEGER NOT NULL, results TEXT NOT NULL, written_ms INTEGER NOT NULL);
"""

_ANNOTATIONS = """
CREATE TABLE annotations (    -- the revisions of an annotator's answer to an item: a history, nothing is overwritten
    id INTEGER NOT NULL REFERENCES asked, annotator TEXT NOT NULL, revision INTEGER NOT NULL,
    label,                    -- an integer, or a number, or NULL by one who abstains
    cost REAL NOT NULL, seconds REAL NOT NULL, written_ms INTEGER NOT NULL,
    PRIMARY KEY (id, annotator, revision)) WITHOUT ROWID;
"""

_FROM_1 = f"""
ALTER TABLE annotations RENAME TO old; -- whose labels were integers, -1 by one who abstains
{_ANNOTATIONS}
INSERT INTO annotations SELECT id, annotator, revision, nullif(label, -1), cost, seconds, written_ms FROM old;
DROP TABLE old;
"""

_FROM_2 = "ALTER TABLE requests ADD COLUMN samples INTEGER;"


@dataclass(frozen=True)
class Asked:
    """One request, as written.

    Args:
        ids: In the order of choice.
        scores: Of each; None where the strategy has none.
        seconds: What choosing them took.
        samples: How many items times draws were looked at; None where that was not counted.
    """

    ids: tuple[int, ...]
    scores: tuple[float | None, ...]
    seconds: float = 0.0
    samples: int | None = None


@dataclass(frozen=True)
class RoundRecord:
    """The results of one round, and when they were written (milliseconds since 1970)."""

    n_labels: int
    results: Mapping[str, Any]
    written_ms: int


class Journal:
    """A run's journal; a context manager that holds it for this process alone.

    Args:
        path: The SQLite file, made when it does not exist; None keeps the journal in memory.

    Raises:
        UserError: The file cannot be written, is not a journal, is of a newer version, or another process has it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = None if path is None else _lock(path)
        try:
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
            # In WAL mode a commit is durable only with FULL: then it ends with a flush to the disk.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._make_or_check()
        except sqlite3.Error as error:
            self.close()
            raise UserError(f"The journal '{path}' cannot be used: {error}.") from error
        except UserError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()
        self._release()

    def about(self, key: str) -> Any:
        """What was noted about the run under that key; None when nothing was."""
        row = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def note(self, key: str, value: Any) -> None:
        """Notes something about the run, as JSON, in place of what was noted under that key."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, json.dumps(value)))

    def write_request(self, round: int, attempt: int, asked: Asked) -> None:
        """Writes a request, before the oracle sees it."""
        rows = zip(asked.ids, range(len(asked.ids)), asked.scores, strict=True)
        with self._transaction():
            self._db.execute("INSERT INTO requests VALUES (?, ?, ?, ?)", (round, attempt, asked.seconds, asked.samples))
            self._db.executemany(
                "INSERT INTO asked VALUES (?, ?, ?, ?, ?)",
                [(id, round, attempt, position, score) for id, position, score in rows],
            )

    def request(self, round: int, attempt: int) -> Asked | None:
        """The request as written; None when it was not made yet."""
        row = self._db.execute(
            "SELECT seconds, samples FROM requests WHERE round = ? AND attempt = ?", (round, attempt)
        ).fetchone()
        if row is None:
            return None
        items = self._db.execute(
            "SELECT id, score FROM asked WHERE round = ? AND attempt = ? ORDER BY position", (round, attempt)
        ).fetchall()
        return Asked(tuple(id for id, _ in items), tuple(score for _, score in items), *row)

    def write_annotations(self, annotations: Sequence[Annotation]) -> None:
        """Writes answers, before they are acknowledged. The same answer again changes nothing."""
        with self._transaction():
            for a in annotations:
                last = self._db.execute(
                    "SELECT revision, label FROM annotations WHERE id = ? AND annotator = ? "
                    "ORDER BY revision DESC LIMIT 1",
                    (a.id, a.annotator),
                ).fetchone()
                if last is not None and last[1] == a.label:
                    continue
                revision = 0 if last is None else last[0] + 1
                self._db.execute(
                    "INSERT INTO annotations VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (a.id, a.annotator, revision, a.label, a.cost, a.seconds, _now_ms()),
                )

    def annotations(self, round: int, attempt: int) -> dict[int, Annotation]:
        """The first answer to each item of a request, by id: what the run goes by."""
        rows = self._db.execute(
            "SELECT id, label, annotator, cost, seconds FROM annotations JOIN asked USING (id) "
            "WHERE round = ? AND attempt = ? ORDER BY written_ms DESC, annotator DESC, revision DESC",
            (round, attempt),
        )
        return {row[0]: Annotation(*row) for row in rows}

    def cost(self, round: int) -> float:
        """What all answers to the requests up to that round have cost, those that the run does not go by too."""
        rows = self._db.execute("SELECT cost FROM annotations JOIN asked USING (id) WHERE round <= ?", (round,))
        return math.fsum(cost for (cost,) in rows)  # exact, in whatever order they came

    def samples(self, round: int) -> int | None:
        """How many items times draws were looked at to choose that round's items; None where that was not counted."""
        return self._db.execute("SELECT sum(samples) FROM requests WHERE round = ?", (round,)).fetchone()[0]

    def write_round(self, round: int, n_labels: int, results: Mapping[str, Any]) -> RoundRecord:
        """Writes the results of a round."""
        record = RoundRecord(n_labels, results, _now_ms())
        with self._transaction():
            self._db.execute(
                "INSERT INTO rounds VALUES (?, ?, ?, ?)", (round, n_labels, json.dumps(results), record.written_ms)
            )
        return record

    def round(self, round: int) -> RoundRecord | None:
        """The results of a round; None when it has not come to them yet."""
        row = self._db.execute("SELECT n_labels, results, written_ms FROM rounds WHERE round = ?", (round,)).fetchone()
        return None if row is None else RoundRecord(row[0], json.loads(row[1]), row[2])

    def _make_or_check(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise UserError(
                f"The journal '{self.path}' was written by a newer activebdl (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); update activebdl."
            )
        if version < SCHEMA_VERSION:
            script = {0: _SCHEMA + _ANNOTATIONS, 1: _FROM_1 + _FROM_2, 2: _FROM_2}[version]
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise UserError(
                f"The journal '{self.path}' cannot be written: {error}. What it holds is safe; mend this and resume."
            ) from error

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def read_rounds(path: Path) -> list[RoundRecord]:
    """All rounds of a journal that another process may be writing."""
    with contextlib.closing(_read_only(path)) as db:
        if _is_empty(db):
            return []
        rows = db.execute("SELECT n_labels, results, written_ms FROM rounds ORDER BY round").fetchall()
    return [RoundRecord(n_labels, json.loads(results), written) for n_labels, results, written in rows]


def read_about(path: Path) -> dict[str, Any]:
    """All notes about the run of a journal that another process may be writing."""
    with contextlib.closing(_read_only(path)) as db:
        if _is_empty(db):
            return {}
        return {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM about")}


def _read_only(path: Path) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        if not _is_empty(db):
            db.execute("SELECT count(*) FROM about")
    except sqlite3.Error as error:
        raise UserError(f"'{path}' is not a journal that can be read: {error}.") from error
    return db


def _is_empty(db: sqlite3.Connection) -> bool:
    """Whether the process that made the file was killed before there was anything in it."""
    return db.execute("PRAGMA user_version").fetchone()[0] == 0


def _lock(path: Path) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(path.name + ".lock"))
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"Another process is working on this run; it holds '{path}'. Wait for it, or stop it."
        ) from None
    except OSError as error:
        raise UserError(f"The journal '{path}' cannot be written: {error.strerror or error}.") from error
    return lock


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
