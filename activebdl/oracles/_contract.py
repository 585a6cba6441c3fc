"""What the loop and an oracle say to each other. Q: items of a request."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

from torch import Tensor

from activebdl.annotations import Annotation
from activebdl.errors import UserError
from activebdl.targets import Target


@dataclass(frozen=True)
class Request:
    """What the oracle is asked.

    Args:
        key: Names the request within its run. After a stop it is submitted again under the same key, with those ids
            that have no answer yet.
        ids: Q ids, in the order of choice.
        items: ``[Q, ...]`` the inputs as the data set stores them.
        target: What a label is: `Classes` or `Numbers`.
    """

    key: str
    ids: tuple[int, ...]
    items: Tensor = field(repr=False)
    target: Target

    @property
    def classes(self) -> tuple[str, ...]:
        """Names; label c means ``classes[c]``. Empty where labels are numbers."""
        return self.target.names


class Oracle(Protocol):
    """Whoever gives labels."""

    def submit(self, request: Request) -> str:
        """Takes a request and returns a ticket at once. The same request again is the same ticket."""
        ...

    def poll(self, ticket: str) -> Sequence[Annotation]:
        """The answers there are by now; some may have been given out before. Does not wait long."""
        ...


def sort_annotations(found: object, asked: Sequence[int], target: Target) -> tuple[list[Annotation], str]:
    """The answers that can be taken, and what is wrong with the first that cannot; empty when all is well.

    Args:
        found: What an oracle's ``poll`` gave.
        asked: Ids that were asked for.
        target: What a label is.
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
        elif annotation.cost < 0:
            mistakes.append(
                f"The oracle's answer for item {annotation.id} costs {annotation.cost:g}, less than nothing."
            )
        else:
            try:
                good.append(replace(annotation, label=target.label(annotation.label)))
            except UserError as error:
                mistakes.append(f"The oracle gave item {annotation.id} the label {annotation.label}; {error}")
    return good, mistakes[0] if mistakes else ""
