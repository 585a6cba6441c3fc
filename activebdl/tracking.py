"""MLflow: accuracy, or what else is measured, against labels for all to see. The only file that imports mlflow.

An experiment is a data set and a protocol; a comparison is a parent run, under which each (strategy, posterior, seed)
is a child. The step of every metric is the number of labels. MLflow shows what the journal knows, and no more: when
it fails, the run goes on, and what is missing is sent when it is back, or by `activebdl resume`; each round is one
point, whatever failed when.
"""

import contextlib
import csv
import io
import logging
import math
import os
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import Any

from filelock import FileLock

from activebdl import __version__
from activebdl.data import ActiveDataset
from activebdl.errors import UserError, Waiting
from activebdl.mlflow_ui import NUMBERS, VIEW_TAG, charts_url, serve, share_view
from activebdl.outbox import Outbox, reason
from activebdl.progress import say
from activebdl.rounds import Round
from activebdl.run_folders import SPEC_FILE, runs_option
from activebdl.runs import Tracking, TrackRound
from activebdl.spec import RunSpec, spec_text
from activebdl.tracked import EACH_ROUND, flat, machine, metrics_of, pictures_of

UID = "activebdl.uid"
STORE = "mlflow.db"


class MlflowTracking:
    """An experiment in MLflow's store.

    Args:
        client: Of the store.
        experiment_id: The experiment's.
        runs: The folder of all runs, which the command that resumes one names.
        parent: The comparison's run; None outside of one.
        outbox: Keeps what the store could not be told.
    """

    def __init__(
        self,
        client: Any,
        experiment_id: str,
        *,
        runs: Path = Path("runs"),
        parent: "_Run | None" = None,
        outbox: Outbox | None = None,
    ) -> None:
        self.client, self.experiment_id, self.parent = client, experiment_id, parent
        self.outbox = outbox or Outbox()
        self._where = runs_option(runs)

    @staticmethod
    def prepare(runs: Path, experiment: str) -> "MlflowTracking":
        """Makes the store and the experiment where they are not there yet, before any training.

        Args:
            runs: The folder of all runs, where the store is unless MLFLOW_TRACKING_URI says otherwise.
            experiment: The experiment's name.

        Raises:
            UserError: The store cannot be written or reached.
        """
        uri = store_uri(runs)
        try:
            ours = uri == _own_uri(runs)
            if ours:
                runs.mkdir(parents=True, exist_ok=True)
                _make_store(runs / STORE)
            client = _client(uri)
            found = client.get_experiment_by_name(experiment)
            if found is not None and found.lifecycle_stage != "active":
                raise UserError(f"The MLflow experiment '{experiment}' was deleted there; restore it or take another.")
            if found is None:
                place = (runs / "mlartifacts").resolve().as_uri() if ours else None
                experiment_id = client.create_experiment(experiment, artifact_location=place)
                # MLflow opens an experiment on a page that shows no curve, but its description above that.
                link = f"[accuracy against labels]({charts_url('', experiment_id).removeprefix('/')})"
                client.set_experiment_tag(experiment_id, "mlflow.note.content", link)
            else:
                experiment_id = found.experiment_id
            client.set_experiment_tag(experiment_id, "activebdl.version", __version__)  # is it a store that only reads?
            if found is None or VIEW_TAG not in found.tags:
                share_view(client, experiment_id)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"MLflow's store '{uri}' cannot be written: {reason(error)}. "
                "Mend it, set MLFLOW_TRACKING_URI to another, or go without: --no-mlflow."
            ) from error
        return MlflowTracking(client, experiment_id, runs=runs)

    @contextlib.contextmanager
    def comparison(self, name: str, uid: str) -> Generator[Tracking]:
        """A parent run, the same one when the comparison goes on."""
        parent = _Run(self.client, self.experiment_id, name, uid)
        with self._open(parent):
            yield MlflowTracking(self.client, self.experiment_id, parent=parent, outbox=self.outbox)

    @contextlib.contextmanager
    def run(self, spec: RunSpec, name: str, uid: str) -> Generator[TrackRound]:
        """A run, the same one when it is resumed."""
        run = _Run(self.client, self.experiment_id, name, uid, spec, self.parent)

        def track(dataset: ActiveDataset, round: Round) -> None:
            run.take(dataset, round)
            self.outbox.send()

        with self._open(run):
            yield track

    @contextlib.contextmanager
    def _open(self, run: "_Run") -> Generator[None]:
        status = "FAILED"
        try:
            self.outbox.add(run)
            self.outbox.send()
            yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Waiting:
            # Not FAILED, for nothing is wrong, nor RUNNING, for nobody works on it. MLflow's pages show SCHEDULED like
            # RUNNING, in blue and without an end, but by its own name: one sees which runs wait for labels.
            status = "SCHEDULED"
            raise
        finally:
            run.end(status)
            if self.parent is None:
                self.outbox.close(f"activebdl resume {run.name}{self._where}")
            else:
                self.outbox.send()  # the comparison has more occasions


