"""Whether a run that was killed ended as one that was not, and whether a label was lost or asked for twice.

It reads the files alone, by SQLite's own means and not by the code under test.
"""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.e2e.outside import Log

Said = tuple[int, int | None, str]
"""Id, label, annotator."""


@dataclass(frozen=True)
class End:
    """How a run ended, clocks left out."""

    requests: list[Any]
    asked: list[Any]
    annotations: list[Any]
    rounds: list[Any]
    clocks: list[Any]  # of which rounds and phases
    mlflow_runs: list[Any]
    mlflow_points: list[Any]
    mlflow_clocks: list[Any]
    mlflow_latest: list[Any]
    mlflow_params: list[Any]
    mlflow_tags: list[Any]
    mlflow_models: list[Any]
    files: list[Any]

    @staticmethod
    def of(place: Path) -> "End":
        journal, store = place / "mine" / "journal.sqlite", place / "mlflow.db"
        rounds = query(journal, "SELECT round, n_labels, results FROM rounds ORDER BY round")
        results = [(round, n_labels, json.loads(text)) for round, n_labels, text in rounds]
        clocks = [(round, sorted(result.pop("seconds"))) for round, _, result in results]
        return End(
            requests=query(
                journal, "SELECT round, attempt, samples, taken_ms IS NULL FROM requests ORDER BY round, attempt"
            ),
            asked=query(
                journal,
                "SELECT round, attempt, position, id, score, prediction FROM asked ORDER BY round, attempt, position",
            ),
            annotations=query(
                journal,
                "SELECT id, annotator, revision, role, label, cost, seconds, round, attempt FROM annotations "
                "ORDER BY id, annotator, revision",
            ),
            rounds=results,
            clocks=clocks,
            mlflow_runs=query(store, "SELECT name, status, lifecycle_stage FROM runs"),
            mlflow_points=query(
                store, "SELECT key, step, value, is_nan FROM metrics WHERE key NOT LIKE 'time/%' ORDER BY 1, 2, 3"
            ),
            mlflow_clocks=query(store, "SELECT key, step FROM metrics WHERE key LIKE 'time/%' ORDER BY 1, 2"),
            mlflow_latest=query(
                store, "SELECT key, step, value FROM latest_metrics WHERE key NOT LIKE 'time/%' ORDER BY 1, 2, 3"
            ),
            mlflow_params=query(store, "SELECT key, value FROM params ORDER BY key"),
            mlflow_tags=query(store, "SELECT key, value FROM tags WHERE key != 'activebdl.uid' ORDER BY key"),
            mlflow_models=query(store, "SELECT name, status, lifecycle_stage FROM logged_models"),
            files=_files(place),
        )


def _files(place: Path) -> list[Any]:
    """What was written beside the two databases, pictures too: the names, and a digest of what is in them."""
    paths = [*place.glob("mlartifacts/**/*"), place / "mine" / "spec.yaml"]
    # Where MLflow is killed while it takes a file, it leaves its own beside the one that it takes the next time.
    files = [path for path in paths if path.is_file() and not path.name.startswith(".artifact.uploading.")]
    # The folder of a run in MLflow has the run's id for a name, that of a model the model's; a model tells when it was
    # made, so its files are compared by their names.
    found = {path: path.relative_to(place).parts for path in files}
    models = sorted(parts[3:] for parts in found.values() if parts[1] == "models")
    others = sorted(
        (parts[2:], sha256(path.read_bytes()).hexdigest()) for path, parts in found.items() if parts[1] != "models"
    )
    return [models, others]


def what_is_kept(folder: Path) -> tuple[set[int], set[Said]]:
    """What is in the journal of a run that was killed, asked and said; its files are left as they are."""
    with tempfile.TemporaryDirectory() as beside:
        for file in folder.glob("journal.sqlite*"):
            shutil.copy(file, beside)
        copy = Path(beside) / "journal.sqlite"
        if not copy.exists() or not query(copy, "SELECT 1 FROM sqlite_master WHERE name = 'annotations'"):
            return set(), set()
        said = query(copy, "SELECT id, label, annotator FROM annotations")
        return {id for (id,) in query(copy, "SELECT id FROM asked")}, set(said)


def query(path: Path, sql: str) -> list[Any]:
    db = sqlite3.connect(path)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


def judge(end: End, whole: End, log: Log) -> list[str]:
    """All that is wrong; nothing in a run that is as it should be."""
    found = [
        f"{field.name} differ: {_difference(getattr(end, field.name), getattr(whole, field.name))}"
        for field in fields(End)
        if getattr(end, field.name) != getattr(whole, field.name)
    ]
    journal = {(id, label, annotator) for id, annotator, _, _, label, *_ in end.annotations}
    return found + lost_or_asked_twice(log.read(), journal)


def lost_or_asked_twice(events: Sequence[dict[str, Any]], journal: set[Said]) -> list[str]:
    """Labels that were acknowledged and are gone, and items that were asked for again though they had an answer."""
    found: list[str] = []
    taken, answered, key_of = set[Said](), set[int](), dict[int, str]()
    for event in events:
        if event["event"] == "ack":
            taken |= {tuple(said) for said in event["said"]}
            answered |= {id for id, *_ in event["said"]}
        elif event["event"] == "corrected":
            taken.add((event["id"], event["label"], "correction"))
        elif event["event"] == "killed":
            there = {tuple(said) for said in event["said"]}
            found += [f"asked for before it was written: {id}" for id in key_of.keys() - set(event["asked"])]
            found += [f"lost: {said}, killed in {event['phase']}" for said in taken - there]
            taken |= there
            answered |= {id for id, *_ in there}
        elif event["event"] == "submit":
            found += [f"asked twice: {id}, in {event['key']}" for id in answered & set(event["ids"])]
            for id in event["ids"]:
                if key_of.setdefault(id, event["key"]) != event["key"]:
                    found.append(f"asked twice: {id}, in {key_of[id]} and {event['key']}")
    found += [f"lost: {said}, at the end" for said in taken - journal]
    given = {(event["id"], event["label"], "people") for event in events if event["event"] == "answer"}
    return found + [f"lost: {said}, which was given and never written" for said in given - journal]


def _difference(one: Sequence[Any], other: Sequence[Any]) -> str:
    """The first entry that differs."""
    for a, b in zip(one, other, strict=False):
        if a != b:
            return f"{a} is not {b}"
    return f"{len(one)} entries, not {len(other)}"
