"""MLflow: accuracy, or what else is measured, against labels for all to see. The only file that imports mlflow.

An experiment is a data set and a protocol; a comparison is a parent run, under which each (strategy, posterior, seed)
is a child. The step of every metric is the number of labels. MLflow shows what the journal knows, and no more: when
it fails, the run goes on, and `activebdl resume` sends what is missing. A round that is sent twice is one point.
"""

import contextlib
import csv
import io
import logging
import math
import os
import platform
import tempfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import torch

from activebdl import __version__
from activebdl.build import make_strategy
from activebdl.data import ActiveDataset
from activebdl.devices import choose_device, describe
from activebdl.errors import UserError
from activebdl.mlflow_ui import NUMBERS, VIEW_TAG, charts_url, serve, share_view
from activebdl.pictures import asked_grid, confusion_matrix, reliability_diagram
from activebdl.progress import say
from activebdl.rounds import Round
from activebdl.runs import Tracking, TrackRound
from activebdl.spec import RunSpec, spec_text
from activebdl.targets import Classes, Target

UID = "activebdl.uid"


class MlflowTracking:
    """An experiment in MLflow's store.

    Args:
        client: Of the store.
        experiment_id: The experiment's.
        parent: The run id of the comparison; None outside of one.
    """

    def __init__(self, client: Any, experiment_id: str, parent: str | None = None) -> None:
        self.client, self.experiment_id, self.parent = client, experiment_id, parent

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
                f"MLflow's store '{uri}' cannot be written: {_reason(error)}. "
                "Mend it, set MLFLOW_TRACKING_URI to another, or go without: --no-mlflow."
            ) from error
        return MlflowTracking(client, experiment_id)

    @contextlib.contextmanager
    def comparison(self, name: str, uid: str) -> Generator[Tracking]:
        """A parent run, the same one when the comparison goes on."""
        try:
            run_id = self._run(name, uid, tags={})
        except Exception as error:
            raise UserError(f"MLflow fails: {_reason(error)}. Mend it, or go without: --no-mlflow.") from error
        with self._ended(run_id):
            yield MlflowTracking(self.client, self.experiment_id, run_id)

    @contextlib.contextmanager
    def run(self, spec: RunSpec, name: str, uid: str) -> Generator[TrackRound]:
        """A run, the same one when it is resumed."""
        tags = machine(spec) | ({} if self.parent is None else {"mlflow.parentRunId": self.parent})
        sender = _Sender(self.client, self.experiment_id)
        sender.start(spec, lambda: self._run(name, uid, tags))
        with self._ended(sender.run_id):
            yield sender.send

    def _run(self, name: str, uid: str, tags: Mapping[str, str]) -> str:
        found = self.client.search_runs([self.experiment_id], f"tags.`{UID}` = '{uid}'", max_results=1)
        if found:
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0].info.run_id
        return self.client.create_run(self.experiment_id, run_name=name, tags={UID: uid, **tags}).info.run_id

    @contextlib.contextmanager
    def _ended(self, run_id: str) -> Generator[None]:
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            with contextlib.suppress(Exception):  # the journal is what counts
                self.client.set_terminated(run_id, status)


