"""Whether a journal is of this run: everything that decides what a run does, as it was when it began.

Only the label counts may have grown since: a run that has all the labels it was to have may be given more.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from activebdl.data.dataset import ActiveDataset
from activebdl.data.inputs import alike, sketch
from activebdl.errors import UserError
from activebdl.journal import Journal
from activebdl.registry import without_addresses

# What an older journal does not name, and what it was.
_ONCE: dict[str, object] = {
    "scoring": "full", "candidates": None, "stop": None, "validation": 0, "stop_set": None, "views": None,
    "pretraining": None,
}  # fmt: skip


# Settings that an older journal does not name, at what they are by default; "flip=0.05" is not "flip=0.0".
_SINCE = re.compile(r", (pseudo_labels=None|flip=0\.0|from_labels=0|align=False)(?=[,)])")


_ITS_OWN = "or give this run a journal of its own."
_OTHERS = {
    "pool": "The journal's labels are of other items than those of the pool today, or of the same in another order: "
    f"they belong to items by their places. Give the pool as it was, {_ITS_OWN}",
    "test": "The journal's rounds were measured on another test set than today's, or on the same in another order, and "
    f"one curve cannot hold both. Give the test set as it was, {_ITS_OWN}",
    "test labels": "The journal's rounds were measured by other labels of the test set than today's, and one curve "
    f"cannot hold both. Give them as they were, {_ITS_OWN}",
    "target inputs": "The journal's items were chosen for other target_inputs than today's. Give them as they were, "
    f"{_ITS_OWN}",
}  # fmt: skip
"""What to say where a part of the data set is another one."""


def traits(dataset: ActiveDataset) -> dict[str, object]:
    """What a journal knows a data set again by, of everything that decides what a run does and tells."""
    targets = dataset.target_inputs
    return {
        "dataset": dataset.name,
        "pool size": len(dataset.pool),
        "pool": sketch(dataset.pool),
        "test size": len(dataset.test),
        "test": sketch(dataset.test),
        "test labels": _digest(dataset.test_labels),
        "target inputs": None if targets is None else sketch(targets),
        "normalise": repr(dataset.normalise),
        "classes": list(dataset.classes),
        "target": repr(dataset.target),
        "costs": None if dataset.costs is None else _digest(dataset.costs),
    }


def claim(journal: Journal, identity: Mapping[str, Any]) -> None:
    """Makes a fresh journal this run's, and a known one that of the run to more labels.

    Args:
        journal: Open, and maybe of this run.
        identity: By name, what decides what the run does: the `traits` of the data set, "counts" of labels, ...

    Raises:
        UserError: The journal is of another run; it is left as it is.
    """
    known: dict[str, Any] | None = journal.about("identity")
    if known is None:
        journal.note("identity", identity)
        return
    for key, value in identity.items():
        was = known.get(key, _ONCE.get(key, value))
        if _settings(was) == _settings(value) or (key == "counts" and _begins_with(value, was)):
            continue
        if key in _OTHERS:
            if isinstance(was, list) and isinstance(value, list) and alike(was, value):
                continue
            raise UserError(_OTHERS[key])
        if key == "counts":
            raise UserError(
                f"The journal is of a run with the label counts {was}, and today's, {value}, do not begin with these. "
                "A run may be given more labels: go on with its counts and further ones behind them."
            )
        raise UserError(
            f"The journal is of another run: its {key} is {was}, not {value}. Give this run a journal of its own."
        )
    if len(identity["counts"]) > len(known["counts"]):
        journal.note("identity", {**known, "counts": identity["counts"]})


def _digest(values: Tensor) -> str:
    """Tells one list of numbers from another."""
    return hashlib.blake2b(values.cpu().numpy().tobytes(), digest_size=8).hexdigest()


def _begins_with(counts: Sequence[int], others: Sequence[int]) -> bool:
    return counts[: len(others)] == others


def _settings(told: object) -> object:
    """Without what an older journal does not name, nor addresses in memory."""
    if not isinstance(told, str):
        return told
    return without_addresses(_SINCE.sub("", told))
