"""Comparisons on the disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from activebdl.build import make_dataset, named_posterior
from activebdl.data import ActiveDataset
from activebdl.journal import Journal
from activebdl.report import Curve
from activebdl.run_folders import JOURNAL
from activebdl.spec import Comparison, Named, RunSpec, read_spec
from activebdl.sweep import compare, comparison_folder
from activebdl.sweep._child import run_child
from activebdl.sweep._children import Event, Kept, Task, Tell, Told

TINY = {"posterior.training.steps": 2, "budget": 40, "query_size": 10, "draws": 4, "test_draws": 4}


def tiny(strategies: Sequence[str], seeds: Sequence[int] = (0,), posteriors: Sequence[str] = ()) -> RunSpec:
    spec = read_spec("digits-small", TINY)
    compared = Comparison(
        strategies=tuple(Named(name=name) for name in strategies),
        posteriors=tuple(named_posterior(spec, name) for name in posteriors),
        seeds=tuple(seeds),
    )
    return spec.model_copy(update={"compare": compared})


def asked(folder: Path) -> dict[str, list[Any]]:
    """Ids and scores of all requests of each run."""
    found: dict[str, list[Any]] = {}
    for path in folder.rglob(JOURNAL):
        with Journal(path) as journal:
            requests = [journal.request(round, 0) for round in range(3)]
        found[path.parent.name] = [(request.ids, request.scores) for request in requests if request]
    return found


def told(curves: Sequence[Curve]) -> list[Any]:
    """All of the curves but the clock."""
    return [(c.strategy, c.posterior, c.seed, c.counts, c.metrics) for c in curves]


def test_runs_of_an_older_version_that_knew_fewer_settings_are_not_done_again(tmp_path: Path) -> None:
    changes = {"posterior.training.steps": 2, "budget": 24, "query_size": 4, "start": "typiclust", "draws": 4}
    spec = read_spec("digits-small", changes)
    spec = spec.model_copy(update={"compare": Comparison(strategies=(Named(name="epig"),), seeds=(0,))})
    folder = comparison_folder(spec, tmp_path)
    first = compare(spec, folder)
    (path,) = folder.rglob(JOURNAL)
    with Journal(path) as journal:
        known = journal.about("spec")
        assert known["start"]["neighbours"] == 20 and known["strategy"]["targets"] == 200
        known["start"], known["strategy"] = "typiclust", {"name": "epig"}
        for key in ("stop", "validation", "stop_set"):
            del known[key]
        journal.note("spec", known)
    assert compare(spec, comparison_folder(spec, tmp_path)) == first
    assert list(folder.rglob(JOURNAL)) == [path]


class Elsewhere:
    """An executor whose children run on a disk of their own, and tell everything twice."""

    width, speaks = 2, False

    def __init__(self, disk: Path, dataset: ActiveDataset) -> None:
        self.disk, self.dataset = disk, dataset

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        for number, task in reversed(list(enumerate(tasks))):
            there = Task(task.spec, self.disk / task.folder.name)
            events: list[Event] = []
            run_child(there, events.append, lambda: self.dataset)
            *events, end = events
            for event in [*events, *events]:
                tell(number, event)
                if isinstance(event, Told):
                    tell(number, Kept({JOURNAL: (there.folder / JOURNAL).read_bytes()}))
            tell(number, end)


def test_another_kind_of_executor_brings_the_same_in_the_same_order(tmp_path: Path) -> None:
    spec = tiny(["bald", "random"])
    here = compare(spec, tmp_path / "here")
    there = compare(spec, tmp_path / "there", executor=Elsewhere(tmp_path / "disk", make_dataset(spec.dataset)))
    assert told(there) == told(here)
    assert asked(tmp_path / "there") == asked(tmp_path / "here")
    assert told(compare(spec, tmp_path / "there")) == told(here)
