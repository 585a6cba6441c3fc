"""The READMEs' Python is run as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from activebdl import ActiveLearning, MCDropout, Training, UserError, label_counts, load, resolve
from activebdl.networks import make_network
from activebdl.strategies import strategies
from activebdl.strategies._gallery import README as GALLERY
from tests.strategies.fakes import pool

README = Path(__file__).parents[2] / "README.md"
POSTERIORS = README.parent / "activebdl/posteriors/README.md"


def code(readme: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is forgotten after it."""
    strategies.names()
    monkeypatch.setattr(strategies, "_known", {found.name: found for found in strategies.known()})


def test_the_ten_lines_run_and_learn(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(code(README)[0], str(README), "exec"), names)
    told = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [int(n) for n, *_ in told] == [20, 40, 60, 80, 100]
    assert float(told[-1][1]) > 0.85


def test_the_posteriors_page_puts_laplace_around_a_network_and_learns_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names: dict[str, object] = {}
    laplace, numbers = code(POSTERIORS)
    exec(compile(laplace, str(POSTERIORS), "exec"), names)
    assert capsys.readouterr().out == "torch.Size([200, 20, 10])\n"
    exec(compile(numbers, str(POSTERIORS), "exec"), names)
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(n) for n, _ in told] == [10, 20, 30, 40, 50]
    assert float(told[-1][1]) < 71  # the error of always saying the mean


def learns(strategy: Any) -> list[tuple[int, ...]]:
    """What two rounds on digits ask for."""
    data = load("digits")
    network = make_network("mlp", data.input_shape, data.target.width)
    method, counts = MCDropout(Training(steps=5)), label_counts(initial=20, budget=30, query_size=10)
    cycle = ActiveLearning(data, network, counts=counts, posterior=method, strategy=strategy, test_draws=2)
    return [round.ids for round in cycle]


@pytest.mark.usefixtures("forgetting")
def test_the_readmes_own_strategies_do_what_they_say() -> None:
    names: dict[str, Any] = {}
    exec(compile(code(README)[-1], str(README), "exec"), names)
    known = pool(40, seed=1, labelled=6)
    apart = {
        i: max(float(p[j, c] - p[k, c]) for j in range(5) for k in range(5) for c in range(3))
        for i in known.unlabelled
        for p in [known.log_probs[i].exp()]
    }
    best = sorted(apart, key=lambda i: apart[i], reverse=True)
    assert known.choose("spread", 5) == best[:5]
    chosen = [known.choose("half_random", 10, seed) for seed in range(80)]
    assert all(ids[:5] == best[:5] for ids in chosen)
    assert {i for ids in chosen for i in ids[5:]} > set(best[20:])
    assert learns(names["half_random"]) == learns("half_random")
    assert len(learns("power_spread")[1]) == 10


@pytest.mark.usefixtures("forgetting")
def test_the_gallerys_own_strategies_do_what_they_say(tmp_path: Path) -> None:
    score, joint = code(GALLERY)
    (tmp_path / "mine.py").write_text(score + joint)
    known = pool(40, seed=1, labelled=6, classes=4)
    second = {i: sorted(known.p[i].tolist())[-2] for i in known.unlabelled}
    best = sorted(second, key=lambda i: second[i], reverse=True)
    assert known.choose(f"{tmp_path}/mine.py:runner_up", 8) == known.choose("runner_up", 8) == best[:8]
    assert known.choose("runner_up", 8, sharpness=9.0) != best[:8]
    of_class = {c: [i for i in known.unlabelled if int(known.p[i].argmax()) == c] for c in range(4)}
    turns: list[set[int]] = [set(), set()]  # the least confident of each class, and the second
    for ids in of_class.values():
        for turn, i in zip(turns, sorted(ids, key=lambda i: float(known.p[i].max())), strict=False):
            turn.add(i)
    chosen = known.choose("one_of_each", 8)
    assert [set(chosen[:4]), set(chosen[4:])] == turns
    assert len(learns("power_runner_up")[1]) == len(learns("one_of_each")[1]) == 10
    assert resolve("one_of_each").memory == "N C"
    with pytest.raises(UserError, match="'one_of_each' is for classes"):
        ActiveLearning(load("diabetes"), lambda: torch.nn.Linear(10, 2), counts=(5, 9), strategy="one_of_each")


@pytest.mark.usefixtures("forgetting")
def test_the_commands_of_the_gallery_take_its_own_strategies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from activebdl.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/mine.py").write_text("".join(code(GALLERY)))
    for name in ("here/mine.py:one_of_each", "power_here/mine.py:runner_up"):
        option = ["--set", "strategy.sharpness=2"] if "runner_up" in name else []
        quick = ["--no-mlflow", "--budget", "30", "--query-size", "10", "--set", "posterior.training.steps=3"]
        with pytest.raises(SystemExit) as exit:
            main(["run", "digits-small", "--strategy", name, *option, *quick])
        assert exit.value.code == 0
    written = [path.read_text() for path in sorted((tmp_path / "runs").rglob("spec.yaml"))]
    assert len(written) == 2 and "sharpness: 2.0" in written[1]


def test_every_command_it_names_exists() -> None:
    from typer.main import get_command

    from activebdl.cli import app

    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^ {4}|`)activebdl ([a-z]+)", text, re.MULTILINE))
    assert named <= set(get_command(app).commands)  # type: ignore[attr-defined]
    assert {
        "run",
        "compare",
        "report",
        "resume",
        "label",
        "ingest",
        "labels",
        "list",
        "data",
        "uncertainty",
        "ui",
    } <= named


@pytest.mark.parametrize("readme", [README, GALLERY, POSTERIORS], ids=["main", "gallery", "posteriors"])
def test_every_file_it_links_to_exists(readme: Path) -> None:
    links = re.findall(r"\]\((?!https://)([^)#]+)\)", readme.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (readme.parent / link).exists()] == []
