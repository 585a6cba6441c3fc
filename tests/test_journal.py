import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from activebdl import ABSTAIN, Annotation, UserError
from activebdl.journal import Asked, Journal, read_about, read_rounds


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


def test_a_journal_of_the_second_version_is_read(path: Path) -> None:
    """There nobody had counted samples."""
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5, 9), (0.5, None), 2.0, 700))
        journal.write_request(0, 1, Asked((7,), (0.1,), 1.0, 80))
        assert journal.samples(0) == 780
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE requests DROP COLUMN samples")
        db.execute("PRAGMA user_version = 2")
    for _ in range(2):
        with Journal(path) as journal:
            assert journal.request(0, 0) == Asked((5, 9), (0.5, None), 2.0, None)
            assert journal.samples(0) is None and journal.samples(1) is None


def test_a_journal_of_the_first_version_is_read(path: Path) -> None:
    """There the label was an integer that could not be missing, and -1 abstained."""
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5, 9), (0.5, None)))
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE annotations")
        db.execute(
            "CREATE TABLE annotations (id INTEGER NOT NULL REFERENCES asked, annotator TEXT NOT NULL, revision INTEGER "
            "NOT NULL, label INTEGER NOT NULL, cost REAL NOT NULL, seconds REAL NOT NULL, written_ms INTEGER NOT NULL, "
            "PRIMARY KEY (id, annotator, revision)) WITHOUT ROWID"
        )
        db.executemany("INSERT INTO annotations VALUES (?, ?, 0, ?, 2.5, 3.0, 7)", [(5, "ann", 1), (9, "ann", -1)])
        db.execute("ALTER TABLE requests DROP COLUMN samples")
        db.execute("PRAGMA user_version = 1")
    for _ in range(2):
        with Journal(path) as journal:
            expected = {5: Annotation(5, 1, "ann", 2.5, 3.0), 9: Annotation(9, None, "ann", 2.5, 3.0)}
            assert journal.annotations(0, 0) == expected
            assert journal.request(0, 0) == Asked((5, 9), (0.5, None))


def test_the_same_annotation_again_changes_nothing(path: Path) -> None:
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5,), (None,)))
        for _ in range(3):
            journal.write_annotations([Annotation(5, 1)])
        assert _count(path, "annotations") == 1


def test_another_answer_is_kept_but_the_run_goes_by_the_first(path: Path) -> None:
    with Journal(path) as journal:
        journal.write_request(0, 0, Asked((5,), (None,)))
        journal.write_annotations([Annotation(5, 1, "ann")])
        journal.write_annotations([Annotation(5, 2, "ann")])
        journal.write_annotations([Annotation(5, 0, "bob")])
        assert journal.annotations(0, 0)[5].label == 1
        assert _count(path, "annotations") == 3


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
        with pytest.raises(UserError, match="Another process is working on this run"):
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
    with pytest.raises(UserError, match=r"newer activebdl \(schema 99"):
        Journal(path)


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
