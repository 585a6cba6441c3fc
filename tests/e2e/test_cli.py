"""The command line as a user meets it, in processes of its own, on digits."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from activebdl.posteriors import posteriors
from activebdl.run_folders import list_runs

ACTIVEBDL = [sys.executable, "-m", "activebdl"]
QUICK = ["--no-mlflow", "--set", "posterior.training.steps=20", "--draws", "4", "--budget", "60"]


def activebdl(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [*ACTIVEBDL, *arguments], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    if check:
        assert result.returncode == 0, result.stderr
    return result


def test_a_run_tells_each_round_a_table_and_where_to_look(tmp_path: Path) -> None:
    told = activebdl(tmp_path, "run", "digits-small", "--seed", "3", *QUICK).stdout
    assert "pool 1,297, test 500, 3 rounds from 20 to 60 labels, on cpu" in told
    assert re.findall(r"^ +(\d+) +\d+\.\d\d % +\d", told, re.MULTILINE) == ["20", "40", "60"]
    assert "labels to 90%" in told
    folder = tmp_path / "runs" / "digits-small-custom-bald-mc_dropout-seed3"
    assert f"kept in   {folder.relative_to(tmp_path)}" in told
    assert "steps: 20" in (folder / "spec.yaml").read_text()
    assert "finished" in activebdl(tmp_path, "list", "runs").stdout


def test_a_run_that_also_learns_from_the_pool_and_looks_at_items_from_several_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    switches = ["posterior.training.pseudo_labels.from_labels=30", "pretraining.steps=20", "views=3", "start=k_means"]
    options = [word for switch in switches for word in ("--set", switch)]
    first = activebdl(tmp_path, "run", "digits-small", "--name", "mine", *options, *QUICK).stdout
    assert "3 rounds from 20 to 60 labels" in first
    assert "features learned from the pool before the first label" in first
    assert "pseudo-labels of the pool in every fit, from 30 labels on" in first
    assert len(list((tmp_path / "cache" / "activebdl" / "pretrained").glob("*.pt"))) == 1
    more = activebdl(tmp_path, "resume", "mine", "--no-mlflow").stdout
    rows = [line for line in first.splitlines() if re.match(r" +\d+ +\d+\.\d\d % ", line)]
    assert len(rows) == 3 and all(row in more for row in rows)


def test_a_second_run_of_the_same_name_leaves_the_first_alone(tmp_path: Path) -> None:
    for _ in range(2):
        activebdl(tmp_path, "run", "digits-small", "--strategy", "random", "--name", "mine", *QUICK)
    assert sorted(folder.name for folder in (tmp_path / "runs").iterdir()) == ["mine", "mine-2"]


def test_a_comparison_shares_the_start_goes_on_and_can_be_widened(tmp_path: Path) -> None:
    command = ["compare", "digits-small", "--strategies", "bald,random", *QUICK]
    first = activebdl(tmp_path, *command, "--seeds", "1").stdout
    rows = [line.split()[1] for line in first.splitlines() if re.match(r" +20 +\d+\.\d+ % +\d", line)]
    assert len(set(rows)) == 1
    folder = tmp_path / "runs" / "digits-small-custom"
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "curves.csv").read_text().splitlines()) == 1 + 2 * 3
    journals = {path: path.stat().st_mtime_ns for path in folder.rglob("journal.sqlite")}
    second = activebdl(tmp_path, *command, "--seeds", "0,1").stdout
    assert second.count("finished before") == 2
    assert {path: path.stat().st_mtime_ns for path in journals} == journals
    assert len((folder / "curves.csv").read_text().splitlines()) == 1 + 4 * 3
    assert "±" in (folder / "table.txt").read_text()


def test_a_comparison_is_resumed_by_its_name_and_tells_betas_apart(tmp_path: Path) -> None:
    strategies = "compare.strategies=[{name: power_bald, beta: 1}, {name: power_bald, beta: 50}]"
    told = activebdl(tmp_path, "compare", "digits-small", "--seeds", "1", "--set", strategies, *QUICK).stdout
    folder = tmp_path / "runs" / "digits-small-custom"
    names = [f"power_bald-mc_dropout-seed0{end}" for end in ("", "-2")]
    assert sorted(path.parent.name for path in folder.rglob("spec.yaml")) == names
    assert ["beta: 1.0" in (folder / name / "spec.yaml").read_text() for name in names] == [True, False]
    shutil.rmtree(folder / names[1])
    (folder / "curves.csv").unlink()
    again = activebdl(tmp_path, "resume", "digits-small-custom", "--no-mlflow").stdout
    assert again.count("finished before") == 1
    assert (folder / names[1]).is_dir()
    assert _table(again) == _table(told)


def _table(told: str) -> list[str]:
    """The lines of the last table, but for the one that tells times."""
    lines = told[told.rindex("labels  ") :].splitlines()
    return [line for line in lines if "time per run" not in line]


def test_a_log_file_has_no_progress_bars(tmp_path: Path) -> None:
    result = activebdl(tmp_path, "run", "digits-small", *QUICK)
    assert result.stderr == ""
    assert "\r" not in result.stdout


def test_the_lists_name_what_there_is(tmp_path: Path) -> None:
    told = activebdl(tmp_path, "list").stdout  # twice: the second time out of a file
    assert activebdl(tmp_path, "list").stdout == told
    for name in (
        "mnist-gal2017",
        "variation_ratios",
        "Houlsby et al. 2011",
        "mc_dropout",
        "gal2017_cnn",
        "unbalanced_mnist",
        "none yet",
        "wall_time",
    ):
        assert name in told


def test_a_dataset_is_told(tmp_path: Path) -> None:
    told = activebdl(tmp_path, "data", "digits").stdout
    assert "pool 1,297, test 500, items of 1 x 8 x 8" in told


def test_ones_own_oracle_strategy_and_network_by_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\nfrom activebdl import load\n"
        "truth = load('digits').labels\n"
        "def oracle(items, ids):\n    return truth[ids]\n"
        "def surprise(log_probs):\n    return -log_probs.exp().mean(1).amax(1)\n"
        "def network(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, classes))\n"
    )
    own = ["--oracle", "mine.py:oracle", "--strategy", "mine.py:surprise", "--network", "mine.py:network"]
    told = activebdl(tmp_path, "run", "digits-small", *own, *QUICK).stdout
    assert "runs/digits-small-custom-surprise-mc_dropout-seed0" in told


@pytest.mark.parametrize("name", [name for name in posteriors.names() if name != "map"])
def test_every_posterior_runs_the_cycle(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from activebdl.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["run", "digits-small", "--posterior", name, "--name", "one", *QUICK])
    assert exit.value.code == 0
    (info,) = list_runs(tmp_path / "runs")
    assert info.finished and info.spec.posterior.name == name


def test_numbers_from_one_end_to_the_other(tmp_path: Path) -> None:
    quick = ["--budget", "30", "--draws", "4", "--set", "posterior.training.steps=20", "--no-mlflow"]
    told = activebdl(tmp_path, "compare", "diabetes", "--seeds", "1", "--name", "one", *quick).stdout
    assert "    RMSE     NLL  in 90%" in told and "mean RMSE" in told and "labels to" not in told
    assert (tmp_path / "runs/one/curves.png").read_bytes().startswith(b"\x89PNG")
    header, *lines = (tmp_path / "runs/one/curves.csv").read_text().splitlines()
    assert header == "strategy,posterior,seed,n_labels,rmse,nll,coverage_50,coverage_90,coverage_95"
    assert len(lines) == 9
    assert "RMSE " in activebdl(tmp_path, "list", "runs").stdout
    assert "labels are numbers" in activebdl(tmp_path, "data", "diabetes").stdout


def test_a_run_that_a_rule_stops_says_so_is_finished_and_is_told_again(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(
        "from dataclasses import dataclass\nfrom activebdl import StoppingRule\n"
        "@dataclass(frozen=True)\nclass Enough(StoppingRule):\n    labels: int = 10\n"
        "    def reason(self, rounds):\n"
        "        return 'it is enough' if rounds[-1].n_labels >= self.labels else None\n"
    )
    rules = "stop=[{name: overall_uncertainty, below: 0.0001}, {name: 'rules.py:Enough', labels: 40}]"
    own = ["--set", rules, "--set", "validation=8", "--set", "stop_set=50", "--name", "mine"]
    told = activebdl(tmp_path, "run", "digits-small", *QUICK, *own).stdout
    assert "  8 of the labels are for validation\n" in told
    assert "  ends early by OverallUncertainty(below=0.0001) or Enough(labels=40)\n" in told
    assert told.count("  stopped: it is enough\n") == 1
    assert re.findall(r"^ +(\d+) +\d+\.\d\d % +\d", told, re.MULTILINE) == ["20", "40"]
    again = activebdl(tmp_path, "resume", "mine", "--no-mlflow").stdout
    assert "finished before" in again and again.count("stopped: it is enough") == 1 and _table(again) == _table(told)
    (line,) = (line for line in activebdl(tmp_path, "list", "runs").stdout.splitlines() if "mine" in line)
    assert re.search(r"mine  finished +\d+\.\d\d %, stopped at 40 labels: it is enough$", line)
    (info,) = list_runs(tmp_path / "runs")
    assert info.finished and len(info.rounds) == 2


def test_a_comparison_of_runs_that_stop_at_different_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from activebdl.cli import main

    (tmp_path / "rules.py").write_text(
        "from dataclasses import dataclass\nfrom activebdl import StoppingRule\n"
        "@dataclass(frozen=True)\nclass WithScores(StoppingRule):\n"
        "    def reason(self, rounds):\n        return None if None in rounds[-1].scores else 'there are scores'\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["compare", "digits-small", "--seeds", "1", "--set", "stop=rules.py:WithScores", "--name", "both", *QUICK])
    assert exit.value.code == 0
    told = capsys.readouterr().out
    table = told[told.rindex("labels  ") :]
    assert [line.split()[0] for line in table.splitlines()[1:3]] == ["20", "40"]  # bald ended there, random went on
    assert re.search(r"ends at +40 +60\n", table) and "up to 40 labels" in table
    assert len((tmp_path / "runs/both/curves.csv").read_text().splitlines()) == 1 + 2 + 3


def test_uncertainty_is_drawn(tmp_path: Path) -> None:
    told = activebdl(tmp_path, "uncertainty", "moons", "--posteriors", "map", "--draws", "2", "--out", "here").stdout
    assert "picture   here/moons.png" in told
    assert (tmp_path / "here/moons.png").read_bytes().startswith(b"\x89PNG")


MISTAKES: list[tuple[list[str], str]] = [
    (["run", "mnits"], "Unknown preset 'mnits'. Known: diabetes, digits-small, fashion-1000, mnist-1000"),
    (["run", "digits-small", "--strategy", "balt"], "Unknown strategy 'balt'. Known: badge"),
    (["run", "digits-small", "--posterior", "mc"], "Unknown posterior 'mc'. Known: "),
    (["run", "digits-small", "--data", "digit"], "Unknown dataset 'digit'. Known: cifar10, diabetes, digits"),
    (["run", "digits-small", "--network", "cnn"], "Unknown network 'cnn'. Known: batchbald_cnn"),
    (["run", "digits-small", "--oracle", "me"], "Unknown oracle 'me'. Known: crowd, dataset, files"),
    (["run", "digits-small", "--budget", "10"], "The budget of 10 labels is below the initial size of 20"),
    (["run", "digits-small", "--budget", "2000"], "above the pool, which has 1297 items"),
    (["run", "digits-small", "--query-size", "0"], "The query size is 0"),
    (["run", "digits-small", "--draws", "1"], "so it needs at least 2, and draws is 1"),
    (["run", "diabetes", "--strategy", "bald"], "'bald' is for classes, and the labels of 'diabetes' are numbers"),
    (["run", "digits-small", "--strategy", "gaussian_bald"], "is for numbers, and the labels of 'digits' are classes"),
    (["run", "diabetes", "--posterior", "map"], "take another posterior, such as mc_dropout, or one of k_centre, "),
    (["run", "diabetes", "--set", "dataset.noise=.inf"], "a standard deviation above 0, or None, and not inf"),
    (["run", "diabetes", "--set", "posterior={name: laplace, weights: all}"], "laplace-torch"),
    (["run", "digits-small", "--set", "candidates=0"], "at least 1 of the candidates, not 0"),
    (["run", "digits-small", "--posterior", "map"], "those of MAP never do"),
    (["run", "digits-small", "--device", "abacus"], "device 'abacus' cannot be used"),
    (["run", "digits-small", "--set", "budget"], "--set takes KEY=VALUE"),
    (["run", "bad.yaml"], "bad.yaml, line 2: there is no setting 'budgt'"),
    (["run", "digits-small", "--oracle", "bad.py:wrong_shape"], "asked for 20 labels and gave an answer of shape [1]"),
    (["run", "digits-small", "--oracle", "bad.py:out_of_range"], "the label 10; labels run from 0 to 9"),
    (["run", "digits-small", "--data", "bad.py:with_nan"], "pool input of item 3 holds NaN"),
    (["run", "digits-small", "--set", "posterior.training.learning_rate=1e30"], "The loss became nan at step"),
    (["run", "digits-small", "--runs", "file"], "cannot be written"),
    (["compare", "digits-small", "--seeds", "x"], "--seeds takes how many (3) or which ones (0,1,2), not 'x'"),
    (["run", "digits-small", "--set", "strategy.beta=3"], "'bald' has no stochastic rule, so it takes no beta"),
    (["run", "digits-small", "--strategy", "power_bald", "--set", "strategy.beta=x"], "'beta' of the strategy"),
    (
        ["run", "digits-small", "--set", "posterior.training=abc"],
        "'training' of the posterior 'mc_dropout' takes",
    ),
    (
        ["run", "digits-small", "--set", "posterior.training.augmentation=5"],
        "The augmentation is a name (affine, elastic, handwriting)",
    ),
    (["run", "digits-small", "--set", "network.dropout=1.5"], "cannot be made for inputs"),
    (["run", "digits-small", "--set", "network.hidden=abc"], "'hidden' of the network 'mlp'"),
    (["run", "digits-small", "--set", "growth=.nan"], "must be a number that is not negative"),
    (["run", "digits-small", "--strategy", ":foo"], "Cannot import ''"),
    (["run", "digits-small", "--oracle", "bad.py:odd_object"], "the label 2.5; labels run from 0 to 9"),
    (["run", "digits-small", "--network", "bad.py:no_dropout"], "has no nn.Dropout module"),
    (
        ["run", "digits-small", "--network", "bad.py:too_narrow"],
        "or the mean alone where the noise is known. It gave (2, 3)",
    ),
    (["run", "digits-small", "--set", "stop=[stabel]"], "Unknown stopping rule 'stabel'. Known: all_of"),
    (["run", "digits-small", "--set", "stop=[{name: cost}]"], "The stopping rule 'cost' needs a setting 'limit'"),
    (["run", "digits-small", "--set", "stop=[{name: cost, limit: 9}]"], "and these cost nothing; give the data set"),
    (["run", "digits-small", "--set", "stop=[{name: cost, needs_costs: no}]"], "it has: limit"),
    (["run", "digits-small", "--set", "stop=[{name: wall_time, minutes: 0}]"], "minutes above 0, not 0"),
    (["run", "digits-small", "--set", "stop=[{name: validation_accuracy, target: 0.9}]"], "say how many labels go"),
    (["run", "digits-small", "--set", "stop=[{name: all_of, rules: 3}]"], "'rules' of the stopping rule 'all_of'"),
    (["run", "digits-small", "--set", "stop=bad.py:Odd"], "inherits from activebdl.StoppingRule"),
    (["run", "digits-small", "--set", "stop=bad.py:Wordless"], "must say in words why to stop, or None; it gave True"),
    (["run", "diabetes", "--set", "stop=stable_predictions"], "is for classes, and the labels are numbers"),
    (["run", "digits-small", "--set", "validation=20"], "begin with more than 20 labels"),
    (["run", "digits-small", "--set", "stop_set=0"], "stop_set should be greater than or equal to 1"),
    (["compare", "digits-small", "--strategies", "bald,bald"], "bald twice"),
    (["compare", "digits-small", "--runs", "file"], "cannot be"),
    (["compare", "digits-small", "--posteriors", "mc"], "Unknown posterior 'mc'. Known: "),
    (["compare", "digits-small", "--posteriors", "laplace,laplace"], "compare.posteriors has laplace twice"),
    (["compare", "digits-small", "--posteriors", "mc_dropout,map"], "those of MAP never do"),
    (["compare", "digits-small", "--jobs", "0"], "how many runs go on at a time, 1 or more, not 0"),
    (["compare", "digits-small", "--jobs", "2", "--oracle", "web"], "The labelling page serves one run at a time"),
    (["uncertainty", "moons", "--posteriors", "mc"], "Unknown posterior 'mc'. Known: "),
    (["uncertainty", "moons", "--out", "file/inside"], "'file/inside' cannot be made: Not a directory"),
    (["ui", "--port", "99999"], "A port is a number from 1 to 65535, not 99999"),
    (["resume", "nothing"], "There is no run 'nothing' in 'runs'. Known: none yet"),
]

BAD_FILE = """
import torch
from activebdl import ActiveDataset, StoppingRule
class Wordless(StoppingRule):
    def reason(self, rounds): return True
