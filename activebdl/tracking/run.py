"""One run in MLflow's store: what it was told, what it still must be, and how to tell it nothing twice."""

import csv
import io
import math
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from activebdl.data import ActiveDataset
from activebdl.rounds import Round
from activebdl.run_folders import SPEC_FILE
from activebdl.spec import RunSpec, spec_text
from activebdl.tracking.datasets import dataset_inputs
from activebdl.tracking.model import send_model
from activebdl.tracking.told import EACH_ROUND, flat, machine, metrics_of, pictures_of
from activebdl.tracking.ui import NUMBERS, share_view

UID = "activebdl.uid"
STOPPED = "stopped"
GROWING = ("budget", "max_cost")
"""Of the parameters, those that may become more when a run goes on and are told anew."""


class TrackedRun:
    """A run in the store, and what it has not been told; a comparison is a run without a spec and rounds.

    `send` may fail at any call, whether the store did what it was asked for or not, and goes on there the next time.
    """

    def __init__(
        self,
        client: Any,
        experiment_id: str,
        name: str,
        uid: str,
        spec: RunSpec | None = None,
        parent: "TrackedRun | None" = None,
        model: Path | None = None,
    ) -> None:
        self.client, self.experiment_id, self.parent = client, experiment_id, parent
        self.name, self.uid, self.spec, self.model = name, uid, spec, model
        self.run_id = ""  # until the store has the run
        self._begun_ms, self._ended_ms = _now_ms(), 0
        self._status, self._status_told = "RUNNING", ""
        self._creations = 0
        self._has_grown = False  # whether its budget is larger than when the store was first told of it
        self._tell_budgets = False
        self._was_stopped = False  # whether the store says so
        self._params = {} if spec is None else flat(spec)  # not sent yet
        self._last: tuple[ActiveDataset, Round] | None = None
        self._has_inputs: bool | None = None  # None where we must look
        self._has_model = False
        self._rounds: deque[tuple[ActiveDataset, Round]] = deque()  # whose metrics are not sent
        self._undrawn: deque[tuple[ActiveDataset, Round]] = deque()  # whose pictures are not sent
        self._sent: set[int] | None = None  # the steps that the store has; None where we must look
        self._sent_before: set[int] | None = None  # those of a run that is resumed
        self._files: set[str] | None = None  # those that the store has
        self._selections = io.StringIO()
        self._csv = csv.writer(self._selections, lineterminator="\n")
        self._csv.writerow(["n_labels", "position", "id", "label", "score"])
        self._csv_is_new = False

    def take(self, dataset: ActiveDataset, round: Round) -> None:
        """Keeps a round until it is sent."""
        for position, (id, label, score) in enumerate(zip(round.ids, round.labels, round.scores, strict=True)):
            self._csv.writerow([round.n_labels, position, id, label, "" if score is None else f"{score:.6g}"])
        self._last = (dataset, round)
        self._rounds.append((dataset, round))
        self._undrawn.append((dataset, round))

    def end(self, status: str) -> None:
        """No more rounds come; how it ended."""
        self._status, self._ended_ms = status, _now_ms()

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self._ended_ms > 0

    def send(self) -> None:
        """The run, its parameters and data sets once, the metrics of each round, how it ended, the files, the model."""
        self.require()
        if self._params:
            from mlflow.entities import Param

            self.client.log_batch(self.run_id, params=[Param(key, value) for key, value in self._params.items()])
            self._params = {}
        if self.spec is not None and self._tell_budgets:
            for key in GROWING:  # a parameter stays as it was told
                self.client.set_tag(self.run_id, f"{key} now", flat(self.spec)[key])
        if self.spec is not None and self._last is not None and not self._has_inputs:
            self._send_inputs(self.spec, self._last[0])
        while self._rounds:
            self._send_metrics(*self._rounds[0])
            self._rounds.popleft()
        if self._status != self._status_told:
            self._send_status()
        if self.spec is not None:  # last: they may lie in another place, which fails by itself
            self._send_files(self.spec)
            self._send_model(self.spec)

    def require(self) -> None:
        """The run, found or made."""
        if self.run_id:
            return
        if self.parent is not None:
            self.parent.require()
        found = self._find()
        if found is not None:
            self.run_id, self._status_told = found.info.run_id, found.info.status
            known = found.data.params
            budgets = {key: self._params[key] for key in GROWING if key in self._params}
            self._has_grown = self._tell_budgets = any(known.get(key, now) != now for key, now in budgets.items())
            self._params = {key: value for key, value in self._params.items() if key not in known}
            self._was_stopped = STOPPED in found.data.tags
            return
        tags = {UID: self.uid} | ({} if self.spec is None else machine(self.spec))
        if self.parent is not None:
            tags["mlflow.parentRunId"] = self.parent.run_id
        self._creations += 1
        made = self.client.create_run(self.experiment_id, start_time=self._begun_ms, tags=tags, run_name=self.name)
        self.run_id, self._status_told = made.info.run_id, "RUNNING"

    def _find(self) -> Any:
        """The store's run of this uid; None where there is none.

        A server that hung may make a run that we gave up, beside the one that we made when it was back: such an empty
        one is deleted, where it is certain which is which.
        """
        found = self.client.search_runs([self.experiment_id], f"tags.`{UID}` = '{self.uid}'")
        found = sorted(found, key=lambda run: (run.info.run_id != self.run_id, -len(run.data.metrics)))
        for other in found[1:]:
            if (self.run_id or found[0].data.metrics) and not other.data.metrics:
                self.client.delete_run(other.info.run_id)
        return found[0] if found else None

    def _send_inputs(self, spec: RunSpec, dataset: ActiveDataset) -> None:
        if self._has_inputs is None:
            self._has_inputs = bool(self.client.get_run(self.run_id).inputs.dataset_inputs)
        if not self._has_inputs:
            self._has_inputs = None  # when the answer is lost, the store may have them or not
            self.client.log_inputs(self.run_id, dataset_inputs(dataset, spec))
            self._has_inputs = True

    def _send_metrics(self, dataset: ActiveDataset, round: Round) -> None:
        """One batch."""
        from mlflow.entities import Metric

        if self._sent is None:
            self._sent = {point.step for point in self.client.get_metric_history(self.run_id, EACH_ROUND)}
            self._sent_before = self._sent_before if self._sent_before is not None else set(self._sent)
        step = int(round.n_labels)  # a numpy integer would be stored as bytes
        if step not in self._sent:
            values = metrics_of(round, dataset.target)
            batch = [
                Metric(key, float(value), round.written_ms, step)
                for key, value in values.items()
                if math.isfinite(value)  # a store keeps infinity as 1.8e308, which no chart survives
            ]
            sent, self._sent = self._sent, None  # when the answer is lost, the store may have it or not
            self.client.log_batch(self.run_id, metrics=batch)
            self._sent = sent | {step}
        if round.stopped is not None:
            self.client.set_tag(self.run_id, STOPPED, f"at {round.n_labels:,} labels: {round.stopped}")
            self._was_stopped = True
        elif self._was_stopped and step not in (self._sent_before or ()):  # it has more money now
            if STOPPED in self.client.get_run(self.run_id).data.tags:  # an answer may have been lost
                self.client.delete_tag(self.run_id, STOPPED)
            self._was_stopped = False

    def _send_status(self) -> None:
        if self._creations > 1:
            self._find()
        if self._status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(self.run_id, status=self._status)
        else:
            self.client.set_terminated(self.run_id, self._status, end_time=self._ended_ms)
        self._status_told = self._status

    def _send_files(self, spec: RunSpec) -> None:
        if self._files is None:
            folders = [self.client.list_artifacts(self.run_id, folder) for folder in (None, "asked")]
            # A process that is killed while it sends a file may leave an empty one.
            self._files = {entry.path for folder in folders for entry in folder if entry.file_size != 0}
        if SPEC_FILE not in self._files or self._tell_budgets:
            self.client.log_text(self.run_id, spec_text(spec), SPEC_FILE)
            self._files.add(SPEC_FILE)
            self._tell_budgets = False
        last = spec.label_counts()[-1]
        while self._undrawn:
            dataset, round = self._undrawn[0]
            is_last = round.n_labels == last or round.stopped is not None
            if dataset.target.kind == "numbers" and round.number == 0:
                share_view(self.client, self.experiment_id, NUMBERS)
            is_new = round.n_labels not in (self._sent_before or ())
            again = is_last and (is_new or self._has_grown)  # there may be those of an end with fewer labels
            for name, draw in pictures_of(dataset, round, is_last).items():
                if again or name not in self._files:
                    self._send_picture(name, draw())
                    self._files.add(name)
            self._csv_is_new |= is_last or is_new
            self._undrawn.popleft()
        if self._csv_is_new:
            self.client.log_text(self.run_id, self._selections.getvalue(), "selections.csv")
            self._csv_is_new = False

    def _send_model(self, spec: RunSpec) -> None:
        """What was learned, once it is all there."""
        if self.model is None or self._has_model or self._last is None or self._status != "FINISHED":
            return
        if self.model.is_file():
            params, known = flat(spec), self.client.get_run(self.run_id)
            told = {key: params[key] for key in ("label", "strategy", "posterior", "seed")}
            send_model(self.client, known, self.model, int(self._last[1].n_labels), told)
        self._has_model = True

    def _send_picture(self, name: str, png: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(name).name
            file.write_bytes(png)
            self.client.log_artifact(self.run_id, str(file), str(Path(name).parent) if "/" in name else None)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
