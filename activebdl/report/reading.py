"""Runs on the disk as what is to be reported: studies, each of runs that share one protocol."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from activebdl.annotations import standing
from activebdl.build import make_strategy, resolved
from activebdl.errors import UserError
from activebdl.files import COMMON
from activebdl.journal_reading import read_about, read_history
from activebdl.report.curves import Curve, by_label
from activebdl.rounds import Round
from activebdl.run_folders import (
    JOURNAL,
    RunInfo,
    asked_earlier,
    list_comparisons,
    list_runs,
    read_comparison,
    short,
)
from activebdl.settings import CHANGES_NOTHING
from activebdl.spec import Named, RunSpec

Array = np.ndarray[Any, Any]

_NO_PROTOCOL = {"experiment", "strategy", "posterior", "seed", "compare", *CHANGES_NOTHING}
_IN_COUNTS = {"initial", "budget", "query_size", "growth"}
"""What may differ among runs that are compared, and what their counts say already."""


@dataclass(frozen=True)
class Run:
    """A run on the disk."""

    name: str
    folder: Path
    info: RunInfo
    curve: Curve


@dataclass(frozen=True)
class Study:
    """Runs of one protocol.

    Args:
        name: What it is called.
        spec: Of the first run.
        runs: In the order in which their names come.
        differs: What tells its protocol from those of the others in the same folder, by setting.
        notes: What is to be said of it: runs that are under way, that stand twice, that have not begun.
    """

    name: str
    spec: RunSpec
    runs: tuple[Run, ...]
    differs: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()

    @property
    def curves(self) -> list[Curve]:
        """Of all runs."""
        return [run.curve for run in self.runs]

    def by_label(self) -> dict[str, list[Run]]:
        """The runs of each arm."""
        of = {id(run.curve): run for run in self.runs}
        return {label: [of[id(curve)] for curve in group] for label, group in by_label(self.curves).items()}


def curve_of(spec: RunSpec, rounds: Sequence[Round], *, stopped: bool, complete: bool = True) -> Curve:
    """The learning curve of a run's rounds, whether it ended before its budget, and whether it is at its end."""
    names = rounds[0].metrics
    return Curve(
        strategy=_strategy_label(spec.strategy),
        posterior=short(spec.posterior.name),
        seed=spec.seed,
        counts=tuple(round.n_labels for round in rounds),
        metrics={name: tuple(round.metrics[name] for round in rounds) for name in names},
        seconds=sum(sum(round.seconds.values()) for round in rounds),
        stopped=stopped,
        complete=complete,
    )


def find_studies(name: str, runs: Path) -> tuple[list[Study], Path | None, list[str]]:
    """What a name stands for: a folder, of a comparison or of any runs, or else an experiment.

    Returns:
        Its studies, the folder where there is one, and what is to be said of all.

    Raises:
        UserError: There is nothing of that name, or no run in it has finished a round.
    """
    for folder in (runs / name, Path(name)):
        if folder.is_dir():
            studies, notes = studies_in(folder)
            return studies, folder, notes
    notes: list[str] = []
    known = list(list_runs(runs, lambda run, error: notes.append(f"{run} cannot be read: {error}")))
    found = [(runs / info.name, info) for info in known if info.spec.experiment == name]
    if not found:
        there = sorted({*list_comparisons(runs), *(info.spec.experiment for info in known)})
        raise UserError(
            f"There is no comparison, experiment or folder '{name}' in '{runs}'. "
            f"Known: {', '.join(there) or 'none yet'}."
        )
    studies, more = _studies(name, found)
    return studies, None, notes + more


def studies_in(folder: Path) -> tuple[list[Study], list[str]]:
    """The studies of the runs in a folder, and what is to be said of all.

    Raises:
        UserError: No run in it has finished a round.
    """
    notes: list[str] = []
    infos = list_runs(folder, lambda run, error: notes.append(f"{run} cannot be read: {error}"))
    studies, more = _studies(folder.resolve().name, [(folder / info.name, info) for info in infos])
    return studies, notes + more + _not_begun(folder, studies)


def class_names(run: Run) -> list[str]:
    """Of the run's data set; none for numbers."""
    return read_about(run.folder / JOURNAL)["identity"]["classes"]


def asked_shares(runs: Sequence[Run]) -> Array | None:
    """The mean share of each class in what was asked for after the start, ``[rounds - 1, classes]``; None for numbers.

    A round in which a run asked for nothing that has a label is not a number.
    """
    classes = len(class_names(runs[0]))
    rounds = min(len(run.info.rounds) for run in runs)
    if classes == 0 or rounds < 2:
        return None
    shares = np.full((len(runs), rounds - 1, classes), np.nan)
    for i, run in enumerate(runs):
        lines, _ = read_history(run.folder / JOURNAL)
        asked_in = {line.annotation.id: line.asked_in for line in lines}
        counts = Counter((asked_in[id], said.label) for id, said in standing(line.annotation for line in lines).items())
        for number in range(1, rounds):
            of_class = np.array([counts[number, label] for label in range(classes)], dtype=float)
            if of_class.any():
                shares[i, number - 1] = of_class / of_class.sum()
    told = ~np.isnan(shares).all(axis=0)
    return np.where(told, np.nansum(shares, axis=0) / np.maximum((~np.isnan(shares)).sum(axis=0), 1), np.nan)