def wrong_shape(items): return [0]
def out_of_range(items): return [10] * len(items)
class Odd:
    def submit(self, request):
        self.ids = request.ids
        return "ticket"
    def poll(self, ticket):
        from activebdl import Annotation
        return [Annotation(id, 2.5) for id in self.ids]
odd_object = Odd()
def no_dropout(shape, classes): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
Net = torch.nn.Sequential
def too_narrow(shape, classes): return Net(torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(64, 3))
def with_nan():
    x, y = torch.rand(50, 1, 8, 8), torch.arange(50) % 10
    x[3] = float("nan")
    return ActiveDataset.from_arrays(x, y, x[10:], y[10:])
"""


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_users_mistake_is_one_clear_sentence_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In this process, for speed; the exit code of a real one is checked below."""
    from activebdl.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text(BAD_FILE)
    (tmp_path / "bad.yaml").write_text("dataset: digits\nbudgt: 3\n")
    (tmp_path / "file").write_text("")
    mlflow = [] if arguments[0] in ("list", "ui", "uncertainty") else ["--no-mlflow"]
    with pytest.raises(SystemExit) as exit:
        main([*arguments, *mlflow])
    assert exit.value.code == 2
    told = capfd.readouterr().err.strip()
    assert message in told
    assert told.startswith("Error: ")
    assert "\n" not in told
    assert "Traceback" not in told


def test_a_mistake_in_a_real_process(tmp_path: Path) -> None:
    result = activebdl(tmp_path, "run", "mnits", check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("Error: Unknown preset")
    assert result.stdout == ""
    assert not (tmp_path / "runs").exists()
    assert activebdl(tmp_path, "run", "--no-such-option", check=False).returncode == 2


def test_the_core_imports_without_what_only_the_command_line_needs(tmp_path: Path) -> None:
    """On a machine that has torch and numpy alone."""
    code = (
        "import sys\n"
        "for name in ('mlflow', 'pydantic', 'typer', 'matplotlib', 'scipy', 'yaml', 'tqdm', 'sklearn', 'pooch'):\n"
        "    sys.modules[name] = None\n"
        "import torch, activebdl\n"
        "x, y = torch.randn(60, 2), torch.arange(60) % 3\n"
        "data = activebdl.ActiveDataset.from_arrays(x, y, x, y)\n"
        "net = lambda: torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))\n"
        "method = activebdl.MCDropout(activebdl.Training(steps=3))\n"
        "cycle = activebdl.ActiveLearning(data, net, posterior=method, counts=(5, 10), device='cpu')\n"
        "print([round.n_labels for round in cycle])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "[5, 10]", result.stderr
