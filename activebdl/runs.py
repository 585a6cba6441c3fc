"""Running what a spec describes, in a folder of its own.

    runs/NAME/journal.sqlite     the spec, what was asked and answered, how each round went
    runs/NAME/spec.yaml          the spec once more, for people
    runs/NAME/model.pkl          at the end: what was learned, to predict with, see `activebdl.load_model`

A run is resumed from its journal alone.
"""

import contextlib
import itertools
import math
import uuid
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from activebdl.build import build, resolved
from activebdl.candidates import Candidates
from activebdl.cluster import Cluster
from activebdl.data import ActiveDataset
from activebdl.devices import describe
from activebdl.errors import UserError, told
from activebdl.files import MODEL, write_safely
from activebdl.journal import Journal
from activebdl.loop import ActiveLearning
from activebdl.progress import bars, rounds_bar, say
from activebdl.report import Curve, curve_of
from activebdl.rounds import Round
from activebdl.run_folders import JOURNAL, SPEC_FILE, begun, spec_of
from activebdl.spec import Named, RunSpec, spec_text
from activebdl.training import Training

TrackRound = Callable[[ActiveDataset, Round], object]
"""Told each round, those before a resume too."""


class Tracking(Protocol):
    """Where rounds are sent, beside the journal; see `activebdl.tracking.store`."""

    def run(self, spec: RunSpec, name: str, uid: str, model: Path | None = None) -> AbstractContextManager[TrackRound]:
        """One run, or the rest of it: the ``uid`` tells that it is the same.

        ``model`` is the file that has what it learned, if it is there when the run has ended well.
        """
        ...

    def comparison(self, name: str, uid: str) -> AbstractContextManager["Tracking"]:
        """A comparison, under which its runs lie."""
        ...


class _NoTracking:
    @contextlib.contextmanager
    def run(self, spec: RunSpec, name: str, uid: str, model: Path | None = None) -> Generator[TrackRound]:
        yield lambda dataset, round: None

    @contextlib.contextmanager
    def comparison(self, name: str, uid: str) -> Generator[Tracking]:
        yield self


NO_TRACKING: Tracking = _NoTracking()


def start(
    spec: RunSpec,
    folder: Path,
    *,
    tracking: Tracking = NO_TRACKING,
    dataset: ActiveDataset | None = None,
    cluster: Cluster | None = None,
) -> Curve:
    """Makes the folder and runs the spec in it, to the end.

    Args:
        spec: What the run is.
        folder: Where it lives; it must not be there yet.
        tracking: Sends the rounds to MLflow.
        dataset: The data set, when it is at hand already.
        cluster: Where its shards are looked at, if it has some.

    Raises:
        UserError: Anything that cannot work, before the folder is made and anything is trained.
    """
    spec = resolved(spec)
    cycle = build(spec, dataset=dataset, folder=folder, progress=bars, cluster=cluster)
    with Journal(folder / JOURNAL) as journal:
        journal.note("uid", uuid.uuid4().hex)
        _note(spec, folder, journal)  # last: with it the run has begun
        return _go(cycle, spec, folder, journal, tracking)


def resume(
    folder: Path,
    *,
    tracking: Tracking = NO_TRACKING,
    dataset: ActiveDataset | None = None,
    oracle: Named | None = None,
    cluster: Cluster | None = None,
    spec: RunSpec | None = None,
) -> Curve:
    """Goes on with a run where it stopped; what is finished is only told again.

    Args:
        folder: Where it lives.
        tracking: Sends the rounds to MLflow.
        dataset: The data set, when it is at hand already.
        oracle: Who labels from here on; None for the one it was started with.
        cluster: Where its shards are looked at, if it has some.
        spec: Its own with a larger budget, see `RunSpec.more`; None for as it was begun.

    Raises:
        UserError: There is no such run, another process is working on it, or that is another run.
    """
    was = spec_of(folder)
    if spec is None:
        spec = was
    elif not resolved(spec).continues(resolved(was)):
        raise UserError(f"The run in '{folder}' is another one than it is to be: more differs than its budget.")
    today = spec if oracle is None else spec.model_copy(update={"oracle": oracle})
    with Journal(folder / JOURNAL) as journal:
        cycle = build(today, dataset=dataset, folder=folder, progress=bars, cluster=cluster)
        _note(spec, folder, journal)
        return _go(cycle, spec, folder, journal, tracking)


