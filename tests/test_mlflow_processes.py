"""Several processes and one store that none of them has made yet: every run is there whole, and nobody complains."""

import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

SETTINGS = {"budget": 40, "posterior.training.steps": 2, "draws": 2}
IMPORTS = [  # done once, for they take most of the time
    "activebdl.tracking", "activebdl.build", "activebdl.pictures", "torch._dynamo", "sklearn.datasets",
    "matplotlib.backends.backend_agg", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store",
]  # fmt: skip
NAMES = [f"run-{number}" for number in range(8)]


def check(runs: Path, names: list[str], told: list[str]) -> None:
    for words in told:
        assert "    40 " in words
        bad = [word for word in ("fails", "misses", "locked", "arning", "Error", "Traceback") if word in words]
        assert not bad, words
    with closing(sqlite3.connect(runs / "mlflow.db")) as db:
        assert db.execute("SELECT name, status FROM runs ORDER BY name").fetchall() == [
            (name, "FINISHED") for name in names
        ]
        points = db.execute(
            "SELECT name, group_concat(step) FROM (SELECT * FROM metrics ORDER BY step) JOIN runs USING (run_uuid) "
            "WHERE key = 'accuracy' GROUP BY name ORDER BY name"
        )
        assert points.fetchall() == [(name, "20,40") for name in names]
        models = db.execute(
            "SELECT count(*), count(DISTINCT source_run_id) FROM logged_models WHERE status = "
            "(SELECT max(status) FROM logged_models)"
        )
        assert models.fetchone() == (len(names), len(names))
        inputs = db.execute("SELECT count(*), count(DISTINCT destination_id) FROM inputs WHERE source_type = 'DATASET'")
        assert inputs.fetchone() == (2 * len(names), len(names))
        assert db.execute("SELECT count(*) FROM datasets").fetchone() == (2,)  # the same pool and test set for all


def run(runs: Path, name: str, words: Path) -> None:
    """In a process of its own: what `activebdl run` does."""
    from activebdl.build import resolved
    from activebdl.runs import start
    from activebdl.spec import read_spec
    from activebdl.tracking import MlflowTracking

    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with words.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        tracking = MlflowTracking.prepare(runs, "digits")
        start(resolved(read_spec("digits-small", SETTINGS)), runs / name, tracking=tracking)


def test_processes_share_a_fresh_store(tmp_path: Path) -> None:
    context, names = multiprocessing.get_context("forkserver"), NAMES[:4]
    context.set_forkserver_preload(IMPORTS)
    words = [tmp_path / f"{name}.txt" for name in names]
    processes = [
        context.Process(target=run, args=(tmp_path / "runs", name, file))
        for name, file in zip(names, words, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    check(tmp_path / "runs", names, [file.read_text() for file in words])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_eight_commands_share_a_fresh_store(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "activebdl", "run", "digits-small", *settings]
    processes = [
        subprocess.Popen(
            [*command, "--name", name], cwd=tmp_path, env=environment | {"OMP_NUM_THREADS": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for name in NAMES
    ]  # fmt: skip
    told = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, told
    check(tmp_path / "runs", NAMES, told)
