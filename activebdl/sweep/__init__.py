"""A comparison: every strategy with every posterior and every seed, and their curves side by side.

    runs/NAME/comparison.yaml                         what all its runs have in common, and with which budget it began
    runs/NAME/power_bald-mc_dropout-seed0/            a run each, see `activebdl.runs`
    runs/NAME/curves.png, curves.csv, table.txt       written anew after every run
    runs/NAME/report/                                 at the end, see `activebdl.report`

What is finished is not done again, and what failed is tried again. Runs with the same seed begin with the same labels.
A comparison that was given a larger budget keeps it, also when it is asked for as it was begun.
"""

import contextlib
import uuid
from collections.abc import Generator, Sequence
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from activebdl.build import build, make_dataset, resolved
from activebdl.cluster import Cluster
from activebdl.errors import UserError, Waiting
from activebdl.files import write_safely
from activebdl.progress import say
from activebdl.report import Curve
from activebdl.run_folders import COMMON, begun, comparison_file, folder_for, read_comparison, run_name
from activebdl.runs import NO_TRACKING, Tracking, note
from activebdl.spec import Comparison, RunSpec
from activebdl.sweep._child import InThisProcess
from activebdl.sweep._children import Executor, Task
from activebdl.sweep._driver import FAILED, Driver
from activebdl.sweep._processes import Processes
from activebdl.sweep._time_left import TimeLeft

__all__ = ["FAILED", "Unfinished", "compare", "comparison_folder", "executor_for"]


class Unfinished(Exception):
    """Some runs of a comparison failed; the others went on to their ends.

    Args:
        failed: Why, in one sentence, by the name of the run.
        curves: Of those that are finished.
        runs: How many there are in all.
        waits: What those say that wait for labels.
    """

    def __init__(self, failed: dict[str, str], curves: list[Curve], runs: int, waits: Sequence[str] = ()) -> None:
        self.failed, self.curves = failed, curves
        others = "the others are finished" if len(failed) + len(curves) == runs else f"{len(curves)} are finished"
        told = [f"  {name}: {reason}" for name, reason in failed.items()]
        super().__init__("\n".join([f"{len(failed)} of {runs} runs failed, {others}:", *told, *waits]))


def comparison_folder(spec: RunSpec, runs: Path, name: str | None = None) -> Path:
    """Where the comparison lives: a folder that holds the same one already, so that it goes on, or a fresh one.

    Args:
        spec: What its runs have in common; their strategies, posteriors and seeds may differ from those that are there.
        runs: The folder of all runs.
        name: Its name; the experiment's when not given.
    """
    return folder_for(runs, name or spec.experiment, lambda folder: _holds(folder, spec))


def executor_for(jobs: int | None, cluster: Cluster | None = None) -> Executor | None:
    """What runs so many children at a time, on this machine or on a cluster; None for one after the other, here.

    Raises:
        UserError: There is no such number of them.
    """
    if cluster is not None:
        from activebdl.sweep._on_ray import OnRay

        return OnRay(cluster, jobs)
    return None if jobs in (None, 1) else Processes(jobs)


def compare(
    spec: RunSpec, folder: Path, *, tracking: Tracking = NO_TRACKING, executor: Executor | None = None
) -> list[Curve]:
    """Runs, or goes on with, every strategy with every posterior and seed of ``spec.compare``.

    Args:
        spec: What is compared. What is there already may be given more labels or money, see `RunSpec.more`.
        folder: From `comparison_folder`.
        tracking: Sends the rounds to MLflow, all runs under one parent.
        executor: Runs them; one after the other in this process when not given.

    Raises:
        UserError: A run that cannot work, before any of them begins, or another process compares in that folder.
        Unfinished: Some failed, after all others have ended.
        Waiting: Some wait for labels, after all others have ended.
    """
    if spec.shards is not None:
        raise UserError("Shards are for one run, by 'activebdl run'; a comparison has --jobs, or --ray.")
    if executor is not None:
        executor.check(spec)
    there = read_comparison(folder)
    if there is not None and _was_begun_as(folder, spec) and not _common(spec).continues(_common(there)):
        spec = spec.with_budgets_of(there)
        say(f"'{folder.name}' was given a larger budget: {spec.label_counts()[-1]:,} labels")
    dataset = make_dataset(spec.dataset)
    children = _children(spec)
    for child in children:
        build(child, dataset=dataset, folder=folder)
    executor = executor or InThisProcess(dataset)
    with _held(folder):
        uid = _claim(folder, spec)
        tasks = _placed([*children, *_with_less(folder, children)], folder)
        for task in tasks:
            if (known := begun(task.folder)) is not None and known != task.spec:
                note(task.spec, task.folder)  # all before the first goes on: a report is of one protocol
        with tracking.comparison(folder.name, uid) as tracking:
            if executor.speaks:
                return _hear(tasks, Driver(tasks, dataset, tracking, None), executor)
            say(f"{len(tasks)} runs, {executor.width} at a time; what each says is in its folder in {folder}")
            with TimeLeft(tasks, executor.width) as bar:
                return _hear(tasks, Driver(tasks, dataset, tracking, bar), executor)


