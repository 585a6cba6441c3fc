"""Which items are labelled, pending, set aside, and unlabelled.

An item is always in exactly one of the four states. It moves unlabelled -> pending when it is asked for, and
pending -> labelled, or pending -> set aside when the oracle abstains. It is never asked for twice.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from activebdl.errors import UserError

_UNLABELLED, _PENDING, _LABELLED, _SET_ASIDE = range(4)


class Pool:
    """The states of N items; an item's id is its index in the data set.

    Args:
        size: N.
        classes: C; labels run from 0 to C - 1.
    """

    def __init__(self, size: int, classes: int) -> None:
        self.size = size
        self.classes = classes
        self._state = torch.full((size,), _UNLABELLED, dtype=torch.uint8)
        self._label = torch.full((size,), -1, dtype=torch.long)

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

    def label(self, id: int, label: int) -> None:
        """Gives a pending item its label.

        Raises:
            UserError: The item is not pending, or the label is out of range.
        """
        self._expect(id, _PENDING, "labelled")
        if not 0 <= label < self.classes:
            raise UserError(f"The label of item {id} is {label}; labels run from 0 to {self.classes - 1}.")
        self._state[id] = _LABELLED
        self._label[id] = label

    def abstain(self, id: int) -> None:
        """Sets a pending item aside: it will not be asked for again.

        Raises:
            UserError: The item is not pending.
        """
        self._expect(id, _PENDING, "set aside")
        self._state[id] = _SET_ASIDE

    def _ids(self, state: int) -> Tensor:
        return (self._state == state).nonzero().flatten()

    def _expect(self, id: int, state: int, action: str) -> None:
        if not 0 <= id < self.size:
            raise UserError(f"There is no item {id}: ids run from 0 to {self.size - 1}.")
        if int(self._state[id]) != state:
            now = ("unlabelled", "pending", "labelled", "set aside")[int(self._state[id])]
            raise UserError(f"Item {id} is {now} and cannot be {action}.")
