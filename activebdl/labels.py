"""A run's labels, as people read and write them: tables of all that was said, answers from files, corrections.

No torch is needed but for what a label may be.
"""

import contextlib
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from activebdl.annotations import Annotation, Label, standing
from activebdl.errors import UserError
from activebdl.journal import Journal
from activebdl.journal_reading import Line, is_older, read_about, read_history
from activebdl.targets import Classes, Numbers, Target

ABSTAIN_WORD = "abstain"
_FIELDS = (
    "id", "label", "class", "annotator", "role", "revision", "counts", "asked_in_round", "used_from_round", "cost",
    "seconds", "written",
)  # fmt: skip


def target_of(path: Path) -> Target:
    """What a label is in the run of a journal.

    Raises:
        UserError: The run has asked for nothing yet.
    """
    identity = read_about(path).get("identity")
    if identity is None:
        raise UserError(f"The run of '{path}' has asked for no label yet.")
    return Classes(tuple(identity["classes"])) if identity["classes"] else Numbers()


def parse_label(given: object, target: Target) -> Label:
    """A label as people write it: the name of a class or its number from 0, a number, or "abstain".

    A class's name goes before its number: where classes are called 3 and 8, "3" and 3 are the first.

    Raises:
        UserError: It is none of these.
    """
    word = str(given).strip()
    if word in target.names:
        return target.names.index(word)
    if word.lower() == ABSTAIN_WORD:
        return None
    try:
        return target.label(int(word) if target.names else float(word))
    except (UserError, ValueError):
        known = f"one of {', '.join(target.names)}" if target.names else "a finite number"
        raise UserError(f"'{word}' is no label; it is {known}, or {ABSTAIN_WORD}.") from None


