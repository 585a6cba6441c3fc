"""Whether a journal is of this run: everything that decides what a run does, as it was when it began.

Only the label counts may have grown since: a run that has all the labels it was to have may be given more.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from activebdl.data.inputs import alike
from activebdl.errors import UserError
from activebdl.journal import Journal
from activebdl.registry import without_addresses

# What an older journal does not name, and what it was.
_ONCE: dict[str, object] = {
    "scoring": "full", "candidates": None, "stop": None, "validation": 0, "stop_set": None, "views": None,
    "pretraining": None,
}  # fmt: skip


# Settings that an older journal does not name, at what they are by default; "flip=0.05" is not "flip=0.0".
_SINCE = re.compile(r", (pseudo_labels=None|flip=0\.0|from_labels=0)(?=[,)])")


def claim(journal: Journal, identity: Mapping[str, Any]) -> None:
    """Makes a fresh journal this run's, and a known one that of the run to more labels.

    Args:
        journal: Open, and maybe of this run.
        identity: By name, what decides what the run does; "counts" are its label counts, "pool" a sketch of its items.

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
        if key == "pool":
            if alike(was, value):
                continue
            raise UserError(
                "The journal's labels are of other items than those of the pool today, or of the same in another "
                "order: they belong to items by their places. Give the pool as it was, or the run a journal of its own."
            )
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


def _begins_with(counts: Sequence[int], others: Sequence[int]) -> bool:
    return counts[: len(others)] == others


def _settings(told: object) -> object:
    """Without what an older journal does not name, nor addresses in memory."""
    if not isinstance(told, str):
        return told
    return without_addresses(_SINCE.sub("", told))
