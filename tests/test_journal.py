import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from activebdl import ABSTAIN, Annotation, UserError
from activebdl.annotations import Label
from activebdl.journal import Asked, Journal, elsewhere
from activebdl.journal_reading import is_older, read_about, read_history, read_rounds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal.sqlite"


def test_what_is_written_is_read_back_by_the_next_process(path: Path) -> None:
    asked = Asked((5, 2, 9), (0.5, None, 1 / 3), seconds=0.25)
    with Journal(path) as journal:
        journal.note("seed", {"a": [1, 2]})
        journal.write_request(0, 0, asked)
        journal.write_annotations([Annotation(5, 1, "ann", 2.5, 3.0), Annotation(9, ABSTAIN)])
        record = journal.write_round(0, 1, {"metrics": {"accuracy": 0.1 + 0.2}})
    with Journal(path) as journal:
        assert journal.about("seed") == {"a": [1, 2]}
        assert journal.about("nothing") is None
        assert journal.request(0, 0) == asked
        assert journal.request(0, 1) is None
        assert journal.annotations(0, 0) == {5: Annotation(5, 1, "ann", 2.5, 3.0), 9: Annotation(9, ABSTAIN)}
        assert journal.round(0) == record
        assert journal.round(1) is None


def test_numbers_come_back_to_the_last_bit_and_abstentions_as_such(path: Path) -> None:
    labels = {0: 0.1 + 0.2, 1: -1.0, 2: 3.0, 3: -1, 4: None, 5: 1e300}
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked(tuple(labels), (None,) * 6))
        journal.write_annotations([Annotation(id, label) for id, label in labels.items()])
    with Journal(path) as journal:
        found = {id: annotation.label for id, annotation in journal.annotations(0, 0).items()}
        assert found == labels and type(found[3]) is int and type(found[2]) is float
        journal.write_annotations([Annotation(id, label) for id, label in labels.items()])
        assert _count(path, "annotations") == 6


