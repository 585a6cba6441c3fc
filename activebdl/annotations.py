"""What somebody said of an item: the one thing that a run must never lose. It takes no torch to read it again."""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from activebdl.errors import UserError

Label = int | float | None
"""What is said of one item; None by one who abstains."""

ABSTAIN: Final = None
"""The label that says: I will not label this item. It is set aside, and another is asked for in its place."""


Role = Literal["answer", "vote", "withdrawn", "correction"]
"""What an annotation is to the run: see `Annotation`."""


@dataclass(frozen=True)
class Annotation:
    """One thing that somebody said of one item.

    Args:
        id: The item's.
        label: From 0 to C - 1, or a number; or `ABSTAIN`.
        annotator: Who said it.
        cost: What it cost, in the user's own unit.
        seconds: How long it took.
        role: "answer", which the run goes by, the last one where there are several; "vote", one voice among several,
            which is kept and paid for, while the run goes by the answer that the oracle gives beside it; "withdrawn",
            when the annotator takes the last answer back: the item waits for another, or, where the run has taken it
            already and none comes, is set aside; then the label is None.
            "correction", which stands above all answers, those too that come after it.
    """

    id: int
    label: Label
    annotator: str = "oracle"
    cost: float = 0.0
    seconds: float = 0.0
    role: Role = "answer"

    def __post_init__(self) -> None:
        """Makes plain integers and floats of what comes, for a numpy integer would be stored as bytes."""
        if self.role not in get_args(Role):
            raise UserError(f"An annotation's role is one of {', '.join(get_args(Role))}, not {self.role!r}.")
        if not isinstance(self.annotator, str) or not self.annotator or not _is_text(self.annotator):
            raise UserError(f"An annotation's annotator is a name, not {self.annotator!r}.")
        try:
            object.__setattr__(self, "id", operator.index(self.id))
        except TypeError:
            raise UserError(f"An annotation's id is an integer, not {self.id!r}.") from None
        object.__setattr__(self, "label", _plain(self.label))
        for name in ("cost", "seconds"):
            value = as_float(getattr(self, name))
            if value is None or not math.isfinite(value):
                raise UserError(f"An annotation's {name} is a finite number, not {getattr(self, name)!r}.")
            object.__setattr__(self, name, value)


def standing(history: Iterable[Annotation]) -> dict[int, Annotation]:
    """What counts of a history, oldest first: each item's last correction, or else the last answer not withdrawn."""
    answers: dict[int, dict[str, Annotation]] = {}
    corrections: dict[int, Annotation] = {}
    for said in history:
        if said.role == "correction":
            corrections[said.id] = said
        elif said.role != "vote":
            by_annotator = answers.setdefault(said.id, {})
            by_annotator.pop(said.annotator, None)  # so that what is said anew comes last
            if said.role == "answer":
                by_annotator[said.annotator] = said
    return {id: list(each.values())[-1] for id, each in answers.items() if each} | corrections


def _is_text(name: str) -> bool:
    """Whether it can be written down; half a character cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_float(value: object) -> float | None:
    """A plain float; None for what cannot be one."""
    try:
        return None if isinstance(value, str | complex) else float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def _plain(label: object) -> Label:
    """A plain integer, or a plain float, or None."""
    if label is None:
        return None
    try:
        return operator.index(label)  # pyright: ignore[reportArgumentType]
    except TypeError:
        pass
    number = as_float(label)
    if number is None:
        raise UserError(f"An annotation's label is an integer, a number or None, not {label!r}.")
    return number
