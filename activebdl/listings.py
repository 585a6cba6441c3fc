"""What there is, by name: rows of a name and what it is about, as `activebdl list` shows them."""

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from activebdl.build import plain
from activebdl.data import datasets
from activebdl.networks import networks
from activebdl.oracles import oracles
from activebdl.posteriors import posteriors
from activebdl.registry import Registry
from activebdl.runs import list_runs
from activebdl.spec import about_preset, presets
from activebdl.stopping import stopping_rules
from activebdl.strategies import strategies
from activebdl.sweep import list_comparisons
from activebdl.training import Training

Rows = list[tuple[str, str]]


def listings(runs: Path) -> dict[str, Callable[[], Rows]]:
    """Each kind of thing, and what lists it.

    Args:
        runs: The folder of all runs.
    """
    return {
        "presets": lambda: [(name, about_preset(name)) for name in presets()],
        "strategies": _strategies,
        "posteriors": _posteriors,
        "networks": lambda: _registered(networks),
        "datasets": lambda: _registered(datasets),
        "oracles": lambda: _registered(oracles),
        "stopping": _stopping,
        "runs": lambda: _runs(runs),
    }


def _strategies() -> Rows:
    known = [strategies.get(name) for name in strategies.names()]
    rows = [(s.name, ("numbers: " if s.target == "numbers" else "") + _first_line(s.doc)) for s in known]
    return [
        *rows,
        ("power_, softmax_, softrank_", "in front of a score: a stochastic choice, less redundant"),
        ("per_cost_", "in front of a score, behind these: for each unit of what an item's label costs"),
    ]


def _posteriors() -> Rows:
    rows: Rows = []
    for name in posteriors.names():
        method = posteriors.get(name)
        rows.append((name, _first_line(inspect.getdoc(method))))
        if dataclasses.is_dataclass(method):
            own = {key: value for key, value in plain(method()).items() if key != "training"}
            rows += [("", f"  {key} = {value}") for key, value in _settings("posterior", own)]
    training = _settings("posterior.training", plain(Training()))
    return [
        *rows,
        ("all of them", "how the network is trained"),
        *(("", f"  {key} = {value}") for key, value in training),
    ]


def _stopping() -> Rows:
    """What each rule does, and its settings with their defaults."""
    rows: Rows = []
    for name in stopping_rules.names():
        rule = stopping_rules.get(name)
        settings = [f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default}" for f in fields(rule)]
        rows.append((name, f"{_first_line(inspect.getdoc(rule)).rstrip('.')}: {', '.join(settings)}"))
    return rows


def _settings(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The keys that --set takes, with their defaults."""
    if isinstance(value, dict):
        for name, deeper in value.items():  # pyright: ignore[reportUnknownVariableType]
            yield from _settings(f"{key}.{name}", deeper)
    else:
        yield key, json.dumps(value)


def _runs(runs: Path) -> Rows:
    rows: Rows = [(name, "comparison") for name in list_comparisons(runs)]
    for info in list_runs(runs):
        done, total = len(info.rounds), len(info.spec.label_counts())
        last = info.rounds[-1] if info.rounds else None
        reached = _reached(last.results["metrics"]) if last else ""
        if last and not info.stopped:
            reached += f" at {last.n_labels:,} labels"
        state = "finished" if info.finished else f"round {done} of {total}"
        why = f", stopped at {last.n_labels:,} labels: {info.stopped}" if last and info.stopped else ""
        rows.append((info.name, f"{state:<16}{reached}{why}"))
    return rows


def _reached(metrics: dict[str, float]) -> str:
    return f"{100 * metrics['accuracy']:.2f} %" if "accuracy" in metrics else f"RMSE {metrics['rmse']:.4g}"


def _registered(registry: Registry[Any]) -> Rows:
    return [(name, _first_line(inspect.getdoc(registry.get(name)))) for name in registry.names()]


def _first_line(doc: str | None) -> str:
    return (doc or "").partition("\n")[0]
