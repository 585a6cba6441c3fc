"""Runs on the disk: a folder for each, in which a journal holds all that is needed to go on with it.

    runs/NAME/journal.sqlite     the spec, what was asked and answered, how each round went
    runs/NAME/spec.yaml          the spec once more, for people

A run is resumed from its journal alone.
"""

import contextlib
import itertools
import math
import re
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from activebdl.build import build, make_strategy, resolved
from activebdl.candidates import Candidates
from activebdl.data import ActiveDataset
from activebdl.devices import describe
from activebdl.errors import UserError
from activebdl.files import write_safely
from activebdl.journal import Journal, RoundRecord, read_about, read_rounds
from activebdl.loop import ActiveLearning
from activebdl.progress import bars, rounds_bar, say
from activebdl.report import Curve
from activebdl.rounds import Round
from activebdl.spec import RunSpec, spec_text, validate

JOURNAL = "journal.sqlite"

TrackRound = Callable[[ActiveDataset, Round], object]
"""Told each round, those before a resume too."""


class Tracking(Protocol):
    """Where rounds are sent, beside the journal; see `activebdl.tracking`."""

    def run(self, spec: RunSpec, name: str, uid: str) -> AbstractContextManager[TrackRound]:
        """One run, or the rest of it: the ``uid`` tells that it is the same."""
        ...

    def comparison(self, name: str, uid: str) -> AbstractContextManager["Tracking"]:
        """A comparison, under which its runs lie."""
        ...


class _NoTracking:
    @contextlib.contextmanager
    def run(self, spec: RunSpec, name: str, uid: str) -> Generator[TrackRound]:
        yield lambda dataset, round: None

    @contextlib.contextmanager
    def comparison(self, name: str, uid: str) -> Generator[Tracking]:
        yield self


NO_TRACKING: Tracking = _NoTracking()


def run_name(spec: RunSpec) -> str:
    """What the run of a spec is called, when nobody says otherwise."""
    parts = [spec.experiment, _short(spec.strategy.name), _short(spec.posterior.name), f"seed{spec.seed}"]
    return "-".join(parts)


def folder_for(place: Path, name: str, fits: Callable[[Path], bool] = lambda folder: False) -> Path:
    """``place/name``, or ``place/name-2``, ...: the first that is not there yet, or fits."""
    folder, number = place / name, 1
    while folder.exists() and not fits(folder):
        number += 1
        folder = place / f"{name}-{number}"
    return folder


def start(
    spec: RunSpec, folder: Path, *, tracking: Tracking = NO_TRACKING, dataset: ActiveDataset | None = None
) -> Curve:
    """Makes the folder and runs the spec in it, to the end.

    Args:
        spec: What the run is.
        folder: Where it lives; it must not be there yet.
        tracking: Sends the rounds to MLflow.
        dataset: The data set, when it is at hand already.

    Raises:
        UserError: Anything that cannot work, before the folder is made and anything is trained.
    """
    spec = resolved(spec)
    cycle = build(spec, dataset=dataset, progress=bars)
    with Journal(folder / JOURNAL) as journal:
        journal.note("uid", uuid.uuid4().hex)
        journal.note("spec", spec.model_dump(mode="json"))  # last: with it the run has begun
        write_safely(folder / "spec.yaml", spec_text(spec))
        return _go(cycle, spec, folder, journal, tracking)


def resume(folder: Path, *, tracking: Tracking = NO_TRACKING, dataset: ActiveDataset | None = None) -> Curve:
    """Goes on with a run where it stopped; what is finished is only told again.

    Raises:
        UserError: There is no such run, or another process is working on it.
    """
    spec = spec_of(folder)
    with Journal(folder / JOURNAL) as journal:
        return _go(build(spec, dataset=dataset, progress=bars), spec, folder, journal, tracking)


def begun(folder: Path) -> RunSpec | None:
    """The spec of the run in a folder; None when there is none, or it stopped before its spec was written."""
    known = read_about(folder / JOURNAL).get("spec") if (folder / JOURNAL).is_file() else None
    return None if known is None else validate(known, f"the spec of '{folder.name}'")


def spec_of(folder: Path) -> RunSpec:
    """The spec of a run.

    Raises:
        UserError: There is no run, or it stopped before its spec was written.
    """
    if not (folder / JOURNAL).is_file():
        raise UserError(f"There is no run in '{folder}': it has no {JOURNAL}.")
    spec = begun(folder)
    if spec is None:
        raise UserError(f"The run in '{folder}' stopped before it began; delete the folder and start it again.")
    return spec


@dataclass(frozen=True)
class RunInfo:
    """A run as `activebdl list runs` shows it."""

    name: str
    spec: RunSpec
    rounds: list[RoundRecord]

    @property
    def stopped(self) -> str | None:
        """Why a stopping rule ended it; None where none did."""
        return self.rounds[-1].results.get("stopped") if self.rounds else None

    @property
    def finished(self) -> bool:
        """Whether all rounds are done, or a stopping rule ended it before."""
        return self.stopped is not None or len(self.rounds) == len(self.spec.label_counts())


