"""People far away: requests are files, and the run stops until their answers are taken in."""

import csv
import io
import json
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from activebdl.annotations import Annotation
from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError, Waiting
from activebdl.files import write_safely
from activebdl.oracles import Oracle, Request, oracle
from activebdl.oracles._images import is_image, png

FORMATS = ("jsonl", "csv")


@oracle("files")
def files(dataset: ActiveDataset, *, format: str = "jsonl", cost: float = 0.0, folder: Path | None = None) -> Oracle:
    """Writes each request into the run's folder, with its images, and waits for ``activebdl ingest``.

    Args:
        dataset: What is labelled.
        format: "jsonl", a line of JSON for each item, or "csv".
        cost: What an answer costs where the file does not say.
        folder: Where the files are written.

    Raises:
        UserError: An unknown format, or a run that is kept nowhere.
    """
    if format not in FORMATS:
        raise UserError(f"The oracle 'files' writes {' or '.join(FORMATS)}, not '{format}'.")
    if not 0 <= cost < math.inf:
        raise UserError(f"'cost' of the oracle 'files' is a number that is not negative, not {cost!r}.")
    if folder is None:
        raise UserError("The oracle 'files' needs a run that is kept: give it a journal, whose folder takes the files.")
    return FilesOracle(folder, format, cost)


class FilesOracle:
    """See `files`."""

    shows_predictions = True

    def __init__(self, folder: Path, format: str, cost: float) -> None:
        self.folder, self.format, self.cost = folder, format, cost
        self._waits = ""

    def price(self, ids: Sequence[int]) -> Sequence[float]:
        """What the answer to each item costs."""
        return [self.cost] * len(ids)

    def submit(self, request: Request) -> str:
        """Writes the request's file, unless it is there, for people may be writing their answers into it."""
        name = request.key.replace("round-", "request-").replace("-attempt-0", "").replace("attempt", "again")
        file = self.folder / f"{name}.{self.format}"
        while file.exists() and not _holds(file, request.ids):  # of another run that was here
            name += "-new"
            file = self.folder / f"{name}.{self.format}"
        if not file.exists():
            rows = self._rows(request, name)
            write_safely(file, _jsonl(rows) if self.format == "jsonl" else _csv(rows))
        labels = f"one of {', '.join(request.classes)}" if request.classes else "a number"
        self._waits = (
            f"{len(request.ids)} items wait for labels in '{file}'. Write each 'label' there ({labels}; or abstain), "
            f"then go on with: activebdl ingest {shlex.quote(str(self.folder))} {shlex.quote(str(file))}"
        )
        return request.key

    def poll(self, ticket: str) -> Sequence[Annotation]:
        """Nobody answers here.

        Raises:
            Waiting: Always; the sentence names the file, and the command that takes it in.
        """
        raise Waiting(self._waits)

    def _rows(self, request: Request, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for position, id in enumerate(request.ids):
            row: dict[str, Any] = {"id": id, "label": None, **_thought(request, position)}
            item = request.items[position]
            if is_image(item):
                row["image"] = f"{name}/{id}.png"
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                write_safely(self.folder / row["image"], png(item, request.white))
            else:
                row["values"] = item.tolist()
            rows.append(row)
        return rows


def _holds(file: Path, ids: Sequence[int]) -> bool:
    """Whether a file, into which people may have written anything, is of these items."""
    return set(map(str, ids)) <= set(re.findall(r"\d+", file.read_text(encoding="utf-8", errors="replace")))


def _thought(request: Request, position: int) -> dict[str, Any]:
    """What the model thinks of an item, and how unsure it is."""
    if request.predictions is None or request.uncertainty is None:
        return {}
    predicted, uncertainty = request.predictions[position], round(float(request.uncertainty[position]), 4)
    if not request.classes:
        return {"predicted": float(predicted[0]), "standard deviation": uncertainty}
    best = int(predicted.argmax())
    return {
        "predicted": request.classes[best],
        "probability": round(float(predicted[best]), 4),
        "entropy in nats": uncertainty,
    }


def _jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
