"""``kill -9`` at any moment, then ``activebdl resume``: the same run as without."""

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from activebdl.journal import Journal
from activebdl.journal_reading import read_rounds

COMMAND = [
    sys.executable, "-m", "activebdl", "run", "digits-small", "--strategy", "power_bald", "--budget", "80",
    "--set", "posterior.training.steps=60", "--no-mlflow", "--name", "mine",
]  # fmt: skip
RESUME = [sys.executable, "-m", "activebdl", "resume", "mine", "--no-mlflow"]


def what_counts(folder: Path) -> list[Any]:
    """Selections, scores, answers and results, to the last bit; not the clock."""
    path = folder / "runs" / "mine" / "journal.sqlite"
    with Journal(path) as journal:
        asked = [journal.request(round, 0) for round in range(4)]
        answers = [journal.annotations(round, 0) for round in range(4)]
    rounds = read_rounds(path)
    return [
        [(request.ids, request.scores) for request in asked if request],
        [{id: answer.label for id, answer in each.items()} for each in answers],
        [(r.n_labels, r.results["metrics"], r.results["confusion"], r.results["reliability"]) for r in rounds],
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], float, Path]:
    """An uninterrupted run, and how long it took once the journal was there."""
    folder = tmp_path_factory.mktemp("whole")
    process = subprocess.Popen(COMMAND, cwd=folder, stdout=subprocess.DEVNULL)
    begin = _wait_for_journal(folder, process)
    assert process.wait(240) == 0
    counts = what_counts(folder)
    assert [n for n, *_ in counts[2]] == [20, 40, 60, 80]
    return counts, time.perf_counter() - begin, folder


@pytest.mark.parametrize("kills", [1, 2])
def test_a_killed_run_is_resumed_to_the_same_bits(
    whole: tuple[list[Any], float, Path], kills: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected, duration, _ = whole
    moments = random.Random(request.node.nodeid)
    process = subprocess.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.DEVNULL)
    _wait_for_journal(tmp_path, process)
    for kill in range(kills):
        time.sleep(moments.random() * duration)
        process.kill()
        process.wait()
        if kill + 1 < kills:
            process = subprocess.Popen(RESUME, cwd=tmp_path, stdout=subprocess.DEVNULL)
    subprocess.run(RESUME, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, timeout=240)
    assert what_counts(tmp_path) == expected


def test_a_run_that_is_alive_cannot_be_resumed_and_a_finished_one_can(
    whole: tuple[list[Any], float, Path], tmp_path: Path
) -> None:
    expected, _, folder = whole
    shutil.copytree(folder / "runs", tmp_path / "runs")
    with Journal(tmp_path / "runs" / "mine" / "journal.sqlite"):
        refused = subprocess.run(RESUME, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
    assert refused.returncode == 2
    assert "Another process is working on this run" in refused.stderr
    spec = tmp_path / "runs" / "mine" / "spec.yaml"
    text = spec.read_text()
    spec.unlink()  # as a kill leaves it between the journal's first lines and this file
    subprocess.run(RESUME, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, timeout=240)
    assert what_counts(tmp_path) == expected
    assert spec.read_text() == text


def _wait_for_journal(folder: Path, process: subprocess.Popen[bytes]) -> float:
    """Until the spec is in the journal: before that there is nothing to resume."""
    spec = folder / "runs" / "mine" / "spec.yaml"
    while not spec.exists():
        assert process.poll() is None
        time.sleep(0.02)
    return time.perf_counter()


def test_a_killed_run_has_each_point_once_in_mlflow(whole: tuple[list[Any], float, Path], tmp_path: Path) -> None:
    expected, _, _ = whole
    run, resume = ([part for part in command if part != "--no-mlflow"] for command in (COMMAND, RESUME))
    process = subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:  # killed when the second round has just been told, while MLflow is being told
        if line.lstrip().startswith("40 "):
            break
    process.kill()
    process.wait()
    process.stdout.close()
    subprocess.run(resume, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, timeout=240)
    assert what_counts(tmp_path) == expected
    db = sqlite3.connect(tmp_path / "runs" / "mlflow.db")
    points = db.execute("SELECT step, value FROM metrics WHERE key = 'accuracy' ORDER BY step").fetchall()
    status = db.execute("SELECT status FROM runs").fetchall()
    db.close()
    assert points == [(n, metrics["accuracy"]) for n, metrics, *_ in expected[2]]
    assert status == [("FINISHED",)]