REQUESTS = "CREATE TABLE requests (round INTEGER NOT NULL, attempt INTEGER NOT NULL, seconds REAL NOT NULL, {}"
KEY = "PRIMARY KEY (round, attempt)) WITHOUT ROWID;"
OLD = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE asked (id INTEGER PRIMARY KEY, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    position INTEGER NOT NULL, score REAL, FOREIGN KEY (round, attempt) REFERENCES requests);
CREATE TABLE annotations (id INTEGER NOT NULL REFERENCES asked, annotator TEXT NOT NULL, revision INTEGER NOT NULL,
    label {}, cost REAL NOT NULL, seconds REAL NOT NULL, written_ms INTEGER NOT NULL,
    PRIMARY KEY (id, annotator, revision)) WITHOUT ROWID;
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, n_labels INTEGER NOT NULL, results TEXT NOT NULL, written_ms INTEGER NOT NULL);
"""


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_journal_of_an_earlier_version_is_read(path: Path, version: int) -> None:
    """A run went by the first answer; until the third version nobody counted samples; in the first -1 abstained."""
    path.parent.mkdir()
    counted = version == 3
    with contextlib.closing(sqlite3.connect(path)) as db:
        tables = REQUESTS.format("samples INTEGER, " if counted else "") + KEY + OLD
        db.executescript(tables.format("INTEGER NOT NULL" if version == 1 else ""))
        more = (700,) if counted else ()
        db.executemany(
            f"INSERT INTO requests VALUES (?, ?, ?{', ?' * len(more)})", [(0, 0, 2.0, *more), (0, 1, 1.0, *more)]
        )
        db.executemany("INSERT INTO asked VALUES (?, 0, ?, ?, ?)", [(5, 0, 0, 0.5), (9, 0, 1, None), (7, 1, 0, 0.1)])
        abstained = -1 if version == 1 else None
        said = [(5, "bob", 0, 2, 1.0, 3.0, 8), (5, "ann", 0, 1, 2.5, 3.0, 7), (9, "ann", 0, abstained, 2.5, 3.0, 9)]
        db.executemany("INSERT INTO annotations VALUES (?, ?, ?, ?, ?, ?, ?)", said)
        db.execute("INSERT INTO rounds VALUES (0, 1, '{}', 3)")
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()
    with pytest.raises(UserError, match="is of an older activebdl; resume its run once with this one"):
        Journal(path, beside=True)  # its writer may be at work, and know no other tables
    assert is_older(path)
    for _ in range(2):
        with Journal(path) as journal:
            samples = 700 if counted else None
            assert journal.request(0, 0) == Asked((5, 9), (0.5, None), 2.0, samples)
            assert journal.request(0, 1) == Asked((7,), (0.1,), 1.0, samples)
            expected = {5: Annotation(5, 1, "ann", 2.5, 3.0), 9: Annotation(9, None, "ann", 2.5, 3.0)}
            assert journal.annotations(0, 0) == journal.news(0, 0) == expected
            assert journal.taken(0, 0) and not journal.taken(0, 1)
            assert journal.paid() == journal.cost(0) == 6.0
            assert [a.role for a in journal.history()] == ["answer", "vote", "answer"]
            assert journal.round(0) is not None
    with Journal(path) as journal:
        assert not journal.take(0, 1)
        journal.write_annotations([Annotation(7, 0, "ann", 1.0)])
        assert journal.take(0, 1) and journal.news(0, 1) == {7: Annotation(7, 0, "ann", 1.0)}


def test_the_same_annotation_again_changes_nothing(path: Path) -> None:
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5,), (None,)))
        for _ in range(3):
            journal.write_annotations([Annotation(5, 1)])
        assert _count(path, "annotations") == 1


def test_the_last_answer_counts_that_is_not_withdrawn_and_votes_do_not(path: Path) -> None:
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5, 6), (None, None)))

        def after(*said: Annotation) -> dict[int, Label]:
            journal.write_annotations(said)
            return {id: answer.label for id, answer in journal.annotations(0, 0).items()}

        assert after(Annotation(5, 1, "ann")) == {5: 1}
        assert after(Annotation(5, 2, "ann")) == {5: 2}
        assert after(Annotation(5, 0, "bob"), Annotation(6, 1, "bob", role="vote")) == {5: 0}
        assert after(Annotation(5, None, "bob", role="withdrawn")) == {5: 2}
        assert after(Annotation(5, None, "ann", role="withdrawn")) == {}
        assert after(Annotation(5, None, "ann", role="withdrawn"), Annotation(6, None, "eve", role="withdrawn")) == {}
        assert after(Annotation(5, None, "ann")) == {5: None}
        assert after(Annotation(5, 0, "bob")) == {5: 0}
        assert [a.annotator for a in journal.history()] == ["ann", "ann", "bob", "bob", "bob", "ann", "ann", "bob"]


def test_a_correction_takes_the_place_of_the_last_one_by_anybody(path: Path) -> None:
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5,), (None,)))
        for label, who in ((0, "ann"), (1, "bob"), (1, "eve"), (0, "ann")):
            journal.write_annotations([Annotation(5, label, who, role="correction")])
        journal.write_annotations([Annotation(5, 2, "ann", 3.0), Annotation(5, 2, "ann", 3.0)])
        assert [(a.annotator, a.label) for a in journal.history()] == [("ann", 0), ("bob", 1), ("ann", 0), ("ann", 2)]
        assert journal.annotations(0, 0)[5].label == 0 and journal.paid() == 3.0


def test_a_journal_that_is_closed_in_another_thread_is_free(path: Path) -> None:
    journal = Journal(path)
    thread = threading.Thread(target=journal.close)
    thread.start()
    thread.join()
    Journal(path).close()


@pytest.mark.parametrize("annotator", [None, "", 7, "half a \ud800"], ids=["none", "empty", "number", "half"])
def test_an_annotator_without_a_name_is_refused(annotator: Any) -> None:
    with pytest.raises(UserError, match="An annotation's annotator is a name"):
        Annotation(5, 1, annotator)


def test_a_database_of_something_else_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE experiments (name)")
        db.commit()
    with pytest.raises(UserError, match="is no journal, but a database of something else"):
        Journal(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("experiments",)]


def test_what_is_said_after_a_request_was_taken_counts_with_the_next(path: Path) -> None:
    """However often it is asked what the run went by."""
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5, 6), (None, None)))
        journal.write_annotations([Annotation(5, 1, cost=1.0)])
        assert not journal.take(0, 0)
        journal.write_annotations([Annotation(6, 1, cost=1.0), Annotation(6, 0, cost=0.5)])
        assert journal.take(0, 0)
        journal.write_annotations([Annotation(5, 2, "bob", cost=4.0), Annotation(6, None, role="withdrawn")])
        journal.write_request(1, 0, Asked((7,), (None,)))
        journal.write_annotations([Annotation(7, 2, cost=1.0)])
        assert journal.cost(1) == 2.5 and journal.paid() == 7.5
        assert journal.take(1, 0)
    with Journal(path) as journal:
        assert journal.take(0, 0) and journal.take(1, 0)
        assert {id: a.label for id, a in journal.news(0, 0).items()} == {5: 1, 6: 0}
        assert {id: a.label for id, a in journal.news(1, 0).items()} == {5: 2, 6: None, 7: 2}  # 6 has no other answer
        assert (journal.cost(0), journal.cost(1)) == (2.5, 7.5)


def test_threads_share_a_journal_and_lose_nothing(path: Path) -> None:
    ids = tuple(range(64))
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked(ids, (None,) * 64))
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda id: journal.write_annotations([Annotation(id, id % 3, f"a{id % 8}")]), ids))
        assert {id: a.label for id, a in journal.annotations(0, 0).items()} == {id: id % 3 for id in ids}


def test_another_process_adds_annotations_to_a_journal_that_is_held(path: Path) -> None:
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5,), (None,)))
        code = (
            "import pathlib; from activebdl import Annotation; from activebdl.journal import Journal\n"
            f"with Journal(pathlib.Path({str(path)!r}), beside=True) as other:\n"
            "    other.write_annotations([Annotation(5, 1, 'ann')])"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        assert journal.annotations(0, 0) == {5: Annotation(5, 1, "ann")}


def test_a_full_disk_is_told_and_what_was_there_stays(path: Path) -> None:
    ids = tuple(range(2000))
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked(ids, (None,) * 2000))
        journal.write_annotations([Annotation(0, 1)])
        pages = journal._rows("PRAGMA page_count")[0][0]
        journal._rows(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(UserError, match="cannot be written: database or disk is full. What it holds is safe"):
            journal.write_annotations([Annotation(id, 2, "ann") for id in ids])
        assert journal.history() == [Annotation(0, 1)]
        journal._rows(f"PRAGMA max_page_count = {2 * pages + 1000}")
        journal.write_annotations([Annotation(1, 2)])
    with Journal(path) as journal:
        assert journal.history() == [Annotation(0, 1), Annotation(1, 2)]


def test_a_journal_that_can_only_be_read_is_told_when_it_is_written(path: Path) -> None:
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5,), (None,)))
        journal._rows("PRAGMA query_only = ON")
        with pytest.raises(UserError, match="cannot be written: attempt to write a readonly database. What it"):
            journal.write_annotations([Annotation(5, 1)])
        assert journal.request(0, 0) == Asked((5,), (None,))


def test_a_damaged_journal_is_told_and_left_as_it_is(path: Path) -> None:
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked(tuple(range(3000)), (None,) * 3000))
    with path.open("r+b") as file:
        file.seek(5 * 4096 + 100)
        file.write(bytes(range(256)) * 40)
    before = path.read_bytes()
    with pytest.raises(UserError, match="cannot be used: .*(damaged|malformed).* left as it is"):
        Journal(path)
    assert path.read_bytes() == before


def test_an_item_cannot_be_asked_for_twice(path: Path) -> None:
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5, 6), (None, None)))
        with pytest.raises(sqlite3.IntegrityError):
            journal.write_request(1, 0, Asked((7, 5), (None, None)))
        assert journal.request(1, 0) is None  # all or nothing
        journal.write_request(1, 0, Asked((7,), (None,)))


def test_an_answer_to_what_was_never_asked_is_refused(path: Path) -> None:
    with Journal(path) as journal, pytest.raises(sqlite3.IntegrityError):
        journal.write_annotations([Annotation(5, 1)])


def test_a_process_that_dies_leaves_what_it_had_acknowledged(path: Path) -> None:
    code = (
        "import os, pathlib; from activebdl import Annotation; from activebdl.journal import *\n"
        f"j = Journal(pathlib.Path({str(path)!r}))\n"
        "j.write_request(0, 0, Asked((1, 2), (None, None))); j.write_annotations([Annotation(2, 0)])\n"
        "j._db.execute('BEGIN'); j._db.execute('DELETE FROM annotations'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with Journal(path) as journal:
        assert journal.annotations(0, 0) == {2: Annotation(2, 0)}


def test_a_second_writer_is_refused_and_a_reader_is_not(path: Path) -> None:
    with Journal(path) as journal:
        journal.note("spec", 1)
        journal.write_round(0, 20, {})
        since = datetime.now().strftime("%d %B")
        with pytest.raises(
            UserError, match=f"working on this run: process {os.getpid()} on .*, since .* {since}, holds"
        ):
            Journal(path)
        assert read_about(path) == {"spec": 1}
        assert [record.n_labels for record in read_rounds(path)] == [20]
    Journal(path).close()


def test_files_that_are_no_journals_of_this_version(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("not a database, but long enough to be read as one" * 30)
    with pytest.raises(UserError, match="cannot be used: file is not a database"):
        Journal(path)
    with pytest.raises(UserError, match="is not a journal"):
        read_about(path)
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    for read in (Journal, read_about, read_history, read_rounds):
        with pytest.raises(UserError, match=r"newer activebdl \(schema 99"):
            read(path)


def test_a_file_whose_maker_was_killed_at_once_is_empty(path: Path) -> None:
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.close()
    assert read_about(path) == {}
    assert read_rounds(path) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.sqlite")


def _count(path: Path, table: str) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        db.close()


def test_nothing_is_added_to_a_copy_that_the_next_copy_replaces(tmp_path: Path) -> None:
    path = tmp_path / "run" / "journal.sqlite"
    with Journal(path):
        pass
    with elsewhere(path):
        with pytest.raises(UserError, match="The run 'run' works on another machine, where nothing that is added"):
            Journal(path, beside=True)
        with pytest.raises(UserError, match="Another process is working on this run"):
            Journal(path)
    with Journal(path, beside=True), Journal(path):
        pass
    path.with_name("journal.sqlite.elsewhere").touch()  # left by one that was killed, whose lock is free
    with Journal(path, beside=True):
        pass


@pytest.mark.parametrize("name", ["", "folder"])
def test_a_journal_is_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"A journal is a file, such as run\.sqlite, and '.*' is a folder"):
        Journal(Path(name))
    assert not list((tmp_path / "folder").iterdir())
