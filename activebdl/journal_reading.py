"""Reading a journal that another process may be writing, or that is damaged: nothing is locked, and nothing written."""

import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activebdl.annotations import Annotation
from activebdl.errors import UserError
from activebdl.journal_schema import SCHEMA_VERSION, newer


@dataclass(frozen=True)
class RoundRecord:
    """The results of one round, and when they were written (milliseconds since 1970)."""

    n_labels: int
    results: Mapping[str, Any]
    written_ms: int


def read_rounds(path: Path) -> list[RoundRecord]:
    """All rounds of a journal that another process may be writing."""
    with _reading(path) as db:
        if _is_empty(db):
            return []
        rows = db.execute("SELECT n_labels, results, written_ms FROM rounds ORDER BY round").fetchall()
    return [RoundRecord(n_labels, json.loads(results), written) for n_labels, results, written in rows]


def snapshot(path: Path) -> bytes:
    """A journal as it is at this moment, in one file, though it is being written."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / path.name
        with contextlib.closing(sqlite3.connect(path)) as db, contextlib.closing(sqlite3.connect(copy)) as other:
            db.backup(other)
        return copy.read_bytes()


@dataclass(frozen=True)
class Line:
    """One line of the history of annotations.

    Args:
        annotation: What was said.
        revision: How many times this annotator had said something else of the item before.
        asked_in: The round that asked for the item.
        taken_in: The round from which the run goes by the history up to here; None when it does not yet.
        written_ms: When it came, in milliseconds since 1970.
    """

    annotation: Annotation
    revision: int
    asked_in: int
    taken_in: int | None
    written_ms: int


def read_history(path: Path) -> tuple[list[Line], str | None]:
    """The history of annotations of a journal that another process may be writing.

    Returns:
        The lines, and what is wrong with the file when it is damaged: then they are those that can still be read.
    """
    with _reading(path) as db:
        lines: list[Line] = []
        try:
            for *said, revision, asked_in, taken_in, written_ms in db.execute(
                "SELECT id, label, annotator, cost, a.seconds, role, revision, asked.round, a.round, written_ms "
                "FROM annotations AS a JOIN asked USING (id) ORDER BY number"
            ):
                lines.append(Line(Annotation(*said), revision, asked_in, taken_in, written_ms))
        except sqlite3.DatabaseError as error:
            return lines, str(error)
        return lines, None


def read_about(path: Path) -> dict[str, Any]:
    """All notes about the run of a journal that another process may be writing."""
    with _reading(path) as db:
        if _is_empty(db):
            return {}
        return {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM about")}


def is_older(path: Path) -> bool:
    """Whether a journal has the tables of an earlier version, which opening it as its writer makes today's."""
    with _reading(path) as db:
        return not _is_empty(db) and _version(db) < SCHEMA_VERSION


@contextlib.contextmanager
def _reading(path: Path) -> Generator[sqlite3.Connection]:
    try:
        with contextlib.closing(_read_only(path)) as db:
            if _version(db) > SCHEMA_VERSION:
                raise UserError(newer(path, _version(db)))
            yield db
    except sqlite3.Error as error:
        raise UserError(f"'{path}' is not a journal that can be read: {error}.") from error


def _read_only(path: Path) -> sqlite3.Connection:
    """In a folder that cannot be written SQLite opens the file only when it is told that nobody else writes it."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    db = sqlite3.connect(uri, uri=True)
    try:
        _version(db)
    except sqlite3.OperationalError:
        db.close()
        if path.with_name(path.name + "-wal").exists():
            raise
        db = sqlite3.connect(f"{uri}&immutable=1", uri=True)
    return db


def _version(db: sqlite3.Connection) -> int:
    return db.execute("PRAGMA user_version").fetchone()[0]


def _is_empty(db: sqlite3.Connection) -> bool:
    """Whether the process that made the file was killed before there was anything in it."""
    return _version(db) == 0
