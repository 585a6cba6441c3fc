"""What Label Studio shows people of an item, and how their answers read. Q: items of a request, C: classes."""

import base64
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from torch import Tensor

from activebdl.annotations import Label
from activebdl.errors import UserError
from activebdl.files import is_compared
from activebdl.oracles._contract import Request
from activebdl.oracles._images import is_image, png
from activebdl.targets import Target

_LONGEST_TITLE = 50  # that Label Studio takes
ITEM, CONTROL = "item", "label"  # what the configuration calls what is shown, and what is asked
_BATCH_BYTES, _BATCH_TASKS = 4_000_000, 100  # of tasks in one request, so that each is answered soon
_SMALLEST = 96  # pixels; the data manager would show 8 x 8 as a speck
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


def labelling_configuration(target: Target, *, image: bool) -> str:
    """Label Studio's XML: a picture or numbers to look at, and classes or a number to say of it.

    Raises:
        UserError: Classes that cannot be told apart by their names, or cannot be written.
    """
    shown = (
        f'<Image name="{ITEM}" value="$image" smoothing="false"/>'
        if image
        else f'<Text name="{ITEM}" value="$values"/>'
    )
    if not target.names:
        return f'<View>{shown}<Number name="{CONTROL}" toName="{ITEM}" required="true"/></View>'
    names = target.names
    if not all(name.strip() for name in names):
        raise UserError("Label Studio tells classes by their names: each class needs one that is not empty.")
    for name in names:
        if _ILLEGAL.search(name):
            raise UserError(f"Label Studio cannot show the class {name!r}: its name has a control character.")
    keys = all(len(name) == 1 and name.isascii() and name.isalnum() for name in names)  # a digit's key is that digit
    choices = "".join(f"<Choice value={quoteattr(n)}{f' hotkey={quoteattr(n)}' if keys else ''}/>" for n in names)
    return (
        f'<View>{shown}<Choices name="{CONTROL}" toName="{ITEM}" choice="single" required="true" '
        f'showInline="true">{choices}</Choices></View>'
    )


def fits(project: Mapping[str, Any], target: Target) -> bool:
    """Whether a project's configuration, which people may have changed, asks for these labels."""
    control = (project.get("parsed_label_config") or {}).get(CONTROL) or {}
    if not target.names:
        return control.get("type") == "Number"
    return control.get("type") == "Choices" and set(target.names) <= set(control.get("labels") or ())


def make_tasks(request: Request, positions: Sequence[int], mark: Mapping[str, Any]) -> Iterator[Any]:
    """The tasks of some items, in batches, as they are imported.

    Args:
        request: What is asked.
        positions: Of the items in the request.
        mark: What each task says in ``meta`` beside the item's id, by which it is known again.
    """
    batch: list[dict[str, Any]] = []
    size = 0
    for position in positions:
        item = request.items[position]
        shown = {"image": _data_uri(item, request.white)} if is_image(item) else {"values": _values(item)}
        prediction = _prediction(request, position)
        name = {"request": request.key, "round": request.round, "id": request.ids[position]}
        data = {**shown, **_told(request, position), **name}  # the data manager has them in this order
        task = {"data": data, "meta": {"activebdl": {**mark, "id": request.ids[position]}}}
        batch.append(task | ({"predictions": [prediction]} if prediction else {}))
        size += len(next(iter(shown.values())))
        if size > _BATCH_BYTES or len(batch) == _BATCH_TASKS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_label(annotation: Mapping[str, Any], target: Target) -> Label:
    """What an annotation says; None where it was skipped.

    Raises:
        UserError: It says nothing that could be a label; the words are for a sentence's end.
    """
    if annotation.get("was_cancelled"):
        return None
    values = [part.get("value") or {} for part in annotation.get("result") or () if part.get("from_name") == CONTROL]
    value = values[0] if len(values) == 1 else {}
    if not target.names:
        number = value.get("number")
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise UserError(f"{number!r}, which is no number")
        return float(number)
    choices = value.get("choices") or []
    if len(choices) != 1 or choices[0] not in target.names:
        raise UserError(f"{choices!r}, which is not one of the classes")
    return target.names.index(choices[0])


def person_of(annotation: dict[str, Any]) -> int:
    """Who made an annotation; some servers tell more of them than the number. 0 for one who has left."""
    person = annotation.get("completed_by") or 0
    return person["id"] if isinstance(person, dict) else person


def _data_uri(item: Tensor, white: float) -> str:
    """A picture ``[1 or 3, H, W]`` in the task itself, so that the server needs no access to any file."""
    times = max(1, _SMALLEST // max(item.shape[1:]))
    item = item.repeat_interleave(times, 1).repeat_interleave(times, 2)
    return "data:image/png;base64," + base64.b64encode(png(item, white)).decode()


def _values(item: Tensor) -> str:
    return ", ".join(f"{value:.6g}" for value in item.flatten().tolist())


def _told(request: Request, position: int) -> dict[str, str | float]:
    """What people can read of an item, and order tasks by.

    Numbers have four decimals, for Label Studio orders them as text where nobody told it otherwise.
    """
    uncertainty = None if request.uncertainty is None else float(request.uncertainty[position])
    score = request.scores[position] if request.scores else None
    found = {"uncertainty": uncertainty, "score": score}
    numbers = {key: round(value, 4) for key, value in found.items() if value is not None and math.isfinite(value)}
    if request.predictions is None or "uncertainty" not in numbers:
        return {**numbers}
    row = request.predictions[position]
    return {"predicted": request.classes[int(row.argmax())] if request.classes else f"{row[0]:.6g}", **numbers}


def _prediction(request: Request, position: int) -> dict[str, Any]:
    """What the model says of an item; nothing where it says nothing, or no number."""
    if request.predictions is None or not bool(request.predictions[position].isfinite().all()):
        return {}
    row = request.predictions[position].double()
    best = int(row.argmax())
    value = {"choices": [request.classes[best]]} if request.classes else {"number": float(row[0])}
    kind = "choices" if request.classes else "number"
    result = [{"from_name": CONTROL, "to_name": ITEM, "type": kind, "value": value}]
    score = {"score": min(float(row[best]), 1.0)} if request.classes else {}
    return {"model_version": f"activebdl at {request.n_labels} labels", "result": result, **score}


def default_title(dataset: str, folder: Path | None) -> str:
    """The data set, the comparison and the run; cut to what Label Studio takes, so that titles that differ still do."""
    title = dataset
    if folder is not None:
        place = folder.resolve()
        title += f": {place.parent.name}/{place.name}" if is_compared(place) else f": {place.name}"
    if len(title) > _LONGEST_TITLE:
        title = f"{title[: _LONGEST_TITLE - 9]} {hashlib.blake2b(title.encode(), digest_size=4).hexdigest()}"
    return title
