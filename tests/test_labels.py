"""Labels as people read and write them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activebdl import Annotation, UserError
from activebdl.annotations import Label
from activebdl.journal import Asked, Journal
from activebdl.labels import all_lines, fix, parse_label, read_answers, summary, target_of, to_csv
from activebdl.targets import Classes, Numbers, Target

PETS = Classes(("cat", "dog", "3"))


@pytest.mark.parametrize(
    ("given", "label"),
    [("cat", 0), (" dog ", 1), ("1", 1), (1, 1), ("3", 2), (3, 2), ("abstain", None), ("Abstain", None), (-1, None)],
)
def test_a_class_is_known_by_name_and_then_by_number(given: object, label: Label) -> None:
    assert parse_label(given, PETS) == label


@pytest.mark.parametrize("given", ["Cat", "7", "1.0", "", True, 2.5, [1], "-2"])
def test_a_word_that_is_no_class_is_refused(given: object) -> None:
    with pytest.raises(UserError, match="is no label; it is one of cat, dog, 3, or abstain"):
        parse_label(given, PETS)


def test_a_class_called_abstain_is_a_class() -> None:
    assert parse_label("abstain", Classes(("vote", "abstain"))) == 1


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_back_to_the_last_bit(number: float) -> None:
    assert parse_label(repr(number), Numbers()) == number


@pytest.mark.parametrize("given", ["inf", "cat", ""])
def test_a_word_that_is_no_number_is_refused(given: str) -> None:
    with pytest.raises(UserError, match="is no label; it is a finite number, or abstain"):
        parse_label(given, Numbers())


def journal_of(path: Path, target: Target = PETS) -> Path:
    """Items 5, 6, 7 are asked for, and 5 and 6 are answered and taken; 7 is not."""
    file = path / "journal.sqlite"
    with Journal(file) as journal:
        journal.note("identity", {"classes": list(target.names)})
        journal.write_request(0, 0, Asked((5, 6), (0.5, None)))
        journal.write_annotations([Annotation(5, 1, "ann", 2.0, 1.5), Annotation(6, None, "bob", 1.0)])
        assert journal.take(0, 0)
        journal.write_request(1, 0, Asked((7,), (None,)))
    return file


def rows(path: Path) -> list[dict[str, str]]:
    lines, _, trouble = all_lines(path)
    assert trouble is None
    return list(csv.DictReader(io.StringIO(to_csv(lines, target_of(path)))))


def test_everything_that_was_said_is_exported_and_what_counts_is_marked(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    with Journal(path) as journal:
        journal.write_annotations([
            Annotation(7, 0, "eve", role="vote"), Annotation(7, 2, "ann"), Annotation(7, None, "ann", role="withdrawn"),
            Annotation(7, 0, "ann"),
        ])  # fmt: skip
        assert fix(path, ["5=3"], "eve") == ["item 5: dog is now 3"]  # while the journal is held
    found = rows(path)
    columns = ("id", "label", "class", "annotator", "role", "revision", "counts", "asked_in_round", "used_from_round")
    assert [tuple(row[column] for column in columns) for row in found] == [
        ("5", "1", "dog", "ann", "answer", "0", "", "0", "0"),
        ("6", "abstain", "", "bob", "answer", "0", "yes", "0", "0"),
        ("7", "0", "cat", "eve", "vote", "0", "", "1", ""),
        ("7", "2", "3", "ann", "answer", "0", "", "1", ""),
        ("7", "", "", "ann", "withdrawn", "1", "", "1", ""),
        ("7", "0", "cat", "ann", "answer", "2", "yes", "1", ""),
        ("5", "2", "3", "eve", "correction", "0", "yes", "0", ""),
    ]
    assert [float(row["cost"]) for row in found[:2]] == [2.0, 1.0] and float(found[0]["seconds"]) == 1.5
    told = summary(all_lines(path)[0], PETS)
    assert "waits" not in told
    assert "2 labels, 1 abstentions, 7 lines of history" in told
    assert "by class: cat: 1, dog: 0, 3: 1" in told and "ann: 4 lines, cost 2," in told


def test_which_answers_a_run_waits_for(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    lines, missing, _ = all_lines(path)
    assert missing == [7] and summary(lines, PETS, missing).endswith("waits for item 7")
    assert summary(lines, PETS, range(25)).endswith("waits for 25 items: " + ", ".join(map(str, range(20))) + ", ...")


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("5", "--fix takes ID=LABEL, such as 17=cat, not '5'"),
        ("x=cat", "--fix takes ID=LABEL"),
        ("5=horse", "'horse' is no label"),
        ("8=cat", "Item 8 has no label that could be corrected"),
        ("7=cat", "Item 7 has no label that could be corrected"),
        ("6=cat", "Item 6 was set aside and another asked for in its place"),
    ],
)
def test_a_correction_that_cannot_be_changes_nothing(tmp_path: Path, assignment: str, told: str) -> None:
    path = journal_of(tmp_path)
    before = rows(path)
    with pytest.raises(UserError, match=told):
        fix(path, ["5=cat", assignment])
    assert rows(path) == before


def test_a_run_that_asked_for_nothing_has_no_labels(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.sqlite").close()
    with pytest.raises(UserError, match="has asked for no label yet"):
        target_of(tmp_path / "journal.sqlite")


def test_what_can_still_be_read_of_a_damaged_journal_is_exported(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    ids = tuple(range(4000))
    with Journal(path) as journal:
        journal.note("identity", {"classes": list(PETS.names)})
        journal.write_request(0, 0, Asked(ids, (None,) * 4000))
        journal.write_annotations([Annotation(id, id % 3, "ann") for id in ids])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size * 2 // 3)
        file.write(b"\xff" * 8192)
    lines, _, trouble = all_lines(path)
    assert trouble is not None and 100 < len(lines) < 4000
    assert [line.annotation for line in lines] == [Annotation(id, id % 3, "ann") for id in ids[: len(lines)]]


ASKED = frozenset({5, 6, 7})


def answers(tmp_path: Path, name: str, text: str, target: Target = PETS) -> Any:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_answers(tmp_path / name, target, ASKED, cost=0.25)


def test_answers_are_read_from_lines_of_json(tmp_path: Path) -> None:
    lines = [
        {"id": 7, "label": "dog", "annotator": "eve", "cost": 2, "seconds": 3.5, "image": "x.png"},
        {"id": "5", "label": 0},
        {"id": 6, "label": None},
        {"id": 6},
    ]
    found = answers(tmp_path, "a.jsonl", "\n".join(json.dumps(line) for line in lines) + "\n\n")
    assert found.annotations == [Annotation(7, 1, "eve", 2.0, 3.5), Annotation(5, 0, "file", 0.25)]
    assert found.mistakes == []


def test_an_item_is_paid_for_once(tmp_path: Path) -> None:
    text = "id,label,cost\n5,cat,\n5,dog,\n6,cat,2\n6,dog,\n7,cat,\n"
    (tmp_path / "a.csv").write_text(text)
    found = read_answers(tmp_path / "a.csv", PETS, ASKED, cost=0.25, paid=[7])
    assert [said.cost for said in found.annotations] == [0.25, 0.0, 2.0, 0.0, 0.0]


def test_answers_that_cost_more_than_a_budget_counts_on_are_not_taken(tmp_path: Path) -> None:
    text = "id,label,annotator,cost\n5,cat,ann,50\n6,cat,ann,1\n6,dog,bob,1\n7,cat,ann,\n"
    (tmp_path / "a.csv").write_text(text)
    found = read_answers(tmp_path / "a.csv", PETS, ASKED, cost=1.0, most=1.0)
    assert [(said.id, said.cost) for said in found.annotations] == [(6, 1.0), (7, 1.0)]
    assert [mistake.partition(";")[0] for mistake in found.mistakes] == [
        "line 2: the answers to item 5 cost 50, where the budget in cost counts on 1",
        "line 4: the answers to item 6 cost 2, where the budget in cost counts on 1",
    ]


def test_an_abstention_can_be_corrected_until_it_is_taken(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    assert fix(path, ["5=abstain"]) == ["item 5: dog is now abstain"]
    assert fix(path, ["5=cat"]) == ["item 5: abstain is now cat"]


def test_answers_are_read_from_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    found = answers(tmp_path, "a.csv", "\ufefflabel,id,note\r\ndog,7,\r\n,6,later\r\nabstain,5,?\r\n")
    assert found.annotations == [Annotation(7, 1, "file", 0.25), Annotation(5, None, "file", 0.25)]


def test_each_line_that_cannot_be_taken_is_told_and_the_others_are_taken(tmp_path: Path) -> None:
    text = (
        '{"id": 5, "label": "cat"}\nnot json\n[5]\n{"id": 9, "label": "cat"}\n{"id": "x", "label": 1}\n'
        '{"id": 6, "label": "horse"}\n{"id": 6, "label": 1, "cost": "much"}\n{"id": 6, "label": 1, "seconds": -1}\n'
    )
    found = answers(tmp_path, "a.jsonl", text)
    assert found.annotations == [Annotation(5, 0, "file", 0.25)]
    told = [
        "line 2: this is not JSON", "line 3: this is no JSON object", "line 4: item 9 was not asked for",
        "line 5: 'id' is an item's number, not 'x'", "line 6: 'horse' is no label; it is one of cat, dog, 3",
        "line 7: 'cost' of item 6 is a number, not 'much'", "line 8: 'seconds' of item 6 is not below 0",
    ]  # fmt: skip
    assert len(found.mistakes) == len(told)
    assert all(mistake.startswith(start) for mistake, start in zip(found.mistakes, told, strict=True))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"", "must end in .jsonl, with a line of JSON for each item, or in .csv"),
        ("a.csv", b"item,label\n5,cat\n", "needs a first line that names the columns, 'id' and 'label'"),
        ("a.csv", b"", "needs a first line"),
        ("a.jsonl", b"\xff\xfe\x00", "cannot be read: it is not text"),
    ],
)
def test_files_that_are_no_answers(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_answers(tmp_path / name, PETS, ASKED)
    with pytest.raises(UserError, match=r"cannot be read: No such file"):
        read_answers(tmp_path / "none.csv", PETS, ASKED)
