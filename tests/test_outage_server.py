"""Runs whose MLflow server is killed in the middle, hangs or never comes back: the points are those of a quiet run."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from activebdl.build import build, resolved
from activebdl.data import ActiveDataset
from activebdl.outbox import Outbox
from activebdl.rounds import Round
from activebdl.runs import TrackRound, resume, start
from activebdl.spec import RunSpec, read_spec
from activebdl.sweep import compare
from activebdl.tracking import MlflowTracking

pytestmark = pytest.mark.slow

Points = dict[tuple[str, str], list[tuple[int, float]]]
Actions = Mapping[tuple[str, int], Callable[[], object]]


class Server:
    """A real server of this machine, with its store in a folder; it comes back on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'store.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "log").open("ab") as log:  # a group of its own, for it has workers
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=self.folder
            )
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def rows(self, sql: str) -> list[Any]:
        """What its database says."""
        with closing(sqlite3.connect(self.folder / "store.db")) as db:
            return db.execute(sql).fetchall()

    def points(self) -> Points:
        """Of each run and metric, as they lie in the database; of times, the steps alone."""
        found: Points = {}
        rows = self.rows(
            "SELECT name, key, step, value FROM metrics JOIN runs USING (run_uuid) "
            "WHERE lifecycle_stage = 'active' ORDER BY name, key, step, value"
        )
        for name, key, step, value in rows:
            found.setdefault((name, key), []).append((step, 0.0 if key.startswith("time/") else value))
        return found

    def runs(self) -> list[tuple[str, str]]:
        with sqlite3.connect(self.folder / "store.db") as db:
            rows = db.execute("SELECT name, status FROM runs WHERE lifecycle_stage = 'active' ORDER BY name").fetchall()
        db.close()
        return rows

    def files(self) -> list[str]:
        artifacts = self.folder / "artifacts"  # experiment / run / "artifacts" / file
        return sorted("/".join(file.relative_to(artifacts).parts[3:]) for file in artifacts.rglob("*.*"))


class Told:
    """Tracking that does something before it tells the store of a round, and lets an hour pass.

    Args:
        inner: The tracking.
        before: What to do, by the run's name and the number of its round; -1 is before it begins.
        clock: The outbox's, in seconds.
    """

    def __init__(self, inner: Any, before: Actions, clock: list[float]) -> None:
        self.inner, self.before, self.clock = inner, before, clock

    @contextmanager
    def run(self, spec: RunSpec, name: str, uid: str, model: Path | None = None) -> Generator[TrackRound]:
        self._do(name, -1)
        with self.inner.run(spec, name, uid, model) as track:

            def first(dataset: ActiveDataset, round: Round) -> None:
                self._do(name, round.number)
                track(dataset, round)

            yield first

    @contextmanager
    def comparison(self, name: str, uid: str) -> Generator["Told"]:
        with self.inner.comparison(name, uid) as inner:
            yield Told(inner, self.before, self.clock)

    def _do(self, name: str, number: int) -> None:
        self.clock[0] += 3600.0
        self.before.get((name, number), lambda: None)()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Server]:
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return resolved(read_spec("digits-small", {"budget": 100, "posterior.training.steps": 5, "draws": 4}))


@pytest.fixture(scope="module")
def quiet(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Points, list[str]]:
    """What a server has of a run that nothing interrupts."""
    server = Server(tmp_path_factory.mktemp("quiet"))
    server.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", server.url)
            start(spec, server.folder / "runs" / "mine", tracking=MlflowTracking.prepare(server.folder / "runs", "e"))
        assert server.runs() == [("mine", "FINISHED")]
        points = server.points()
        assert [step for step, _ in points["mine", "accuracy"]] == [20, 40, 60, 80, 100]
        return points, server.files()
    finally:
        server.kill()


def prepared(server: Server, before: Actions) -> Told:
    tracking, clock = MlflowTracking.prepare(server.folder / "runs", "e"), [0.0]
    tracking.outbox = Outbox(lambda: clock[0])
    return Told(tracking, before, clock)


