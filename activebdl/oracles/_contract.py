"""What the loop and an oracle say to each other. Q: items of a request, C: classes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

import torch
from torch import Tensor

from activebdl.annotations import Annotation
from activebdl.errors import UserError
from activebdl.targets import Target


def _forget(annotations: Sequence[Annotation]) -> None:
    """Where there is no journal."""


@dataclass(frozen=True)
class Request:
    """What the oracle is asked.

    Args:
        key: Names the request within its run. After a stop it is submitted again under the same key, with those ids
            that have no answer yet.
        ids: Q ids, in the order of choice.
        items: ``[Q, ...]`` the inputs as the data set stores them.
        target: What a label is: `Classes` or `Numbers`.
        batch: Ids of the whole request, those too that have an answer already; empty where nobody said.
        white: What a byte is in the white of a picture; 255 for most.
        round: The round that asks, from 0; -1 asks for what is held out for validation.
        n_labels: Labels there are.
        budget: Labels there will be at the end of the run; 0 where nobody said.
        metrics: What the last round measured on the test set, e.g. "accuracy"; empty before the first.
        scores: ``[Q]`` the strategy's; None where it has none.
        predictions: ``[Q, C]`` probabilities of the classes; of numbers ``[Q, 2]``, mean and standard deviation. None
            before the first fit, and where the oracle did not say that it shows them (`shows_predictions`).
        history: All that was said so far, of these items and of earlier ones, oldest first: votes, answers, revisions.
        record: Writes annotations to the journal; they are on the disk when it returns. Whoever tells people that an
            answer was taken calls it before that. Any thread may. `poll` may give them again, which changes nothing.
    """

    key: str
    ids: tuple[int, ...]
    items: Tensor = field(repr=False)
    target: Target
    batch: tuple[int, ...] = ()
    white: float = 255.0
    round: int = 0
    n_labels: int = 0
    budget: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    scores: tuple[float | None, ...] = ()
    predictions: Tensor | None = field(default=None, repr=False)
    history: tuple[Annotation, ...] = field(default=(), repr=False)
    record: Callable[[Sequence[Annotation]], None] = field(default=_forget, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names; label c means ``classes[c]``. Empty where labels are numbers."""
        return self.target.names

    @property
    def uncertainty(self) -> Tensor | None:
        """``[Q]`` the entropy of the predicted classes in nats, or the standard deviation of the predicted number."""
        if self.predictions is None:
            return None
        return torch.special.entr(self.predictions).sum(dim=1) if self.classes else self.predictions[:, 1]


class Oracle(Protocol):
    """Whoever gives labels.

    An oracle may have more than the two below, and the loop uses what it finds:

    ``price(ids) -> Sequence[float]``
        The most that all answers to each item together may cost. A budget in cost needs it.
    ``shows_predictions = True``
        Requests come with what the model predicts.
    ``told(round)``
        Is called with each `activebdl.Round` when it is recorded, and with those before when the run is resumed.
    ``progress(phase, total)``
        Is told how far the computer is meanwhile, see `activebdl.progress`.
    ``close()``
        Is called when the run ends, in whatever way.

    One that answers elsewhere, long after, may raise `activebdl.Waiting` from ``poll``: the run stops with that
    sentence, and goes on with what has come when it is resumed.
    """

    def submit(self, request: Request) -> str:
        """Takes a request and returns a ticket at once. The same request again is the same ticket."""
        ...

    def poll(self, ticket: str) -> Sequence[Annotation]:
        """The answers there are by now; some may have been given out before. Does not wait long."""
        ...


def sort_annotations(found: object, asked: Collection[int], target: Target) -> tuple[list[Annotation], str]:
    """The answers that can be taken, and what is wrong with the first that cannot; empty when all is well.

    Args:
        found: What an oracle's ``poll`` gave.
        asked: Ids that were asked for, in this request or earlier.
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
            label = None if annotation.role == "withdrawn" else annotation.label
            try:
                good.append(replace(annotation, label=target.label(label)))
            except UserError as error:
                mistakes.append(f"The oracle gave item {annotation.id} the label {annotation.label}; {error}")
    return good, mistakes[0] if mistakes else ""