def note(spec: RunSpec, folder: Path) -> None:
    """What a run is from here on: its own spec with a larger budget; one that another process holds stays as it is."""
    with contextlib.suppress(UserError), Journal(folder / JOURNAL) as journal:
        _note(spec, folder, journal)


def _note(spec: RunSpec, folder: Path, journal: Journal) -> None:
    if begun(folder) != spec:
        journal.note("spec", spec.model_dump(mode="json"))
    file, text = folder / SPEC_FILE, spec_text(spec)
    if not file.exists() or file.read_text(encoding="utf-8") != text:  # or it was killed before that was written
        write_safely(file, text)


def _go(cycle: ActiveLearning, spec: RunSpec, folder: Path, journal: Journal, tracking: Tracking) -> Curve:
    rounds: list[Round] = []
    done = _done(journal)
    last = journal.round(done - 1)
    say(f"{folder.name}: {_what(cycle)}")
    stopped = None if last is None else last.results.get("stopped")
    done_all = last is not None and last.n_labels >= cycle.counts[-1]
    is_over = done_all or any(
        reason is not None and not cycle.asking.was_poorer(reason) for reason in (stopped, journal.about("ended"))
    )
    if is_over:
        say("  finished before; this is what it brought")
    elif last is not None:
        say(f"  goes on with {last.n_labels:,} of {cycle.counts[-1]:,} labels")
    say(_header(cycle.dataset))
    uid: str = journal.about("uid")
    model = folder / MODEL
    if not is_over:
        model.unlink(missing_ok=True)  # of fewer labels
    with tracking.run(spec, folder.name, uid, model) as track, rounds_bar(len(cycle.counts), done) as advance:
        for round in cycle.run(journal):
            rounds.append(round)
            say(_line(round))
            track(cycle.dataset, round)
            if len(rounds) > done:
                advance(1)
        if spec.keep_model and (len(rounds) > done or not model.exists()):
            _keep(cycle, model)
    ended = rounds[-1].stopped or journal.about("ended")
    if ended is not None:
        say(f"  stopped: {ended}")
    return curve_of(spec, rounds, stopped=ended is not None)


def _keep(cycle: ActiveLearning, model: Path) -> None:
    """Writes what was learned, which is fitted again where another process did that; the run is done without it."""
    for left in model.parent.glob(f".{model.name}.*"):  # by a process that was killed
        left.unlink(missing_ok=True)
    try:
        cycle.predictor().save(model)
    except Exception as error:
        say(f"  the model is not kept: {error if isinstance(error, UserError) else told(error)}")


def _done(journal: Journal) -> int:
    number = 0
    while journal.round(number) is not None:
        number += 1
    return number


def _what(cycle: ActiveLearning) -> str:
    data, counts = cycle.dataset, cycle.counts
    return (
        f"pool {len(data.pool):,}, test {len(data.test):,}, {len(counts)} rounds from {counts[0]:,} to "
        f"{counts[-1]:,} labels, on {describe(cycle.device)}{_learns(cycle)}{_sees(cycle)}{_may_end(cycle)}"
    )


def _learns(cycle: ActiveLearning) -> str:
    """What a run makes of the pool without labels, and from where it looks at items."""
    learner = cycle.learner
    training = getattr(learner.method, "training", None)
    guesses = training.pseudo_labels if isinstance(training, Training) else None
    told: list[str] = []
    if learner.pretraining is not None:
        told.append("features learned from the pool before the first label")
    if guesses is not None:
        since = f", from {guesses.from_labels} labels on" if guesses.from_labels else ""
        told.append(f"pseudo-labels of the pool in every fit{since}")
    if cycle.views is not None:
        told.append(f"items predicted from {cycle.views.count} views")
    return f"\n  {', '.join(told)}" if told else ""


def _sees(cycle: ActiveLearning) -> str:
    """What the strategy looks at, so that nothing is left out silently."""
    candidates, strategy = cycle.candidates, cycle.strategy
    if not strategy.needs:
        return ""
    if not strategy.needs_model:
        candidates = Candidates()
    fewest = min((count for count in (candidates.random, candidates.top) if count is not None), default=math.inf)
    more = max((b - a for a, b in itertools.pairwise(cycle.counts)), default=0) > fewest
    how = ""
    if cycle.race.before(cycle.draws) and strategy.needs_model:
        told = "by a race: " + cycle.race.told(cycle.draws)
        how = f", {told if strategy.score is not None else 'all draws of each, for it is no score that could race'}"
    return f"\n  {strategy.name} sees {candidates}{', or as many as it asks for,' if more else ''} in each round{how}"


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