def phase_seconds(runs: Sequence[Run]) -> dict[str, float]:
    """What a run spent on each phase, on average."""
    total: Counter[str] = Counter()
    for run in runs:
        for record in run.info.rounds:
            total.update(record.results["seconds"])
    return {phase: seconds / len(runs) for phase, seconds in total.items()}


def _studies(name: str, found: Sequence[tuple[Path, RunInfo]]) -> tuple[list[Study], list[str]]:
    begun = [(folder, info) for folder, info in found if info.rounds]
    notes = [f"{folder.name} has not finished its first round." for folder, info in found if not info.rounds]
    if not begun:
        raise UserError(f"There is nothing to report of '{name}' yet: no run in it has finished a round.")
    protocols: list[dict[str, Any]] = []
    groups: list[list[tuple[Path, RunInfo]]] = []
    for folder, info in begun:
        protocol = _protocol(info.spec)
        if protocol not in protocols:
            protocols.append(protocol)
            groups.append([])
        groups[protocols.index(protocol)].append((folder, info))
    differing = _differing(protocols)
    studies: list[Study] = []
    for number, (protocol, group) in enumerate(zip(protocols, groups, strict=True), start=1):
        called = name if len(groups) == 1 else f"{name}-{number}"
        runs, own = _runs_of(group)
        told = {key: _shown(protocol.get(key)) for key in differing}
        studies.append(Study(called, group[0][1].spec, tuple(runs), told, tuple(own)))
    return studies, notes


def _runs_of(group: Sequence[tuple[Path, RunInfo]]) -> tuple[list[Run], list[str]]:
    """The runs of one protocol, each arm and seed once, and what is to be said of them."""
    posteriors = _told_apart([_written_out(info.spec).posterior for _, info in group])
    best: dict[tuple[str, str, int], Run] = {}
    notes: list[str] = []
    for (folder, info), posterior in zip(group, posteriors, strict=True):
        rounds = [Round.of(number, (), record) for number, record in enumerate(info.rounds)]
        curve = curve_of(info.spec, rounds, stopped=info.stopped is not None, complete=info.finished)
        curve = replace(curve, posterior=posterior)
        run = Run(folder.name, folder, info, curve)
        key = (curve.strategy, posterior, curve.seed)
        other = best.get(key)
        if other is not None:
            run, left = (run, other) if len(info.rounds) > len(other.info.rounds) else (other, run)
            notes.append(f"{left.folder} is left out: {run.folder} is of the same strategy, posterior and seed.")
        best[key] = run
    return list(best.values()), notes


def _not_begun(folder: Path, studies: Sequence[Study]) -> list[str]:
    """What a comparison has still to begin."""
    comparison = read_comparison(folder) if (folder / COMMON).is_file() else None
    if comparison is None:
        return []
    there = {
        (run.curve.strategy, short(run.info.spec.posterior.name), run.curve.seed)
        for study in studies
        for run in study.runs
    }
    missing: dict[str, None] = {}
    for wanted in (comparison.compare, *asked_earlier(folder)):
        for strategy, posterior, seed in product(
            map(_strategy_label, wanted.strategies), wanted.posteriors or (comparison.posterior,), wanted.seeds
        ):
            if (strategy, short(posterior.name), seed) not in there:
                called = f", {short(posterior.name)}" if wanted.posteriors else ""
                missing[f"{strategy}{called} with seed {seed}"] = None
    if not missing:
        return []
    more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
    return [f"The comparison is not at its end: nothing yet of {', '.join(list(missing)[:6])}{more}."]


def _strategy_label(named: Named) -> str:
    try:
        return make_strategy(named).label
    except UserError:  # one of the user's own that is not there any more
        return short(named.name)


def _protocol(spec: RunSpec) -> dict[str, Any]:
    """All settings that runs must share to be compared, by dotted key."""
    return flat(_written_out(spec).model_dump(mode="json", exclude=_NO_PROTOCOL | _IN_COUNTS))


def _written_out(spec: RunSpec) -> RunSpec:
    """With every default, those too that are younger than the run."""
    try:
        return resolved(spec)
    except UserError:  # it names something that is not there any more
        return spec.model_copy(update={"counts": spec.label_counts()})


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The leaves of nested settings by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}  # pyright: ignore[reportUnknownArgumentType]
    return leaves


def _differing(protocols: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = list(dict.fromkeys(key for protocol in protocols for key in protocol))
    return [key for key in keys if any(each.get(key) != protocols[0].get(key) for each in protocols)]


def _shown(value: Any) -> str:
    """A setting's value; of many counts the ends."""
    if isinstance(value, list) and len(value) > 6:  # pyright: ignore[reportUnknownArgumentType]
        return f"{value[0]} to {value[-1]} in {len(value)} steps"  # pyright: ignore[reportUnknownArgumentType]
    return str(value)


def _told_apart(named: Sequence[Named]) -> list[str]:
    """A name for each, the same for the same: with the options that tell apart two of one name."""
    options = [flat(each.options) for each in named]
    names: list[str] = []
    for each, own in zip(named, options, strict=True):
        alike = [other for one, other in zip(named, options, strict=True) if one.name == each.name]
        keys = _differing(alike)
        told = ", ".join(f"{key.rpartition('.')[2]}={_shown(own.get(key))}" for key in keys)
        names.append(f"{short(each.name)}({told})" if told else short(each.name))
    return names
