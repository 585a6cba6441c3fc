"""A comparison: every strategy with every posterior and every seed, and their curves side by side.

    runs/NAME/comparison.yaml                         what all its runs have in common, and with which budget it began
    runs/NAME/power_bald-mc_dropout-seed0/            a run each, see `activebdl.runs`
    runs/NAME/curves.png, curves.csv, table.txt       written anew after every run
    runs/NAME/report/                                 at the end, see `activebdl.report`

What is finished is not done again, and what failed is tried again. Runs with the same seed begin with the same labels.
A comparison that was given a larger budget keeps it, also when it is asked for as it was begun.
"""

from collections.abc import Sequence
from pathlib import Path

from activebdl.build import build, make_dataset, resolved
from activebdl.cluster import Cluster
from activebdl.errors import UserError, Waiting
from activebdl.progress import say
from activebdl.report import Curve
from activebdl.run_folders import begun
from activebdl.runs import NO_TRACKING, Tracking, note
from activebdl.spec import Comparison, RunSpec
from activebdl.sweep._child import InThisProcess
from activebdl.sweep._children import Executor, Task
from activebdl.sweep._driver import FAILED, Driver
from activebdl.sweep._folder import claim, comparison_folder, held, placed, with_budget_given
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
    spec: RunSpec,
    folder: Path,
    *,
    tracking: Tracking = NO_TRACKING,
    executor: Executor | None = None,
    earlier: Sequence[Comparison] = (),
) -> list[Curve]:
    """Runs, or goes on with, every strategy with every posterior and seed of ``spec.compare``.

    Args:
        spec: What is compared. What is there already may be given more labels or money, see `RunSpec.more`.
        folder: From `comparison_folder`.
        tracking: Sends the rounds to MLflow, all runs under one parent.
        executor: Runs them; one after the other in this process when not given.
        earlier: What else is gone on with; of earlier commands in the folder, from `asked_earlier`.

    Raises:
        UserError: A run that cannot work, before any of them begins, or another process compares in that folder.
        Unfinished: Some failed, after all others have ended.
        Waiting: Some wait for labels, after all others have ended.
    """
    if spec.shards is not None:
        raise UserError("Shards are for one run, by 'activebdl run'; a comparison has --jobs, or --ray.")
    if executor is not None:
        executor.check(spec)
    spec = with_budget_given(spec, folder)
    dataset = make_dataset(spec.dataset)
    children: list[RunSpec] = []
    for wanted in (spec.compare, *earlier):
        children += [child for child in _children(spec, wanted) if child not in children]
    for child in children:
        build(child, dataset=dataset, folder=folder)
    executor = executor or InThisProcess(dataset)
    with held(folder):
        uid = claim(folder, spec)
        tasks = placed(children, folder)
        for task in tasks:
            if begun(task.folder) not in (None, task.spec):
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


def _children(spec: RunSpec, wanted: Comparison) -> list[RunSpec]:
    """All of them, every default written out; those of a seed side by side."""
    return [
        resolved(
            spec.model_copy(
                update={"strategy": strategy, "posterior": posterior, "seed": seed, "compare": Comparison()}
            )
        )
        for seed in wanted.seeds
        for posterior in wanted.posteriors or (spec.posterior,)
        for strategy in wanted.strategies
    ]
