"""Experiments and comparisons in MLflow's store, which is made where there is none."""

import contextlib
import logging
import os
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

from filelock import FileLock

from activebdl import __version__
from activebdl.data import ActiveDataset
from activebdl.errors import UserError, Waiting
from activebdl.progress import say
from activebdl.rounds import Round
from activebdl.run_folders import resume_command
from activebdl.runs import Tracking, TrackRound
from activebdl.spec import RunSpec
from activebdl.tracking.outbox import Outbox, reason
from activebdl.tracking.run import UID as UID
from activebdl.tracking.run import TrackedRun
from activebdl.tracking.system import watched
from activebdl.tracking.ui import VIEW_TAG, charts_url, serve, share_view

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
        parent: TrackedRun | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self.client, self.experiment_id, self.parent = client, experiment_id, parent
        self.outbox = outbox or Outbox()
        self._runs = runs

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
        parent = TrackedRun(self.client, self.experiment_id, name, uid)
        with self._open(parent):
            yield MlflowTracking(self.client, self.experiment_id, parent=parent, outbox=self.outbox)

    @contextlib.contextmanager
    def run(self, spec: RunSpec, name: str, uid: str, model: Path | None = None) -> Generator[TrackRound]:
        """A run, the same one when it is resumed; its model is sent if the file is there when it has ended well."""
        run = TrackedRun(self.client, self.experiment_id, name, uid, spec, self.parent, model)

        def track(dataset: ActiveDataset, round: Round) -> None:
            run.take(dataset, round)
            self.outbox.send()

        with self._open(run), watched(self.client, run.run_id):
            yield track

    @contextlib.contextmanager
    def _open(self, run: TrackedRun) -> Generator[None]:
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
                folder = self._runs / run.name if run.model is None else run.model.parent
                self.outbox.close(resume_command(folder, self._runs))
            else:
                self.outbox.send()  # the comparison has more occasions


def store_uri(runs: Path) -> str:
    """Where MLflow's store is: as MLFLOW_TRACKING_URI says, or a database in the folder of all runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_uri(runs)


def open_ui(runs: Path, port: int) -> None:
    """Runs MLflow's UI on this machine until it is stopped from the keyboard.

    Raises:
        UserError: There is nothing to show yet, or the port is taken.
    """
    if not 0 < port < 65536:
        raise UserError(f"A port is a number from 1 to 65535, not {port}.")
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
