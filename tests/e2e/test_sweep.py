"""Comparisons in several processes: the same as in one, whoever is killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from activebdl.journal_reading import read_rounds
from activebdl.run_folders import JOURNAL, begun
from activebdl.spec import RunSpec, spec_text
from activebdl.sweep import FAILED, Unfinished, compare, executor_for
from activebdl.sweep._processes import OUTPUT
from tests.comparisons import asked, tiny, told

MINE = """
import os, time
from pathlib import Path

calls = 0

def until_mended(log_probs, do):
    global calls
    calls += 2 < len(log_probs) < 256  # the last chunk of a pool, and not the trial on two items
    if calls == 2 and not Path("mended").exists():
        do()
    return log_probs.exp().mean(1).max(1).values

def fails(log_probs):
    return until_mended(log_probs, lambda: 1 / 0)

def dies(log_probs):
    return until_mended(log_probs, lambda: os.kill(os.getpid(), 9))

def slow(log_probs):
    time.sleep(0.05)
    return log_probs.exp().mean(1).max(1).values
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user stands; what is started there computes with as many threads as this process."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    return tmp_path


def test_several_processes_bring_what_one_brings_and_one_that_dies_or_fails_stops_no_other(place: Path) -> None:
    spec = tiny(["mine.py:dies", "mine.py:fails", "bald", "random"])
    with pytest.raises(Unfinished) as unfinished:
        compare(spec, place / "two", executor=executor_for(2))
    first, dies, fails = str(unfinished.value).splitlines()
    assert first == "2 of 4 runs failed, the others are finished:"
    assert dies == "  dies-mc_dropout-seed0: its process died with signal 9 (SIGKILL, as when memory runs out)"
    assert fails.startswith("  fails-mc_dropout-seed0: The score 'fails' fails on") and "ZeroDivisionError" in fails
    assert "mine.py" in (place / "two" / "fails-mc_dropout-seed0" / FAILED).read_text()
    assert [curve.strategy for curve in unfinished.value.curves] == ["bald", "random"]
    assert "20 " in (place / "two" / "random-mc_dropout-seed0" / OUTPUT).read_text()
    (place / "mended").touch()
    curves = compare(spec, place / "two")
    assert told(curves) == told(compare(spec, place / "one"))
    assert asked(place / "two") == asked(place / "one")


def command(place: Path, spec: RunSpec, *more: str) -> subprocess.Popen[str]:
    """The comparison from the command line, in a session of its own, which tells whom it has left behind."""
    (place / "mine.yaml").write_text(spec_text(spec))
    arguments = [sys.executable, "-m", "activebdl", "compare", "mine.yaml", "--name", "two", "--no-mlflow", *more]
    return subprocess.Popen(
        arguments, cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def alive(session: int) -> list[str]:
    """The processes of a session."""
    found: list[str] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            state, _, _, its_session, *_ = rest.split()
            if int(its_session) == session and state != "Z":
                found.append(name)
    return found


def wait_until(true: Callable[[], Any]) -> None:
    for _ in range(2400):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


def half_done(place: Path, process: subprocess.Popen[str]) -> bool:
    """Two runs have begun, and one of them has a round."""
    assert process.poll() is None, process.communicate()
    journals = list((place / "runs" / "two").rglob(JOURNAL))
    rounds = [len(read_rounds(journal)) for journal in journals if begun(journal.parent) is not None]
    return len(rounds) >= 2 and max(rounds) >= 1


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@needs_proc
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_driver_that_is_killed_leaves_nobody_behind_and_another_goes_on(place: Path, jobs: int) -> None:
    spec = tiny(["mine.py:slow", "random"], seeds=(0, 1))
    killed = command(place, spec, "--jobs", "2")
    wait_until(lambda: half_done(place, killed))
    killed.kill()
    killed.wait()  # not for its workers, which may still hold their journals
    curves = compare(spec, place / "runs" / "two", executor=executor_for(jobs))
    assert killed.communicate()[1] == ""
    assert not alive(killed.pid)
    assert told(curves) == told(compare(spec, place / "one"))
    assert asked(place / "runs" / "two") == asked(place / "one")
    assert len(curves) == 4


@needs_proc
@pytest.mark.slow
def test_a_stop_from_the_keyboard_stops_all_and_says_how_to_go_on(place: Path) -> None:
    spec = tiny(["mine.py:slow", "random"], seeds=(0, 1))
    process = command(place, spec, "--jobs", "2")
    wait_until(lambda: half_done(place, process))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert err == "\nStopped. Nothing is lost; go on with: activebdl resume two --jobs 2\n"
    wait_until(lambda: not alive(process.pid))
    resumed = subprocess.run([sys.executable, "-m", "activebdl", "resume", "two", "--jobs", "2", "--no-mlflow"])
    assert resumed.returncode == 0
    compare(spec, place / "one")
    assert asked(place / "runs" / "two") == asked(place / "one")


@pytest.mark.slow
def test_a_failure_is_told_below_the_table_with_exit_code_1(place: Path) -> None:
    process = command(place, tiny(["mine.py:fails", "random"]), "--jobs", "2")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "[2/2] " in out and " labels, " in out and "\r" not in out + err
    assert "labels to 90%" in out and "kept in   runs/two" in out
    assert "1 of 2 runs failed, the others are finished:\n  fails-mc_dropout-seed0: " in err
    assert err.endswith("when that is mended, go on with: activebdl resume two --jobs 2\n")