def to_csv(lines: Sequence[Line], target: Target) -> str:
    """All that was said, oldest first, one line each; "counts" marks what the run goes by, or will."""
    counting = {id(said) for said in standing(line.annotation for line in lines).values()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    for line in lines:
        said = line.annotation
        name = target.names[int(said.label)] if target.names and said.label is not None else ""
        at = datetime.fromtimestamp(line.written_ms / 1000, UTC).isoformat(timespec="milliseconds")
        label = ABSTAIN_WORD if said.label is None and said.role != "withdrawn" else said.label
        writer.writerow([
            said.id, label, name, said.annotator, said.role, line.revision, "yes" if id(said) in counting else "",
            line.asked_in, line.taken_in, said.cost, said.seconds, at,
        ])  # fmt: skip
    return text.getvalue()


def summary(lines: Sequence[Line], target: Target, missing: Sequence[int] = ()) -> str:
    """How many labels there are, of which classes, from whom, and which answers the run waits for."""
    counting = standing(line.annotation for line in lines).values()
    labels = [said.label for said in counting if said.label is not None]
    told = [f"{len(labels):,} labels, {len(counting) - len(labels):,} abstentions, {len(lines):,} lines of history"]
    if target.names:
        counts = Counter(int(label) for label in labels)
        told.append("by class: " + ", ".join(f"{name}: {counts[c]:,}" for c, name in enumerate(target.names)))
    for annotator, number in Counter(line.annotation.annotator for line in lines).most_common():
        theirs = [line.annotation for line in lines if line.annotation.annotator == annotator]
        cost, seconds = sum(said.cost for said in theirs), sum(said.seconds for said in theirs) / number
        told.append(f"{annotator}: {number:,} lines, cost {cost:g}, {seconds:.2g} s each")
    if missing:
        told.append(f"waits for {waits_for(missing)}")
    return "\n".join(told)


def waits_for(missing: Sequence[int]) -> str:
    """Of which items answers are missing, in words."""
    items = "item" if len(missing) == 1 else f"{len(missing):,} items:"
    return f"{items} {', '.join(str(id) for id in missing[:20])}{', ...' if len(missing) > 20 else ''}"


@dataclass
class Answers:
    """What a file of answers holds.

    Args:
        annotations: Those that can be taken.
        mistakes: What is wrong with each line that cannot.
    """

    annotations: list[Annotation] = field(default_factory=list[Annotation])
    mistakes: list[str] = field(default_factory=list[str])


def read_answers(
    file: Path,
    target: Target,
    asked: frozenset[int],
    cost: float = 0.0,
    paid: Collection[int] = (),
    most: float = math.inf,
) -> Answers:
    """Reads answers: lines of JSON, or CSV with a header, with an id and a label, in any order.

    Lines without a label are not answered yet. "annotator", "cost" and "seconds" may be given.

    Args:
        file: Its name ends in .jsonl or .csv.
        target: What a label is.
        asked: Ids that the run has asked for.
        cost: Of the first answer to an item, where the file does not say.
        paid: Ids whose first answer was paid for before.
        most: What the answers to an item may cost together, where a budget in cost counts on that.

    Raises:
        UserError: The file cannot be read, or is neither.
    """
    answers, free, spent = Answers(), set(paid), dict[int, float]()
    for number, row in _rows(file):
        try:
            if isinstance(row, UserError):
                raise row
            if row.get("label") in (None, ""):
                continue
            said = _annotation(row, target, asked, cost, free)
            together = spent[said.id] = spent.get(said.id, 0.0) + said.cost
            if together > most * (1 + 1e-9):
                raise UserError(
                    f"the answers to item {said.id} cost {together:g}, where the budget in cost counts on {most:g}; "
                    "leave the cost out, or begin a run with another oracle.cost."
                )
            answers.annotations.append(said)
            free |= {said.id} if said.cost > 0 else set()
        except UserError as error:
            answers.mistakes.append(f"line {number}: {error}")
    return answers


def _annotation(
    row: Mapping[str, Any], target: Target, asked: frozenset[int], cost: float, free: Collection[int]
) -> Annotation:
    try:
        id = int(str(row.get("id")))
    except ValueError:
        raise UserError(f"'id' is an item's number, not {row.get('id')!r}.") from None
    if id not in asked:
        raise UserError(f"item {id} was not asked for.")
    numbers = {"cost": 0.0 if id in free else cost, "seconds": 0.0}
    for key in numbers:
        if row.get(key) not in (None, ""):
            try:
                numbers[key] = float(row[key])
            except (TypeError, ValueError):
                raise UserError(f"'{key}' of item {id} is a number, not {row[key]!r}.") from None
            if numbers[key] < 0:
                raise UserError(f"'{key}' of item {id} is not below 0.")
    annotator = str(row.get("annotator") or "file")
    return Annotation(id, parse_label(row["label"], target), annotator, numbers["cost"], numbers["seconds"])


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any] | UserError]]:
    """Each line's number and content, or what is wrong with it."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"'{file}' cannot be read: {reason}.") from error
    if file.suffix == ".csv":
        csv.field_size_limit(2**30)  # an item of many numbers is one field
        reader = csv.DictReader(io.StringIO(text))
        try:
            if not {"id", "label"} <= set(reader.fieldnames or ()):
                raise UserError(f"'{file}' needs a first line that names the columns, 'id' and 'label' among them.")
            yield from ((reader.line_num, row) for row in reader)
        except csv.Error as error:
            raise UserError(f"'{file}', line {reader.line_num}: this is not CSV: {error}.") from None
    elif file.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield number, _json(line)
    else:
        raise UserError(f"'{file}' must end in .jsonl, with a line of JSON for each item, or in .csv.")


def _json(line: str) -> Mapping[str, Any] | UserError:
    try:
        row: object = json.loads(line)
    except json.JSONDecodeError as error:
        return UserError(f"this is not JSON: {error.msg}.")
    return cast(dict[str, Any], row) if isinstance(row, dict) else UserError("this is no JSON object {...}.")


def fix(path: Path, assignments: Sequence[str], annotator: str = "correction") -> list[str]:
    """Corrects labels, also of a run that another process is working on; a line about each for people.

    Args:
        path: The journal.
        assignments: Each ``ID=LABEL``.
        annotator: Who says so.

    Raises:
        UserError: An item that has no label, or a label that cannot be. Then nothing is changed.
    """
    target = target_of(path)
    bring_up_to_date(path)
    taken = standing(line.annotation for line in read_history(path)[0] if line.taken_in is not None)
    set_aside = {id for id, said in taken.items() if said.label is None}
    with Journal(path, beside=True) as journal:
        known = standing(journal.history())
        corrections = [_correction(assignment, target, known, set_aside, annotator) for assignment in assignments]
        journal.write_annotations(corrections)

    def word(label: Label) -> str:
        return ABSTAIN_WORD if label is None else target.names[int(label)] if target.names else f"{label:g}"

    return [f"item {said.id}: {word(known[said.id].label)} is now {word(said.label)}" for said in corrections]


def _correction(
    assignment: str, target: Target, known: Mapping[int, Annotation], set_aside: Collection[int], annotator: str
) -> Annotation:
    id, equals, label = assignment.partition("=")
    if not equals or not id.strip().isdecimal():
        raise UserError(f"--fix takes ID=LABEL, such as 17={(*target.names, '0.5')[0]}, not '{assignment}'.")
    before = known.get(int(id))
    if before is None:
        raise UserError(f"Item {int(id)} has no label that could be corrected.")
    if before.id in set_aside:
        raise UserError(f"Item {int(id)} was set aside and another asked for in its place; it takes no label any more.")
    return Annotation(int(id), parse_label(label, target), annotator, role="correction")


def bring_up_to_date(path: Path) -> None:
    """Makes today's tables of a journal of an earlier version.

    Raises:
        UserError: Another process has it.
    """
    if is_older(path):
        Journal(path).close()


def all_lines(path: Path) -> tuple[list[Line], list[int], str | None]:
    """The whole history of a journal, of an earlier version too.

    Returns:
        The lines, the ids whose answers the run waits for, and what is wrong with a file that is damaged: then they
        are those lines that can still be read.
    """
    missing: list[int] = []
    bring_up_to_date(path)
    with contextlib.suppress(UserError), Journal(path, beside=True) as journal:  # or it can only be read
        missing = journal.waits_for()
    lines, trouble = read_history(path)
    return lines, missing, trouble
