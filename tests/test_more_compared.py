"""A comparison is given more labels or more money: as if it had been begun with them."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from activebdl import UserError, load
from activebdl.files import COMMON
from activebdl.report import conclude
from activebdl.report.reading import studies_in
from activebdl.run_folders import SPEC_FILE, asked_earlier, list_runs, read_comparison
from activebdl.spec import Named, RunSpec
from activebdl.sweep import compare, comparison_folder
from activebdl.sweep._child import InThisProcess
from activebdl.sweep._children import Task, Tell
from tests.comparisons import asked, tiny, told
from tests.test_more_labels import main


def there_is(folder: Path) -> RunSpec:
    """What the folder says is compared in it."""
    spec = read_comparison(folder)
    assert spec is not None
    return spec


class Killed(InThisProcess):
    """Works on the first child alone."""

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        super().run(tasks[:1], tell)
        raise KeyboardInterrupt


def test_a_comparison_goes_on_to_a_larger_budget_as_if_it_had_been_begun_with_it(tmp_path: Path) -> None:
    folder, wanted = tmp_path / "both", tiny(["bald", "random"], seeds=(0, 1))
    whole = compare(wanted.model_copy(update={"budget": 60}), tmp_path / "whole")
    first = compare(wanted, folder)
    assert [curve.counts for curve in first] == [(20, 30, 40)] * 4
    uid = yaml.safe_load((folder / COMMON).read_text())["uid"]
    there = there_is(folder)
    with pytest.raises(KeyboardInterrupt):
        compare(there.more(60, None), folder, executor=Killed(load("digits")))
    assert [info.rounds[-1].n_labels for info in list_runs(folder)] == [60, 40, 40, 40]
    (study,), _ = studies_in(folder)  # which says what is under way
    assert [run.curve.complete for run in study.runs] == [True, False, False, False]
    assert all("budget: 60" in (run.folder / SPEC_FILE).read_text() for run in study.runs)
    again = there_is(folder)  # so that it goes on without being told of the budget again
    assert again.budget == 60
    assert told(compare(again, folder)) == told(whole)
    assert asked(folder) == asked(tmp_path / "whole")
    assert yaml.safe_load((folder / COMMON).read_text())["uid"] == uid


def test_a_comparison_that_was_given_more_keeps_it_when_it_is_asked_for_again(tmp_path: Path) -> None:
    spec = tiny(["bald"])
    folder = comparison_folder(spec, tmp_path)
    compare(spec, folder)
    there = there_is(folder)
    for budget in (50, 60):
        compare(there.more(budget, None), folder)
    wider = tiny(["bald", "random"])
    assert comparison_folder(wider, tmp_path) == folder
    assert [curve.counts[-1] for curve in compare(wider, folder)] == [60, 60]
    # But one that is to have fewer labels is another one, unless it was begun with them.
    less = wider.model_copy(update={"budget": 50})
    assert comparison_folder(less, tmp_path) == tmp_path / f"{spec.experiment}-2"


def test_the_budget_of_a_comparison_is_given_to_it_and_not_to_one_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--budget", "20", "--set", "posterior.training.steps=5", "--draws", "2", "--no-mlflow"]
    assert main("compare", "digits-small", "--seeds", "1", "--name", "both", *quick) == 0
    assert main("resume", "both/random-mc_dropout-seed0", "--budget", "40", "--no-mlflow") == 2
    assert "Runs that are compared have their budgets in common; give 'both' the larger" in capsys.readouterr().err
    assert main("resume", "both", "--budget", "10", "--no-mlflow") == 2
    assert "It goes to 20 labels as it is; a budget of 10 is less." in capsys.readouterr().err
    assert main("resume", "both", "--budget", "40", "--no-mlflow") == 0
    assert [info.rounds[-1].n_labels for info in list_runs(Path("runs"))] == [40, 40]


class Quiet(InThisProcess):
    """Its children do not tell people how far they are, as those of other processes."""

    speaks = False


def test_a_comparison_goes_on_with_more_money_at_the_counts_that_all_its_runs_have(tmp_path: Path) -> None:
    paid = Named.model_validate({"name": "noisy", "rate": 0.0, "cost": 1.0})
    spec = tiny(["bald", "random"]).model_copy(update={"oracle": paid, "max_cost": 25.0})
    folder, dataset = tmp_path / "x", load("digits")
    assert [curve.counts for curve in compare(spec, folder)] == [(20, 25)] * 2
    more = there_is(folder).more(60, 99.0)
    curves = compare(more, folder, executor=Quiet(dataset))
    assert [curve.counts for curve in curves] == [(20, 25, 30, 40, 50, 60)] * 2
    assert told(compare(there_is(folder), folder)) == told(curves)


def test_runs_without_a_count_in_common_are_all_done(tmp_path: Path) -> None:
    dear = Named.model_validate({"name": "noisy", "rate": 0.0, "cost": 1.0, "abstain": 0.4})
    spec = tiny(["bald", "random"], seeds=(0, 1)).model_copy(update={"oracle": dear, "max_cost": 18.0})
    curves = compare(spec, tmp_path / "x")
    assert len({curve.counts for curve in curves}) > 1 and all(curve.complete for curve in curves)
    for file in ("curves.csv", "table.txt"):
        assert (tmp_path / "x" / file).read_text()
    assert (tmp_path / "x" / "table.txt").read_text().startswith("These curves have no number of labels in common")
    assert not (tmp_path / "x" / "curves.png").exists()
    assert conclude(curves, tmp_path / "x").startswith("There is no report: These curves have no number of labels")


def test_runs_of_earlier_commands_go_on_too(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    compare(tiny(["bald", "random"], seeds=(0, 1)), folder)
    compare(tiny(["margin"], seeds=(0,)), folder)
    compare(there_is(folder).more(50, None), folder)
    assert [info.rounds[-1].n_labels for info in list_runs(folder)] == [50] * 5


def test_what_earlier_commands_began_is_resumed_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "x"
    with pytest.raises(KeyboardInterrupt):
        compare(tiny(["bald", "random"], seeds=(0, 1)), folder, executor=Killed(load("digits")))
    compare(tiny(["margin"]), folder)
    assert main("report", "x") == 0
    assert "nothing yet of bald with seed 1, random with seed 0, random with seed 1." in capsys.readouterr().out
    assert main("resume", "x", "--no-mlflow") == 0
    assert [info.rounds[-1].n_labels for info in list_runs(folder)] == [40] * 5
    assert "not at its end" not in capsys.readouterr().out
    compare(tiny(["bald", "random", "margin"], seeds=(0, 1)), folder)
    assert asked_earlier(folder) == []  # it is all in what was asked for now


def test_a_folder_with_another_comparison_is_left_as_it_is(tmp_path: Path) -> None:
    spec, folder = tiny(["random"]), tmp_path / "x"
    compare(spec, folder)
    before = (folder / COMMON).read_bytes()
    with pytest.raises(UserError, match="holds another comparison"):
        compare(spec.model_copy(update={"draws": 5}), folder)
    assert (folder / COMMON).read_bytes() == before and len(list(list_runs(folder))) == 1


@pytest.mark.parametrize("content", ["", "uid: 7", "a: [", "- 1"])
def test_a_damaged_file_of_a_comparison_is_told(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "x"
    compare(tiny(["random"]), folder)
    (folder / COMMON).write_text(content)
    assert main("resume", "x", "--no-mlflow") == 2
    assert "comparison.yaml' is damaged" in capsys.readouterr().err


def test_a_comparison_that_is_named_by_its_path_goes_on_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "far" / "runs" / "x"
    compare(tiny(["random"]), folder)
    assert main("resume", "far/runs/x", "--budget", "50") == 0
    assert "goes on to 50 labels" in capsys.readouterr().out
    assert (tmp_path / "far" / "runs" / "mlflow.db").exists() and not (tmp_path / "runs").exists()