class _Run:
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
        parent: "_Run | None" = None,
    ) -> None:
        self.client, self.experiment_id, self.parent = client, experiment_id, parent
        self.name, self.uid, self.spec = name, uid, spec
        self.run_id = ""  # until the store has the run
        self._begun_ms, self._ended_ms = _now_ms(), 0
        self._status, self._status_told = "RUNNING", ""
        self._creations = 0
        self._params = {} if spec is None else flat(spec)  # not sent yet
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
        """The run, its parameters once, the metrics of each round, how it ended, and the files."""
        self.require()
        if self._params:
            from mlflow.entities import Param

            self.client.log_batch(self.run_id, params=[Param(key, value) for key, value in self._params.items()])
            self._params = {}
        while self._rounds:
            self._send_metrics(*self._rounds[0])
            self._rounds.popleft()
        if self._status != self._status_told:
            self._send_status()
        if self.spec is not None:  # last: they may lie in another place, which fails by itself
            self._send_files(self.spec)

    def require(self) -> None:
        """The run, found or made."""
        if self.run_id:
            return
        if self.parent is not None:
            self.parent.require()
        found = self._find()
        if found is not None:
            self.run_id, self._status_told = found.info.run_id, found.info.status
            self._params = {key: value for key, value in self._params.items() if key not in found.data.params}
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
            self.client.set_tag(self.run_id, "stopped", f"at {round.n_labels:,} labels: {round.stopped}")

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
        if SPEC_FILE not in self._files:
            self.client.log_text(self.run_id, spec_text(spec), SPEC_FILE)
            self._files.add(SPEC_FILE)
        last = spec.label_counts()[-1]
        while self._undrawn:
            dataset, round = self._undrawn[0]
            is_last = round.n_labels == last or round.stopped is not None
            if dataset.target.kind == "numbers" and round.number == 0:
                share_view(self.client, self.experiment_id, NUMBERS)
            for name, draw in pictures_of(dataset, round, is_last).items():
                if name not in self._files:
                    self._send_picture(name, draw())
                    self._files.add(name)
            self._csv_is_new |= is_last or round.n_labels not in (self._sent_before or ())
            self._undrawn.popleft()
        if self._csv_is_new:
            self.client.log_text(self.run_id, self._selections.getvalue(), "selections.csv")
            self._csv_is_new = False

    def _send_picture(self, name: str, png: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(name).name
            file.write_bytes(png)
            self.client.log_artifact(self.run_id, str(file), str(Path(name).parent) if "/" in name else None)


def store_uri(runs: Path) -> str:
    """Where MLflow's store is: as MLFLOW_TRACKING_URI says, or a database in the folder of all runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_uri(runs)


def open_ui(runs: Path, port: int) -> None:
    """Runs MLflow's UI on this machine until it is stopped from the keyboard.

    Raises:
        UserError: There is nothing to show yet, or the port is taken.
    """
    uri = store_uri(runs)
    if uri.startswith("http"):
        say(f"MLflow runs elsewhere: {uri}")
        return
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise UserError(f"There is nothing to show in '{runs}' yet; 'activebdl run' or 'activebdl compare' first.")
    experiments = _client(uri).search_experiments()
    serve(uri, port, {e.name: e.experiment_id for e in experiments if VIEW_TAG in e.tags})


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow's own 7 retries keep a run waiting for minutes; and where only an answer was lost, any would do again what
    # was done, such as make a run. The outbox tries again, and looks first.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _own_uri(runs: Path) -> str:
    return _sqlite(runs / STORE)


def _sqlite(path: Path) -> str:
    return f"sqlite:///{path.resolve()}"


def _make_store(path: Path) -> None:
    """Makes a store that is not there yet beside its place, for MLflow, which takes seconds, cannot mend half a one."""
    if path.exists():
        return
    part = f".{path.name}.*.part"
    beside = path.with_name(part.replace("*", uuid.uuid4().hex))  # MLflow keeps connections to a name it has seen
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():  # another process has made it
            return
        for left in path.parent.glob(f"{part}*"):  # by one that was killed; a journal of SQLite's too
            left.unlink()
        _client(_sqlite(beside)).search_experiments(max_results=1)
        beside.replace(path)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