def _hear(tasks: list[Task], driver: Driver, executor: Executor) -> list[Curve]:
    with driver:
        executor.run(tasks, driver.take)
    assert driver.ended == len(tasks), "an executor returns when every child has told how it ended"
    waits = list(dict.fromkeys(driver.waits.values()))
    if driver.failed:
        failed = {tasks[i].folder.name: reason for i, reason in sorted(driver.failed.items())}
        raise Unfinished(failed, driver.curves, len(tasks), waits)
    if waits:
        raise Waiting("\n".join(waits))
    return driver.curves


def _children(spec: RunSpec) -> list[RunSpec]:
    """All of them, every default written out; those of a seed side by side."""
    return [
        resolved(
            spec.model_copy(
                update={"strategy": strategy, "posterior": posterior, "seed": seed, "compare": Comparison()}
            )
        )
        for seed in spec.compare.seeds
        for posterior in spec.compare.posteriors or (spec.posterior,)
        for strategy in spec.compare.strategies
    ]


def _with_less(folder: Path, children: list[RunSpec]) -> list[RunSpec]:
    """Runs of earlier commands, with other strategies or seeds, that were to have less than these children are."""
    found: list[RunSpec] = []
    for place in sorted(folder.iterdir()):
        with contextlib.suppress(UserError):  # it names something that is not there any more
            known = begun(place)
            if known is None:
                continue
            more, less = resolved(known).with_budgets_of(children[0]), resolved(known)
            if more != less and more.continues(less) and more not in children:
                found.append(more)
    return found


def _placed(children: list[RunSpec], folder: Path) -> list[Task]:
    """Each with its folder: the one where it has begun, or a fresh one of its own."""
    names = [run_name(child).removeprefix(f"{child.experiment}-") for child in children]
    places: dict[int, Path] = {}
    for number, (child, name) in enumerate(zip(children, names, strict=True)):
        place = folder_for(folder, name, lambda place, child=child: _is_of(place, child))
        if place.exists():
            places[number] = place
    for number in range(len(children)):
        if number not in places:
            place = folder_for(folder, names[number], lambda place: place not in places.values() and not begun(place))
            place.mkdir(exist_ok=True)
            places[number] = place
    return [Task(child, places[number]) for number, child in enumerate(children)]


def _common(spec: RunSpec) -> RunSpec:
    """What all runs of a comparison share: other posteriors take over the training of the spec's own."""
    defaults = {key: RunSpec.model_fields[key].get_default() for key in _OWN}
    return resolved(spec).model_copy(update=defaults)


_OWN = ("strategy", "seed", "shards", "compare")
"""Settings in which the runs of one comparison may differ."""

_BUDGETS = {"budget", "counts", "max_cost"}
"""Settings that may become more when it goes on."""


def _holds(folder: Path, spec: RunSpec) -> bool:
    """Whether the folder is of a comparison with this spec, whichever its strategies, posteriors and seeds."""
    there = read_comparison(folder)
    return there is not None and (_common(there) == _common(spec) or _was_begun_as(folder, spec))


def _was_begun_as(folder: Path, spec: RunSpec) -> bool:
    """Whether the comparison in a folder had this spec before it was given a larger budget."""
    there, budgets = read_comparison(folder), comparison_file(folder).get("begun")
    if there is None or budgets is None:
        return False
    return _common(there).with_budgets_of(RunSpec.model_validate(budgets)) == _common(spec)


def _is_of(place: Path, child: RunSpec) -> bool:
    """Whether a run has begun in a folder, maybe with a smaller budget, or when there were fewer settings."""
    known = begun(place)
    return known is not None and child.continues(resolved(known))


@contextlib.contextmanager
def _held(folder: Path) -> Generator[None]:
    """The folder for this process alone: two that share the children out differently would fight for each."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{COMMON}.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"Another process is working on the comparison '{folder}'. Wait for it, or stop it.") from None
    except OSError as error:
        raise UserError(f"'{folder}' cannot be made or written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()


def _claim(folder: Path, spec: RunSpec) -> str:
    """Writes what the comparison is; returns its uid, which stays the same when it goes on."""
    common, there, known = _common(spec), read_comparison(folder), comparison_file(folder)
    if there is not None and not common.continues(_common(there)):
        raise UserError(f"The folder '{folder}' holds another comparison, or this one with a larger budget.")
    uid: str = known.get("uid") or uuid.uuid4().hex
    content = {
        "uid": uid,
        "spec": common.model_dump(mode="json", exclude=set(_OWN)),
        "compare": spec.compare.model_dump(mode="json"),
        "begun": known.get("begun") or _common(there or spec).model_dump(mode="json", include=_BUDGETS),
    }
    write_safely(folder / COMMON, yaml.safe_dump(content, sort_keys=False, default_flow_style=None))
    return uid