def test_pictures_data_sets_and_the_model_reach_a_server_and_come_back(spec: RunSpec, server: Server) -> None:
    """The artifacts go through the server, which alone knows where they lie."""
    import mlflow

    tracking = MlflowTracking.prepare(server.folder / "runs", "e")
    curve = start(spec, server.folder / "runs" / "mine", tracking=tracking)
    assert server.runs() == [("mine", "FINISHED")]
    assert {"asked/00020-labels.png", "confusion_matrix.png", "selections.csv"} <= set(server.files())
    assert server.rows("SELECT name, count(*) FROM datasets") == [("digits", 2)]
    (run,) = tracking.client.search_runs([tracking.experiment_id])
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")  # by MLFLOW_TRACKING_URI
    dataset = build(spec).dataset
    labels = model.predict(np.asarray(dataset.test))["label"]
    assert (labels == [str(int(y)) for y in dataset.test_labels]).mean() == curve.metrics["accuracy"][-1]


@pytest.mark.parametrize(("killed", "back"), [(-1, 2), (1, 3), (4, None)])
def test_a_server_that_is_killed_and_comes_back(
    spec: RunSpec, quiet: tuple[Points, list[str]], server: Server, killed: int, back: int | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before: dict[tuple[str, int], Callable[[], object]] = {("mine", killed): server.kill}
    if back is not None:
        before["mine", back] = server.start
    folder = server.folder / "runs" / "mine"
    curve = start(spec, folder, tracking=prepared(server, before))
    told = capsys.readouterr().out
    assert told.count("MLflow fails") == 1
    assert told.count("MLflow is back") == (back is not None)
    assert ("activebdl resume" in told) == (back is None)
    if back is None:  # not until a resume
        assert told.count(f"activebdl resume mine --runs {server.folder / 'runs'}\n") == 1
        server.start()
        assert server.runs() == [("mine", "RUNNING")]
        assert len(server.points()["mine", "accuracy"]) == 4
        assert resume(folder, tracking=prepared(server, {})).metrics == curve.metrics
    assert (server.points(), server.files()) == quiet
    assert server.runs() == [("mine", "FINISHED")]


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact"])
def test_a_server_that_hangs_and_goes_on_with_what_was_given_up(
    spec: RunSpec, quiet: tuple[Points, list[str]], server: Server, monkeypatch: pytest.MonkeyPatch, call: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")

    def go_on() -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        server.signal(signal.SIGCONT)

    tracking = prepared(server, {("mine", 3): go_on})
    client = tracking.inner.client
    do, calls = getattr(client, call), list[int]()

    def hang(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs.get("metrics") is not None or call != "log_batch")  # not parameters, but a round
        if sum(calls) == 1 and calls[-1]:
            server.signal(signal.SIGSTOP)
        return do(*args, **kwargs)

    monkeypatch.setattr(client, call, hang)
    start(spec, server.folder / "runs" / "mine", tracking=tracking)
    told = capsys.readouterr().out
    assert told.count("MLflow fails") == told.count("MLflow is back") == 1
    assert (server.points(), server.files()) == quiet
    assert server.runs() == [("mine", "FINISHED")]


def test_a_comparison_makes_up_in_its_second_run_what_the_first_could_not_tell(spec: RunSpec, server: Server) -> None:
    strategies = [{"name": "random"}, {"name": "max_entropy"}]
    spec = RunSpec.model_validate({**spec.model_dump(), "compare": {"strategies": strategies, "seeds": [0]}})
    compare(spec, server.folder / "runs" / "quiet", tracking=prepared(server, {}))
    names = [name for name, _ in server.runs() if name != "quiet"]
    assert len(names) == 2
    expected, files = server.points(), server.files()
    first, second = sorted(names, key=lambda name: "max_entropy" in name)
    before = {(first, 1): server.kill, (second, 2): server.start}
    compare(spec, server.folder / "runs" / "both", tracking=prepared(server, before))
    twice = {key: sorted(points * 2) for key, points in expected.items()}
    assert server.points() == twice
    assert server.files() == sorted(files * 2)
    assert {status for _, status in server.runs()} == {"FINISHED"} and len(server.runs()) == 6
    parents = server.rows(
        "SELECT parent.name, count(*) FROM tags JOIN runs parent ON parent.run_uuid = tags.value "
        "WHERE tags.key = 'mlflow.parentRunId' GROUP BY parent.name ORDER BY 1"
    )
    assert parents == [("both", 2), ("quiet", 2)]