class _Sender:
    """Sends the rounds of one run, each once."""

    def __init__(self, client: Any, experiment_id: str) -> None:
        self.client, self.experiment_id = client, experiment_id
        self.run_id = ""  # until the store has the run
        self._failed = False
        self._selections = io.StringIO()
        self._csv = csv.writer(self._selections, lineterminator="\n")
        self._csv.writerow(["n_labels", "position", "id", "label", "score"])

    def start(self, spec: RunSpec, make: Callable[[], str]) -> None:
        """The run, its parameters once, and what the store has of it already."""
        from mlflow.entities import Param

        def begin() -> None:
            self.run_id = make()
            self.client.log_batch(self.run_id, params=[Param(key, value) for key, value in flat(spec).items()])
            self.client.log_text(self.run_id, spec_text(spec), "spec.yaml")

        self._sent: set[int] = set()
        self._pictures: set[str] = set()
        self._last = spec.label_counts()[-1]
        self._trying(begin)
        self._trying(self._look)

    def _look(self) -> None:
        self._sent = {point.step for point in self.client.get_metric_history(self.run_id, "nll")}
        for folder in (None, "asked"):
            self._pictures |= {entry.path for entry in self.client.list_artifacts(self.run_id, folder)}

    def send(self, dataset: ActiveDataset, round: Round) -> None:
        """One batch of metrics, and the pictures; what is there already is not sent again."""
        for position, (id, label, score) in enumerate(zip(round.ids, round.labels, round.scores, strict=True)):
            self._csv.writerow([round.n_labels, position, id, label, "" if score is None else f"{score:.6g}"])
        if dataset.target.kind == "numbers" and round.number == 0:
            self._trying(lambda: share_view(self.client, self.experiment_id, NUMBERS))
        self._trying(lambda: self._metrics(dataset, round))
        self._trying(lambda: self._artifacts(dataset, round))

    def _metrics(self, dataset: ActiveDataset, round: Round) -> None:
        if round.n_labels in self._sent:
            return
        from mlflow.entities import Metric

        step = int(round.n_labels)  # a numpy integer would be stored as bytes
        values = metrics_of(round, dataset.target)
        batch = [
            Metric(key, float(value), round.written_ms, step)
            for key, value in values.items()
            if math.isfinite(value)  # a store keeps infinity as 1.8e308, which no chart survives
        ]
        self.client.log_batch(self.run_id, metrics=batch)

    def _artifacts(self, dataset: ActiveDataset, round: Round) -> None:
        is_new = round.n_labels not in self._sent
        if _are_images(dataset):
            self._png(f"asked/{round.n_labels:05d}-labels.png", lambda: _grid(dataset, round))
        is_last = round.n_labels == self._last or round.stopped is not None
        if is_new or is_last:
            self.client.log_text(self.run_id, self._selections.getvalue(), "selections.csv")
        if round.stopped is not None:
            self.client.set_tag(self.run_id, "stopped", f"at {round.n_labels:,} labels: {round.stopped}")
        if is_last and round.confusion:
            at = f"at {round.n_labels:,} labels"
            ece, classes = round.metrics["ece"], dataset.classes
            self._png("confusion_matrix.png", lambda: confusion_matrix(round.confusion, classes, f"confusion {at}"))
            self._png("reliability.png", lambda: reliability_diagram(round.reliability, ece, f"reliability {at}"))

    def _png(self, name: str, draw: Callable[[], bytes]) -> None:
        if name in self._pictures:
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(name).name
            file.write_bytes(draw())
            self.client.log_artifact(self.run_id, str(file), str(Path(name).parent) if "/" in name else None)

    def _trying(self, send: Callable[[], None]) -> None:
        """Labels cost more than metrics: a store that fails stops no run."""
        if self._failed:
            return
        try:
            send()
        except Exception as error:
            self._failed = True
            say(f"  MLflow fails ({_reason(error)}); the run goes on, and 'activebdl resume' sends what it missed")


def store_uri(runs: Path) -> str:
    """Where MLflow's store is: as MLFLOW_TRACKING_URI says, or a database in the folder of all runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_uri(runs)


def metrics_of(round: Round, target: Target) -> dict[str, float]:
    """What is sent of a round: its metrics, what the fit tells of itself, times in seconds, and what was asked."""
    values = dict(round.metrics)
    values |= {f"fit/{key}": value for key, value in round.diagnostics.items()}
    values |= {f"time/{phase}": seconds for phase, seconds in round.seconds.items()}
    values["time/round"] = sum(round.seconds.values())
    values["cost"] = round.cost
    if round.samples is not None:
        values["samples"] = round.samples
    values |= {f"validation/{key}": value for key, value in round.validation.items() if key != "size"}
    values |= {f"stop/{key}": value for key, value in round.watch.items()}
    if isinstance(target, Classes):
        for c, name in enumerate(target.names):
            values[f"asked/class_{name}"] = round.labels.count(c) / len(round.labels)
    else:
        values["asked/mean_label"] = sum(round.labels) / len(round.labels)
    scores = [score for score in round.scores if score is not None]
    if scores:
        values["asked/mean_score"] = sum(scores) / len(scores)
    return values


def machine(spec: RunSpec) -> dict[str, str]:
    """What a run's numbers may depend on beside its spec, as MLflow's tags."""
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": describe(choose_device(spec.device)),
    }


def flat(spec: RunSpec) -> dict[str, str]:
    """The spec as MLflow's parameters: ``strategy`` is a name, ``strategy.beta`` an option of it."""
    params = {"label": f"{make_strategy(spec.strategy).label}, {spec.posterior.name}"}

    def walk(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, deeper in value.items():  # pyright: ignore[reportUnknownVariableType]
                walk(key if inner == "name" else f"{key}.{inner}", deeper)
        else:
            params[key] = str(value)

    for key, value in spec.model_dump(mode="json", exclude={"compare", "experiment"}).items():
        walk(key, value)
    return params


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
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 keep a run waiting for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _own_uri(runs: Path) -> str:
    return f"sqlite:///{(runs / 'mlflow.db').resolve()}"


def _reason(error: Exception) -> str:
    """The first line of an error's words."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _grid(dataset: ActiveDataset, round: Round) -> bytes:
    names = [dataset.classes[int(label)] if dataset.classes else f"{label:.3g}" for label in round.labels]
    images = dataset.pool[torch.tensor(round.ids, dtype=torch.long)].numpy()
    return asked_grid(images, names, f"asked for, up to {round.n_labels:,} labels")


def _are_images(dataset: ActiveDataset) -> bool:
    shape = dataset.input_shape
    return len(shape) == 3 and shape[0] in (1, 3)
