"""A run that has all the labels it was to have is given more: as if it had been begun with them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activebdl import ActiveDataset, Annotation, UserError, load_model
from activebdl.build import resolved
from activebdl.journal import Journal
from activebdl.report import Curve
from activebdl.run_folders import list_runs, spec_of
from activebdl.runs import resume, start
from activebdl.spec import Named, RunSpec, read_spec
from activebdl.tracking.store import MlflowTracking
from tests.scripted import Scripted, truth_of
from tests.test_loop import Network, cycle, timeless

pytestmark = pytest.mark.usefixtures("quick_looks")


class Tenths(Scripted):
    """Each answer costs a tenth."""

    def price(self, ids: Sequence[int]) -> Sequence[float]:
        return [0.1] * len(ids)

    def poll(self, ticket: str) -> Sequence[Annotation]:
        return [replace(answer, cost=0.1) for answer in super().poll(ticket)]


@pytest.mark.parametrize("strategy", ["power_bald", "random"])
@pytest.mark.parametrize("before", [1, 3])
def test_a_run_with_further_counts_is_the_run_that_was_begun_with_them(
    dataset: ActiveDataset, network: Network, tmp_path: Path, strategy: str, before: int
) -> None:
    path, counts = tmp_path / "journal.sqlite", (5, 10, 18, 25, 30)
    whole = list(cycle(dataset, network, counts=counts, strategy=strategy))
    first = list(cycle(dataset, network, counts=counts[:before], strategy=strategy, journal=path))
    assert timeless(first) == timeless(whole[:before])
    rounds = iter(cycle(dataset, network, counts=counts, strategy=strategy, journal=path))
    assert [next(rounds) for _ in range(before)] == first  # nothing is done again: the clock too is the journal's
    next(rounds)
    rounds.close()  # type: ignore[attr-defined]
    more = list(cycle(dataset, network, counts=counts, strategy=strategy, journal=path))
    assert timeless(more) == timeless(whole)


@pytest.mark.parametrize("counts", [(5, 10), (5, 9, 18, 25), (5, 10, 20)])
def test_counts_that_do_not_begin_with_those_of_the_run_are_refused(
    dataset: ActiveDataset, network: Network, tmp_path: Path, counts: tuple[int, ...]
) -> None:
    path = tmp_path / "journal.sqlite"
    rounds = list(cycle(dataset, network, journal=path))
    with pytest.raises(UserError, match=r"the label counts \[5, 10, 18\], and today's, \[5, .*do not begin with these"):
        list(cycle(dataset, network, counts=counts, journal=path))
    assert list(cycle(dataset, network, journal=path)) == rounds


@pytest.mark.parametrize("abstains", [frozenset[int](), frozenset(range(0, 120, 3))], ids=["never", "abstains"])
def test_a_run_whose_money_was_spent_goes_on_with_more(
    dataset: ActiveDataset, network: Network, tmp_path: Path, abstains: frozenset[int]
) -> None:
    truth, path = truth_of(dataset), tmp_path / "journal.sqlite"

    class Refusing(Tenths):
        def poll(self, ticket: str) -> Sequence[Annotation]:
            return [replace(said, label=None) if said.id in abstains else said for said in super().poll(ticket)]

    counts: list[int] = []

    def spend(max_cost: float) -> tuple[int, str | None, float]:
        rounds = list(cycle(dataset, network, oracle=Refusing(truth), max_cost=max_cost, journal=path))
        counts[:] = [round.n_labels for round in rounds]
        with Journal(path) as journal:
            return rounds[-1].n_labels, rounds[-1].stopped or journal.about("ended"), journal.paid()

    for max_cost in (0.7, 1.3):
        labels, ended, paid = spend(max_cost)
        assert ended == f"the budget in cost of {max_cost:g} is spent: {max_cost:g} paid"
        assert paid == pytest.approx(max_cost) and labels < 18
        assert abstains or labels == round(10 * max_cost)
        assert spend(max_cost) == (labels, ended, paid)
    labels, ended, paid = spend(9.0)
    assert (labels, ended) == (18, None) and paid >= 1.8
    assert {5, 10, 18} <= set(counts) and counts == sorted(counts)  # each run has the counts that it is compared at


@given(st.integers(1, 30), st.lists(st.integers(0, 200), min_size=1, max_size=4), st.integers(1, 40), st.floats(0, 1))
def test_a_spec_with_more_labels_begins_with_the_counts_it_had(
    initial: int, further: list[int], query_size: int, growth: float
) -> None:
    counts = {"initial": initial, "budget": initial + 20, "query_size": query_size, "growth": growth}
    spec = RunSpec.model_validate(counts)
    for labels in further:
        counts = spec.label_counts()
        spec = spec.more(counts[-1] + labels, None)
        assert spec.label_counts()[: len(counts)] == counts
        assert spec.label_counts()[-1] == spec.budget == counts[-1] + labels
        with pytest.raises(UserError, match="labels as it is"):
            spec.more(spec.budget - 1, None)


@given(st.integers(0, 200), st.floats(1, 9) | st.none(), st.floats(1, 9) | st.none())
def test_a_spec_continues_what_differs_in_smaller_budgets_alone(
    labels: int, cost: float | None, other_cost: float | None
) -> None:
    earlier = RunSpec.model_validate({"initial": 10, "budget": 50, "query_size": 7, "max_cost": cost})
    changes = {"budget": 50 + labels, "counts": earlier.more(50 + labels, None).label_counts(), "max_cost": other_cost}
    later = earlier.model_copy(update=changes)
    poorer = (other_cost or float("inf")) < (cost or float("inf"))
    assert later.continues(earlier) == (not poorer)
    assert earlier.more(50 + labels, None).continues(earlier)
    assert not later.model_copy(update={"seed": 1}).continues(earlier)
    assert not later.model_copy(update={"counts": (10, 20, 50 + labels)}).continues(earlier)
    assert not (labels and earlier.continues(later))


def test_a_spec_for_more_money() -> None:
    spec = RunSpec.model_validate({"max_cost": 5.0})
    assert spec.more(None, 7.5) == RunSpec.model_validate({"max_cost": 7.5})
    assert spec.more(None, 5.0) == spec.more(1000, None) == spec
    with pytest.raises(UserError, match=r"may cost 5 as it is; a budget in cost of 4\.5 is less"):
        spec.more(None, 4.5)
    with pytest.raises(UserError, match="may cost whatever it costs as it is"):
        RunSpec.model_validate({}).more(None, 4.5)


# ---- runs in folders ----


@pytest.fixture
def spec() -> RunSpec:
    changes = {"budget": 40, "draws": 4, "posterior.training.steps": 20, "strategy": "bald", "growth": 0.6}
    return resolved(read_spec("digits-small", changes))


def main(*arguments: str) -> object:
    """How the command line ends."""
    from activebdl.cli import main

    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    return exit.value.code


def points(curve: Curve) -> list[tuple[int, float]]:
    return list(zip(curve.counts, curve.metrics["accuracy"], strict=True))


def test_a_finished_run_goes_on_to_a_larger_budget_also_in_mlflow(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs, folder = tmp_path / "runs", tmp_path / "runs" / "mine"
    whole = start(spec.model_copy(update={"counts": (20, 40, 64, 70)}), tmp_path / "whole")
    start(spec, folder, tracking=MlflowTracking.prepare(runs, "digits"))
    for _ in range(2):  # the same command again changes nothing
        more = resume(folder, tracking=MlflowTracking.prepare(runs, "digits"), spec=spec_of(folder).more(70, None))
        assert points(more) == points(whole)
    (info,) = list_runs(folder)
    assert info.finished and info.spec.budget == 70 and info.spec.label_counts() == (20, 40, 64, 70)
    assert read_spec(str(folder / "spec.yaml")).label_counts() == (20, 40, 64, 70)
    ours, theirs = load_model(folder), load_model(tmp_path / "whole")
    assert (ours.predict(ours.example)["probabilities"] == theirs.predict(ours.example)["probabilities"]).all()
    tracking = MlflowTracking.prepare(runs, "digits")
    (run,) = tracking.client.search_runs([tracking.experiment_id])
    history = tracking.client.get_metric_history(run.info.run_id, "accuracy")
    assert [(point.step, point.value) for point in history] == points(whole)
    assert (run.data.params["budget"], run.data.tags["budget now"], run.info.status) == ("40", "70", "FINISHED")
    artifacts = runs / "mlartifacts" / run.info.run_id / "artifacts"
    assert "counts: [20, 40, 64, 70]" in (artifacts / "spec.yaml").read_text()


def test_a_run_that_was_stopped_by_its_costs_says_that_it_goes_on(
    spec: RunSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec.model_copy(update={"oracle": Named.model_validate({"name": "noisy", "cost": 1.0}), "max_cost": 30.0})
    mine = tmp_path / "mine"
    start(spec, mine)
    assert "stopped: the budget in cost of 30 is spent: 30 paid" in capsys.readouterr().out
    assert resume(mine, spec=spec_of(mine).more(None, 33.0)).counts == (20, 30, 33)
    told = capsys.readouterr().out
    assert "goes on with 30 of 40 labels" in told and "finished before" not in told
    assert resume(mine, spec=spec_of(mine).more(None, 99.0)).counts == (20, 30, 33, 40)
    capsys.readouterr()
    resume(mine)
    assert "finished before" in capsys.readouterr().out
    (info,) = list_runs(tmp_path)
    assert info.finished and info.stopped is None


def test_more_money_says_nothing_of_a_run_that_a_rule_has_stopped(
    spec: RunSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"oracle": Named.model_validate({"name": "noisy", "cost": 1.0}), "max_cost": 90.0}
    spec = spec.model_copy(update={**changes, "stop": (Named.model_validate({"name": "labels", "limit": 20}),)})
    mine = tmp_path / "mine"
    start(spec, mine)
    kept = (mine / "model.pkl").stat().st_mtime_ns
    capsys.readouterr()
    assert resume(mine, spec=spec_of(mine).more(None, 99.0)).counts == (20,)
    assert "finished before" in capsys.readouterr().out
    assert (mine / "model.pkl").stat().st_mtime_ns == kept


def test_a_budget_that_cannot_be_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--budget", "20", "--set", "posterior.training.steps=5", "--draws", "2", "--no-mlflow"]
    assert main("run", "digits-small", "--name", "one", *quick) == 0
    assert main("resume", "one", "--budget", "10", "--no-mlflow") == 2
    assert "It goes to 20 labels as it is; a budget of 10 is less." in capsys.readouterr().err
    assert main("resume", "one", "--budget", "9999", "--no-mlflow") == 2
    assert "above the pool, which has 1297 items" in capsys.readouterr().err
    assert main("resume", "one", "--budget", "30", "--no-mlflow") == 0
    assert "goes on with 20 of 30 labels" in capsys.readouterr().out
