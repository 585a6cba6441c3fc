"""Which items are labelled, held out for validation, pending, set aside, and unlabelled.

An item is always in exactly one of the five states. It moves unlabelled -> pending when it is asked for, and
pending -> labelled or validation, or pending -> set aside when the oracle abstains, or takes a label back later. It is
never asked for twice.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from activebdl.annotations import Label
from activebdl.errors import UserError
from activebdl.targets import Target

_STATES = ("unlabelled", "pending", "labelled", "set aside", "held out for validation")
_UNLABELLED, _PENDING, _LABELLED, _SET_ASIDE, _VALIDATION = range(5)


class Pool:
    """The states of N items; an item's id is its index in the data set.

    Args:
        size: N.
        target: What a label is.
    """

    def __init__(self, size: int, target: Target) -> None:
        self.size = size
        self.target = target
        self._state = torch.full((size,), _UNLABELLED, dtype=torch.uint8)
        self._label = torch.zeros(size, dtype=target.dtype)

    @property
    def unlabelled(self) -> Tensor:
        """Ids that may be asked for, ascending."""
        return self._ids(_UNLABELLED)

    @property
    def pending(self) -> Tensor:
        """Ids that were asked for and not yet answered, ascending."""
        return self._ids(_PENDING)

    @property
    def labelled(self) -> Tensor:
        """Ids with a label, ascending: so a fit depends on which labels there are, not on when they came."""
        return self._ids(_LABELLED)

    @property
    def set_aside(self) -> Tensor:
        """Ids that the oracle would not label, ascending."""
        return self._ids(_SET_ASIDE)

    @property
    def labels(self) -> Tensor:
        """The labels of `labelled`, in its order."""
        return self._label[self.labelled]

    @property
    def validation(self) -> Tensor:
        """Ids with a label that no network is trained on, ascending."""
        return self._ids(_VALIDATION)

    @property
    def validation_labels(self) -> Tensor:
        """The labels of `validation`, in its order."""
        return self._label[self.validation]

    @property
    def n_labels(self) -> int:
        """How many labels there are, those of validation items included."""
        return len(self.labelled) + len(self.validation)

    def ask(self, ids: Iterable[int]) -> None:
        """Marks unlabelled items as pending.

        Raises:
            UserError: An id twice, outside the pool, or not unlabelled. Then nothing changes.
        """
        wanted = [int(i) for i in ids]
        if len(set(wanted)) != len(wanted):
            raise UserError("A strategy chose the same item twice; its ids must be distinct.")
        for id in wanted:
            self._expect(id, _UNLABELLED, "asked for again")
        self._state[wanted] = _PENDING

    def answer(self, id: int, label: Label, *, hold_out: bool = False) -> None:
        """Gives a pending item its label; None sets it aside, and it will not be asked for again.

        Args:
            id: Its.
            label: Its.
            hold_out: Whether it is for validation, and not to train on.

        Raises:
            UserError: The item is not pending, or the label is none that the target has.
        """
        self._expect(id, _PENDING, "set aside" if label is None else "labelled")
        try:
            label = self.target.label(label)
        except UserError as error:
            raise UserError(f"The label of item {id} is {label}; {error}") from None
        if label is None:
            self._state[id] = _SET_ASIDE
        else:
            self._state[id] = _VALIDATION if hold_out else _LABELLED
            self._label[id] = label

    def correct(self, id: int, label: Label) -> None:
        """Gives an item that has a label another one; None sets it aside.

        An item that was set aside stays so, for another was asked for in its place.

        Raises:
            UserError: The label is none that the target has.
        """
        if int(self._state[id]) not in (_LABELLED, _VALIDATION):
            return
        label = self.target.label(label)
        if label is None:
            self._state[id] = _SET_ASIDE
        else:
            self._label[id] = label

    def _ids(self, state: int) -> Tensor:
        return (self._state == state).nonzero().flatten()

    def _expect(self, id: int, state: int, action: str) -> None:
        if not 0 <= id < self.size:
            raise UserError(f"There is no item {id}: ids run from 0 to {self.size - 1}.")
        if int(self._state[id]) != state:
            raise UserError(f"Item {id} is {_STATES[int(self._state[id])]} and cannot be {action}.")
