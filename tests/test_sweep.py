"""Comparisons on the disk, their axes, and what becomes of children that fail; all in one process."""

import contextlib
import threading
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from activebdl.build import make_dataset
from activebdl.data import ActiveDataset
from activebdl.errors import UserError, Waiting
from activebdl.files import COMMON
from activebdl.journal import Journal
from activebdl.report import table
from activebdl.rounds import Round
from activebdl.run_folders import JOURNAL
from activebdl.runs import Tracking, TrackRound
from activebdl.spec import Comparison, Named, RunSpec, read_spec
from activebdl.sweep import FAILED, Unfinished, _child, compare, comparison_folder, executor_for
from activebdl.sweep._child import run_child
from activebdl.sweep._children import Event, Failed, Finished, Kept, Task, Tell, Told
from activebdl.sweep._time_left import TimeLeft
from tests.comparisons import asked, tiny, told


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

    def check(self, spec: RunSpec) -> None:
        """All of them."""

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


class Heard:
    """In the place of MLflow: what it was told of each run, and how each ended."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[int]] = {}
        self.ends: dict[str, str] = {}

    @contextlib.contextmanager
    def comparison(self, name: str, uid: str) -> Generator[Tracking]:
        with self._open(name):
            yield self

    @contextlib.contextmanager
    def run(self, spec: RunSpec, name: str, uid: str, model: Path | None = None) -> Generator[TrackRound]:
        self.rounds[name] = []

        def track(dataset: ActiveDataset, round: Round) -> None:
            self.rounds[name].append(round.n_labels)

        with self._open(name):
            yield track

    @contextlib.contextmanager
    def _open(self, name: str) -> Generator[None]:
        self.ends[name] = "open"
        try:
            yield
        except BaseException as error:
            self.ends[name] = type(error).__name__
            raise
        self.ends[name] = "finished"


def test_another_kind_of_executor_brings_the_same_in_the_same_order(tmp_path: Path) -> None:
    spec, heard = tiny(["bald", "random"]), Heard()
    here = compare(spec, tmp_path / "here")
    elsewhere = Elsewhere(tmp_path / "disk", make_dataset(spec.dataset))
    there = compare(spec, tmp_path / "there", tracking=heard, executor=elsewhere)
    assert told(there) == told(here)
    assert asked(tmp_path / "there") == asked(tmp_path / "here")
    assert heard.rounds == {
        "bald-mc_dropout-seed0": [20, 30, 40], "random-mc_dropout-seed0": [20, 30, 40]
    }  # fmt: skip
    assert set(heard.ends.values()) == {"finished"}
    assert told(compare(spec, tmp_path / "there")) == told(here)  # the journals were handed over whole


def test_runs_of_a_seed_begin_with_the_same_labels_and_share_their_counts(tmp_path: Path) -> None:
    posteriors, seeds = ["mc_dropout", "laplace"], (0, 1)
    curves = compare(tiny(["bald", "random"], seeds, posteriors), tmp_path / "all")
    assert [(c.seed, c.posterior, c.strategy) for c in curves] == [
        (seed, posterior, strategy) for seed in seeds for posterior in posteriors for strategy in ("bald", "random")
    ]
    assert {c.counts for c in curves} == {(20, 30, 40)}
    firsts = {name: requests[0][0] for name, requests in asked(tmp_path / "all").items()}
    first_of = {seed: {ids for name, ids in firsts.items() if name.endswith(f"seed{seed}")} for seed in seeds}
    assert len(firsts) == 8 and [len(first_of[seed]) for seed in seeds] == [1, 1]
    assert first_of[0] != first_of[1]
    laplace = tmp_path / "all" / "bald-laplace-seed0" / "spec.yaml"
    assert "steps: 2\n" in laplace.read_text() or "steps: 2," in laplace.read_text()  # as the spec's own is trained
    assert "bald, laplace" in table(curves)


def test_a_comparison_from_before_there_were_posteriors_goes_on_and_is_widened_by_them(tmp_path: Path) -> None:
    spec = tiny(["bald"])
    folder = comparison_folder(spec, tmp_path)
    first = compare(spec, folder)
    known = yaml.safe_load((folder / COMMON).read_text())
    del known["compare"]["posteriors"]
    (folder / COMMON).write_text(yaml.safe_dump(known))
    (journal,) = folder.rglob(JOURNAL)
    written = journal.stat().st_mtime_ns
    wider = tiny(["bald"], posteriors=["mc_dropout", "laplace"])
    assert comparison_folder(wider, tmp_path) == folder
    both = compare(wider, folder)
    assert both[0] == first[0] and [c.posterior for c in both] == ["mc_dropout", "laplace"]
    assert journal.stat().st_mtime_ns == written
    assert yaml.safe_load((folder / COMMON).read_text())["uid"] == known["uid"]


def test_a_run_keeps_its_folder_when_its_namesake_is_gone_and_the_order_is_another(tmp_path: Path) -> None:
    betas = [Named.model_validate({"name": "power_bald", "beta": beta}) for beta in (1, 50)]
    spec = tiny(["bald"])
    both = [spec.model_copy(update={"compare": Comparison(strategies=tuple(order))}) for order in (betas, betas[::-1])]
    first = compare(both[0], tmp_path / "x")
    gone, stays = (tmp_path / "x" / f"power_bald-mc_dropout-seed0{end}" for end in ("", "-2"))
    for file in gone.iterdir():
        file.unlink()
    written = (stays / JOURNAL).stat().st_mtime_ns
    assert told(compare(both[1], tmp_path / "x")) == told(first)[::-1]
    assert (stays / JOURNAL).stat().st_mtime_ns == written and (gone / JOURNAL).exists()


MINE = """
from pathlib import Path
rounds = 0
def mine(log_probs):
    global rounds
    rounds += 2 < len(log_probs) < 256  # the last chunk of a pool, and not the trial on two items
    if rounds == 2 and not Path("mended").exists():
        raise KeyError("app" "le")
    return log_probs.exp().mean(1).max(1).values
