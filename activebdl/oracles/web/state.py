"""What a page is told: plain numbers and words, ready for JSON."""

import math
from collections.abc import Sequence
from typing import Any

from activebdl.oracles._contract import Request
from activebdl.oracles._images import is_image
from activebdl.oracles.web.items import Item
from activebdl.oracles.web.queue import Queue, Shown
from activebdl.oracles.web.status import Status

VALUES = 64  # of an item that is no picture
TOP = 5  # classes that the page shows the model's belief in
_TAKEN = "supg"  # keys that mean something else: skip, undo, predictions, grid
_KEYS = "1234567890" + "".join(letter for letter in "qwertyuiopasdfghjklzxcvbnm" if letter not in _TAKEN)


def keys(names: Sequence[str]) -> list[str]:
    """The key of each class: its name where all names are single characters; else digits, then letters, then none."""
    own = [name.lower() for name in names]
    if len(set(own)) == len(own) and all(name in [*_KEYS] for name in own):
        return own
    return [*_KEYS, *[""] * len(names)][: len(names)]


def state(queue: Queue, status: Status, shown: Sequence[Shown], session: str, ended: str) -> dict[str, Any]:
    """All that one page is to show; ``ended`` is "done" or "stopped" when the run is over."""
    request = queue.request
    phase, share = status.working()
    doing = ended or ("labelling" if queue.is_open() else "working" if request is not None or phase else "waiting")
    size, answered, labelled = queue.counts()
    return {
        "doing": doing,
        "phase": phase,
        "share": share,
        "items": [] if request is None else [_item(each, bool(request.classes)) for each in shown],
        "batch": {"size": size, "answered": answered, "pages": queue.present()},
        "run": None if request is None else _run(request, labelled),
        "measure": status.measure,
        "curve": [[n, value] for n, value in status.curve() if math.isfinite(value)],
        "undo": queue.can_undo(session),
    }


def _run(request: Request, labelled: int) -> dict[str, Any]:
    names = request.classes
    return {
        "round": request.round,
        "labels": request.n_labels + labelled,
        "budget": request.budget,
        "kind": request.target.kind,
        "classes": [{"name": name, "key": key} for name, key in zip(names, keys(names), strict=True)],
    }


def _item(shown: Shown, classes: bool) -> dict[str, Any]:
    item = shown.item
    picture = is_image(item.input)
    return {
        "id": shown.id,
        "again": shown.again,
        "said": None if shown.said is None else {"label": shown.said.label},
        "size": [*item.input.shape[1:]] if picture else None,
        "shape": [*item.input.shape],
        "values": None if picture else [f"{value:.5g}" for value in item.input.reshape(-1)[:VALUES].tolist()],
        "model": _model(item, classes),
    }


def _model(item: Item, classes: bool) -> dict[str, Any] | None:
    """What the model thinks: the likeliest classes and the entropy in nats, or mean and standard deviation."""
    belief = item.prediction
    if belief is None or not bool(belief.isfinite().all()):
        return None
    if not classes:
        return {"mean": float(belief[0]), "sd": float(belief[1])}
    p, order = belief.sort(descending=True, stable=True)
    top = [[int(c), float(value)] for value, c in zip(p[:TOP], order[:TOP], strict=True)]
    return {"top": top, "entropy": item.uncertainty, "most": math.log(len(belief))}
