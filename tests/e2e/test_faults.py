"""``kill -9`` at random moments, in every phase: no label is lost, none asked for twice, and the end is the same."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.verdict import Said, lost_or_asked_twice

ROOT = Path(__file__).parents[2]


def kill(folder: Path, *options: str) -> dict[str, Any]:
    """The report of `tests.e2e.faults`, which needs a process of its own: it forks, and pytest's has computed."""
    command = [sys.executable, "-m", "tests.e2e.faults", *options, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text())


def test_runs_that_are_killed_again_and_again_end_as_one_that_is_not(tmp_path: Path) -> None:
    report = kill(tmp_path / "runs", "--runs", "3", "--kills", "4", "4")
    assert report["faults"] == []
    assert report["identical"] == report["runs"] == 3
    assert report["kills"] >= 3


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_runs_are_killed_in_every_phase_and_end_as_one_that_is_not(tmp_path: Path) -> None:
    report = kill(tmp_path / "runs", "--runs", "200", "--kills", "1", "3")
    assert report["faults"] == []
    assert report["identical"] == 200
    assert report["kills"] >= 200
    assert all(report["kills by phase"].values())
    assert report["kills while a label was corrected"] > 0


SUBMIT = {"event": "submit", "key": "round-0-attempt-0", "ids": [1, 2]}
ANSWER = {"event": "answer", "id": 1, "label": 0}
ACK = {"event": "ack", "said": [[1, 0, "people"]]}
ONE: Said = (1, 0, "people")


def killed(*journal: Said, asked: Sequence[int] = (1, 2)) -> dict[str, Any]:
    return {"event": "killed", "phase": "ask", "asked": list(asked), "said": [list(said) for said in journal]}


@pytest.mark.parametrize(
    ("events", "journal", "found"),
    [
        ([SUBMIT, ANSWER, ACK, killed(ONE), SUBMIT | {"ids": [2]}], {ONE}, []),
        ([SUBMIT, ANSWER, killed(), SUBMIT], {ONE}, []),  # given, but not written: they are asked again and remember
        ([SUBMIT, ANSWER, ACK, killed()], {ONE}, ["lost: (1, 0, 'people'), killed in ask"]),
        ([SUBMIT, ANSWER, ACK], set[Said](), ["lost: (1, 0, 'people'), at the end"]),
        ([SUBMIT, ANSWER, killed(ONE), killed()], {ONE}, ["lost: (1, 0, 'people'), killed in ask"]),
        ([SUBMIT, ANSWER, killed(), SUBMIT], set[Said](), ["which was given and never written"]),
        ([SUBMIT, ANSWER, ACK, SUBMIT], {ONE}, ["asked twice: 1, in round-0-attempt-0"]),
        ([SUBMIT, ANSWER, killed(ONE), SUBMIT], {ONE}, ["asked twice: 1, in round-0-attempt-0"]),
        ([SUBMIT, killed(asked=[1])], set[Said](), ["asked for before it was written: 2"]),
        ([SUBMIT, SUBMIT | {"key": "round-1-attempt-0", "ids": [2]}], set[Said](), ["asked twice: 2, in round-0"]),
    ],
)
def test_the_verdict_tells_what_is_lost_and_what_is_asked_twice(
    events: list[dict[str, Any]], journal: set[Said], found: list[str]
) -> None:
    told = lost_or_asked_twice(events, journal)
    assert bool(told) == bool(found)
    assert all(any(words in fault for fault in told) for words in found)
