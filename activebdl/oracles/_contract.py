"""What the loop and an oracle say to each other. Q: items of a request, C: classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from torch import Tensor

from activebdl.errors import UserError

ABSTAIN: Final = -1
"""The label that says: I will not label this item. It is set aside, and another is asked for in its place."""


@dataclass(frozen=True)
class Request:
    """What the oracle is asked.

    Args:
        key: Names the request within its run; a request that is submitted again after a stop has the same key.
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


class Oracle(Protocol):
    """Whoever gives labels."""

    def submit(self, request: Request) -> str:
        """Takes a request and returns a ticket at once. The same request again is the same ticket."""
        ...

    def poll(self, ticket: str) -> Sequence[Annotation]:
        """The answers there are by now; some may have been given out before. Does not wait long."""
        ...


def check_annotations(request: Request, annotations: Sequence[Annotation]) -> None:
    """Refuses answers that nobody asked for, and labels that do not exist.

    Raises:
        UserError: With the item and what is wrong about it.
    """
    asked = set(request.ids)
    for annotation in annotations:
        if annotation.id not in asked:
            raise UserError(f"The oracle answered for item {annotation.id}, which it was not asked for.")
        if annotation.label != ABSTAIN and not 0 <= annotation.label < len(request.classes):
            raise UserError(
                f"The oracle gave item {annotation.id} the label {annotation.label}; labels run from 0 to "
                f"{len(request.classes) - 1}, and {ABSTAIN} abstains."
            )