def list_runs(runs: Path, broken: Callable[[str, UserError], object] | None = None) -> Iterator[RunInfo]:
    """All runs in a folder, those of comparisons too, by name.

    Args:
        runs: The folder.
        broken: Told the name and the trouble of each that cannot be read; without it the first is raised.
    """
    for journal in sorted(runs.rglob(JOURNAL)):
        name = str(journal.parent.relative_to(runs))
        try:
            spec = begun(journal.parent)
            info = None if spec is None else RunInfo(name, spec, read_rounds(journal))
        except UserError as error:
            if broken is None:
                raise
            broken(name, error)
            continue
        if info is not None:
            yield info


def _go(cycle: ActiveLearning, spec: RunSpec, folder: Path, journal: Journal, tracking: Tracking) -> Curve:
    rounds: list[Round] = []
    done = _done(journal)
    last = journal.round(done - 1)
    say(f"{folder.name}: {_what(cycle)}")
    if done == len(cycle.counts) or (last is not None and last.results.get("stopped") is not None):
        say("  finished before; this is what it brought")
    elif done:
        say(f"  goes on after {done} of {len(cycle.counts)} rounds")
    say(_header(cycle.dataset))
    uid: str = journal.about("uid")
    with tracking.run(spec, folder.name, uid) as track, rounds_bar(len(cycle.counts), done) as advance:
        for round in cycle.run(journal):
            rounds.append(round)
            say(_line(round))
            track(cycle.dataset, round)
            if len(rounds) > done:
                advance(1)
    if rounds[-1].stopped is not None:
        say(f"  stopped: {rounds[-1].stopped}")
    return curve_of(spec, rounds)


def curve_of(spec: RunSpec, rounds: list[Round]) -> Curve:
    """The learning curve of a run's rounds."""
    names = rounds[0].metrics
    return Curve(
        strategy=make_strategy(spec.strategy).label,
        posterior=_short(spec.posterior.name),
        seed=spec.seed,
        counts=tuple(round.n_labels for round in rounds),
        metrics={name: tuple(round.metrics[name] for round in rounds) for name in names},
        seconds=sum(sum(round.seconds.values()) for round in rounds),
        stopped=rounds[-1].stopped is not None,
    )


def _done(journal: Journal) -> int:
    number = 0
    while journal.round(number) is not None:
        number += 1
    return number


def _what(cycle: ActiveLearning) -> str:
    data, counts = cycle.dataset, cycle.counts
    return (
        f"pool {len(data.pool):,}, test {len(data.test):,}, {len(counts)} rounds from {counts[0]:,} to "
        f"{counts[-1]:,} labels, on {describe(cycle.device)}{_sees(cycle)}{_may_end(cycle)}"
    )


def _sees(cycle: ActiveLearning) -> str:
    """What the strategy looks at, so that nothing is left out silently."""
    candidates, strategy = cycle.candidates, cycle.strategy
    if not strategy.needs:
        return ""
    if not strategy.needs_model:
        candidates = Candidates()
    fewest = min((count for count in (candidates.random, candidates.top) if count is not None), default=math.inf)
    more = max((b - a for a, b in itertools.pairwise(cycle.counts)), default=0) > fewest
    return f"\n  {strategy.name} sees {candidates}{', or as many as it asks for,' if more else ''} in each round"


def _may_end(cycle: ActiveLearning) -> str:
    """Which labels no network is trained on, and what may end the run before its budget."""
    held_out = f"\n  {cycle.validation:,} of the labels are for validation" if cycle.validation else ""
    return held_out + ("" if cycle.stop is None else f"\n  ends early by {cycle.stop}")


def _header(dataset: ActiveDataset) -> str:
    metrics = "accuracy     NLL     ECE" if dataset.target.kind == "classes" else "    RMSE     NLL  in 90%"
    return f"  labels  {metrics}       fit     query      test"


def _line(round: Round) -> str:
    m, s = round.metrics, round.seconds
    if "accuracy" in m:
        metrics = f"{100 * m['accuracy']:>8.2f} %{m['nll']:>8.3f}{m['ece']:>8.3f}"
    else:
        metrics = f"{m['rmse']:>10.4g}{m['nll']:>8.3f}{100 * m['coverage_90']:>6.1f} %"
    return f"{round.n_labels:>8,}{metrics}{s['fit']:>8.1f} s{s['select'] + s['ask']:>8.1f} s{s['evaluate']:>8.1f} s"


def _short(name: str) -> str:
    """A name that a folder can have: of a reference such as path/to/file.py:name, the name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name.rpartition(":")[2])
