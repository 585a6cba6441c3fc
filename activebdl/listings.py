"""What is registered, by name: rows of a name and what it is about, as `activebdl list` shows them."""

import dataclasses
import inspect
import json
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from activebdl.build import plain
from activebdl.data import datasets
from activebdl.errors import UserError
from activebdl.networks import networks
from activebdl.oracles import oracles
from activebdl.posteriors import posteriors
from activebdl.registry import Registry
from activebdl.stopping import stopping_rules
from activebdl.strategies import PER_COST, SCORES, strategies
from activebdl.strategies._gallery import COLUMNS, LETTERS, facts
from activebdl.strategies._selection import DEFAULT_BETA, PAPER, RULES
from activebdl.training import Training

T = TypeVar("T")
Rows = list[tuple[str, str]]
WIDTH = 78  # of what stands beside a name: with the longest, 100 columns


def listings() -> dict[str, Callable[[], Rows]]:
    """Each kind of thing that is registered, and what lists it."""
    return {
        "strategies": _strategies,
        "posteriors": _posteriors,
        "networks": lambda: _registered(networks),
        "datasets": lambda: _registered(datasets),
        "oracles": lambda: _registered(oracles),
        "stopping": _stopping,
    }


def _strategies() -> Rows:
    known, broken = _loaded(strategies)
    told = [COLUMNS, *(facts(strategy) for _, strategy in known)]
    widths = [max(len(row[i]) for row in told) for i in range(len(COLUMNS))]

    def columns(row: tuple[str, ...]) -> tuple[str, str]:
        return "", "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))

    rows: Rows = [("", "what is asked for: the highest scores first"), columns(COLUMNS)]
    for name, strategy in known:
        rows += [(name, _first_line(strategy.doc)), columns(facts(strategy))]
        rows += [("", f"  {key} = {value}") for key, value in _settings("strategy", strategy.settings)]
    for name, rule in RULES.items():
        about = _first_line(inspect.getdoc(rule)).partition(".")[0]
        rows += [(f"{name}_", f"In front of a score: {about[:1].lower()}{about[1:]}.")]
        rows += [columns(("score", "any", SCORES, "draws", PAPER)), ("", f"  strategy.beta = {DEFAULT_BETA}")]
    rows += [(PER_COST, "In front of a score, behind these: the score for each unit of what the label costs."), *broken]
    return [*rows, *(("", line) for line in textwrap.wrap(LETTERS, WIDTH))]


def _loaded(registry: Registry[T]) -> tuple[list[tuple[str, T]], Rows]:
    """What can be had, by name, and a row for each thing of another package that cannot."""
    known: list[tuple[str, T]] = []
    broken: Rows = []
    for name in registry.names():
        try:
            known.append((name, registry.get(name)))
        except UserError as error:
            broken.append((name, str(error)))
    return known, broken


def _posteriors() -> Rows:
    known, broken = _loaded(posteriors)
    rows: Rows = []
    for name, method in known:
        rows.append((name, _first_line(inspect.getdoc(method))))
        if dataclasses.is_dataclass(method):
            own = {key: value for key, value in plain(method()).items() if key != "training"}
            rows += [("", f"  {key} = {value}") for key, value in _settings("posterior", own)]
    training = _settings("posterior.training", plain(Training()))
    return [
        *rows,
        *broken,
        ("all of them", "how the network is trained"),
        *(("", f"  {key} = {value}") for key, value in training),
    ]


def _stopping() -> Rows:
    """What each rule does, and its settings with their defaults."""
    known, broken = _loaded(stopping_rules)
    rows: Rows = []
    for name, rule in known:
        settings = [
            f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default}" for f in dataclasses.fields(rule)
        ]
        rows.append((name, f"{_first_line(inspect.getdoc(rule)).rstrip('.')}: {', '.join(settings)}"))
    return rows + broken


def _settings(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The keys that --set takes, with their defaults."""
    if isinstance(value, dict):
        for name, deeper in value.items():  # pyright: ignore[reportUnknownVariableType]
            yield from _settings(f"{key}.{name}", deeper)
    else:
        yield key, json.dumps(value, default=str)


def _registered(registry: Registry[Any]) -> Rows:
    known, broken = _loaded(registry)
    return [(name, _first_line(inspect.getdoc(thing))) for name, thing in known] + broken


def _first_line(doc: str | None) -> str:
    return (doc or "").partition("\n")[0]