"""


def test_what_fails_is_named_the_rest_is_finished_and_goes_on_when_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    spec, heard = tiny(["mine.py:mine", "random"]), Heard()
    with pytest.raises(Unfinished, match=r"1 of 2 runs failed, the others are finished:\n  mine-.*apple") as unfinished:
        compare(spec, tmp_path / "x", tracking=heard)
    assert [curve.strategy for curve in unfinished.value.curves] == ["random"]
    assert heard.ends == {
        "x": "Unfinished", "mine-mc_dropout-seed0": "RuntimeError", "random-mc_dropout-seed0": "finished"
    }  # fmt: skip
    assert heard.rounds["mine-mc_dropout-seed0"] == [20, 30]
    assert "mine.py" in (tmp_path / "x" / "mine-mc_dropout-seed0" / FAILED).read_text()
    Path("mended").touch()
    curves = compare(spec, tmp_path / "x")
    assert told(curves) == told(compare(spec, tmp_path / "y"))
    assert asked(tmp_path / "x") == asked(tmp_path / "y")
    assert not list(tmp_path.rglob(FAILED))


def test_one_that_waits_lets_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, heard = tiny(["bald", "random"]).model_copy(update={"oracle": Named(name="files")}), Heard()
    with pytest.raises(Waiting, match="random-mc_dropout-seed0"):
        compare(spec, tmp_path / "x", tracking=heard)
    assert set(heard.ends.values()) == {"Waiting"} and len(heard.ends) == 3
    assert sorted(asked(tmp_path / "x")) == ["bald-mc_dropout-seed0", "random-mc_dropout-seed0"]


def test_a_journal_that_a_dying_process_holds_is_waited_for_and_one_that_is_worked_on_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(tiny(["random"]).model_copy(update={"strategy": Named(name="random")}), tmp_path / "x")
    dataset = make_dataset(task.spec.dataset)
    task.folder.mkdir()
    lock = FileLock(task.folder / f"{JOURNAL}.lock", thread_local=False)
    lock.acquire()
    events: list[Event] = []
    monkeypatch.setattr(_child, "PATIENCE", 0.1)
    run_child(task, events.append, lambda: dataset)
    assert isinstance(events[-1], Failed) and "Another process is working on this run" in events[-1].reason
    monkeypatch.setattr(_child, "PATIENCE", 100.0)
    threading.Timer(0.3, lock.release).start()
    run_child(task, events.append, lambda: dataset)
    assert isinstance(events[-1], Finished)


def test_two_processes_do_not_share_a_comparison(tmp_path: Path) -> None:
    spec = tiny(["random"])
    (tmp_path / "x").mkdir()
    with FileLock(tmp_path / "x" / f"{COMMON}.lock"), pytest.raises(UserError, match="working on the comparison"):
        compare(spec, tmp_path / "x")


def test_a_page_serves_one_run_and_jobs_are_counted_from_one(tmp_path: Path) -> None:
    spec = tiny(["random"]).model_copy(update={"oracle": Named(name="web")})
    with pytest.raises(UserError, match="The labelling page serves one run at a time"):
        compare(spec, tmp_path / "x", executor=executor_for(2))
    for jobs in (0, -1):
        with pytest.raises(UserError, match=f"1 or more, not {jobs}"):
            executor_for(jobs)


def round_of(number: int, seconds: float) -> Round:
    return Round(number, 0, (), (), (), {}, {}, {"fit": seconds}, [], {}, 0)


def test_the_time_left_counts_late_rounds_by_their_steps_and_each_kind_by_itself(tmp_path: Path) -> None:
    """Rounds of 1,020, 1,040 and 1,060 steps; two kinds, of which one takes three times as long."""
    training = {"steps": 1000, "steps_per_label": 1}
    changes = {"posterior.training": training, "counts": [20, 40, 60]}
    spec = read_spec("digits-small", changes)
    kinds = [Named(name="bald"), Named(name="random")] * 2
    tasks = [Task(spec.model_copy(update={"strategy": kind}), tmp_path) for kind in kinds]
    with TimeLeft(tasks, width=2) as left:
        assert left.seconds() is None
        left.take(0, round_of(0, 30.6))  # .03 s a step
        assert left.seconds() == pytest.approx((4 * 3120 - 1020) * 0.03 / 2)
        left.take(1, round_of(0, 10.2))  # .01 s a step
        bald, random = 0.03 * (2 * 3120 - 1020), 0.01 * (2 * 3120 - 1020)
        assert left.seconds() == pytest.approx((bald + random) / 2)
        for number in (1, 2, 3):
            left.end(number)
        assert left.seconds() == pytest.approx(0.03 * 2100)  # a single child, which two processes do not share
        left.end(0)
        assert left.seconds() == 0
