"""What the loop and an oracle say to each other. Q: items of a request, C: classes."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

from torch import Tensor

from activebdl.errors import UserError

ABSTAIN: Final = -1
"""The label that says: I will not label this item. It is set aside, and another is asked for in its place."""


@dataclass(frozen=True)
class Request:
    """What the oracle is asked.

    Args:
        key: Names the request within its run. After a stop it is submitted again under the same key, with those ids
            that have no answer yet.
        ids: Q ids, in the order of choice.
        items: ``[Q, ...]`` the inputs as the data set stores them.
        classes: C names; label c means ``classes[c]``.
    """

    key: str
    ids: tuple[int, ...]
    items: Tensor = field(repr=False)
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Annotation:
    """One answer to one item.

    Args:
        id: The item's.
        label: From 0 to C - 1, or `ABSTAIN`.
        annotator: Who answered.
        cost: What the answer cost, in the user's own unit.
        seconds: How long it took.
    """

    id: int
    label: int
    annotator: str = "oracle"
    cost: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Makes plain integers and floats of what comes, for a numpy integer would be stored as bytes."""
        for name in ("id", "label"):
            try:
                object.__setattr__(self, name, operator.index(getattr(self, name)))
            except TypeError:
                raise UserError(f"An annotation's {name} is an integer, not {getattr(self, name)!r}.") from None
        for name in ("cost", "seconds"):
            object.__setattr__(self, name, float(getattr(self, name)))


class Oracle(Protocol):
    """Whoever gives labels."""

    def submit(self, request: Request) -> str:
        """Takes a request and returns a ticket at once. The same request again is the same ticket."""
        ...

    def poll(self, ticket: str) -> Sequence[Annotation]:
        """The answers there are by now; some may have been given out before. Does not wait long."""
        ...


def sort_annotations(found: object, asked: Sequence[int], classes: int) -> tuple[list[Annotation], str]:
    """The answers that can be taken, and what is wrong with the first that cannot; empty when all is well.

    Args:
        found: What an oracle's ``poll`` gave.
        asked: Ids that were asked for.
        classes: C.
    """
    if not isinstance(found, Sequence):
        return [], f"The oracle's poll must give a list of annotations, not {type(found).__name__}."
    good: list[Annotation] = []
    mistakes: list[str] = []
    for annotation in cast(Sequence[object], found):
        if not isinstance(annotation, Annotation):
            mistakes.append(f"The oracle's poll must give annotations, not {type(annotation).__name__}.")
        elif annotation.id not in asked:
            mistakes.append(f"The oracle answered for item {annotation.id}, which it was not asked for.")
        elif annotation.label != ABSTAIN and not 0 <= annotation.label < classes:
            mistakes.append(
                f"The oracle gave item {annotation.id} the label {annotation.label}; labels run from 0 to "
                f"{classes - 1}, and {ABSTAIN} abstains."
            )
        else:
            good.append(annotation)
    return good, mistakes[0] if mistakes else ""
