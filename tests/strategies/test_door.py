"""The door: one's own strategy by decorator, entry point, module and file, in Python and on the command line."""

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from activebdl import ActiveDataset, ActiveLearning, MCDropout, Training, UserError, resolve
from activebdl.journal import Journal
from activebdl.listings import listings
from activebdl.strategies import strategies
from tests.conftest import small_network
from tests.strategies.fakes import pool

MINE = '''
from activebdl import joint_strategy, strategy

def least(log_probs, *, of: int = 0):
    """How improbable a class is."""
    return 1 - log_probs[:, :, of].exp().mean(dim=1)

def last(query, *, skip: int = 0):
    """The last ones."""
    end = len(query.unlabelled) - skip
    return query.unlabelled[end - query.quantity : end]

@strategy("door_least", paper="Me 2026")
def decorated_least(log_probs, *, of: int = 0):
    """How improbable a class is."""
    return least(log_probs, of=of)

@joint_strategy("door_last", needs=("items",), paper="Me 2026", memory="N")
def decorated_last(query, *, skip: int = 0):
    """The last ones."""
    return last(query, skip=skip)
'''
POINTS = """
[activebdl.strategies]
far_least = door_module:least
far_last = door_module:last
door_least = door_module:decorated_least
door_last = door_module:decorated_last
power_of_mine = door_module:least
broken = door_module:nothing
"""
LEAST = [
    "FILE:least", "FILE:decorated_least", "door_module:least", "door_module:decorated_least", "far_least", "door_least",
]  # fmt: skip
LAST = [name.replace("least", "last") for name in LEAST]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of one's own, which is also a module, and a package that is installed with entry points to it."""
    strategies.names()  # the library's own are imported, and what comes now is forgotten after the test
    monkeypatch.setattr(strategies, "_known", {found.name: found for found in strategies.known()})
    monkeypatch.delitem(sys.modules, "door_module", raising=False)
    (tmp_path / "door_module.py").write_text(MINE)
    about = tmp_path / "door-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: door\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "door_module.py"


def named(name: str, file: Path) -> str:
    return name.replace("FILE", str(file))


@pytest.mark.parametrize("name", LEAST)
def test_a_score_through_every_door(name: str, file: Path) -> None:
    known = pool(12, seed=0, labelled=3)
    improbable = [(1 - known.p[i, 2].item(), i) for i in known.unlabelled]
    best = [i for _, i in sorted(improbable, reverse=True)]
    assert known.choose(named(name, file), 4, of=2) == best[:4]
    front = resolve(f"power_{named(name, file)}", beta=200.0, of=2)  # so strong that it draws the best
    assert front.select(known.query(1)).ids.tolist() == best[:1]
    assert resolve(f"per_cost_{named(name, file)}").needs_costs
    decorated = name == "door_least" or name.endswith(":decorated_least")
    assert resolve(named(name, file)).paper == ("Me 2026" if decorated else "")


@pytest.mark.parametrize("name", LAST)
def test_a_joint_strategy_through_every_door(name: str, file: Path) -> None:
    known = pool(12, seed=0, labelled=3)
    assert known.choose(named(name, file), 4, skip=1) == known.unlabelled[-5:-1]
    with pytest.raises(UserError, match="has no scores"):
        resolve(f"power_{named(name, file)}")


@pytest.mark.parametrize(("least", "last"), list(zip(LEAST, LAST, strict=True)))
def test_in_the_cycle_in_python(least: str, last: str, file: Path, dataset: ActiveDataset) -> None:
    def rounds(strategy: Any) -> list[tuple[int, ...]]:
        method = MCDropout(Training(steps=3))
        cycle = ActiveLearning(
            dataset, small_network, counts=(5, 9), posterior=method, strategy=strategy, draws=4, test_draws=2,
            device="cpu",
        )  # fmt: skip
        return [round.ids for round in cycle]

    def same(log_probs: Tensor) -> Tensor:
        return 1 - log_probs[:, :, 0].exp().mean(dim=1)

    assert rounds(named(least, file)) == rounds(same)
    first, second = rounds(named(last, file))
    assert list(second) == [i for i in range(120) if i not in first][-4:]


def run(folder: Path, *arguments: str) -> int:
    from activebdl.cli import main

    quick = ["--no-mlflow", "--budget", "30", "--query-size", "10", "--draws", "4"]
    with pytest.raises(SystemExit) as exit:
        main([*arguments, *quick, "--set", "posterior.training.steps=3", "--runs", str(folder / "runs")])
    assert isinstance(exit.value.code, int)
    return exit.value.code


def test_on_the_command_line(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All doors side by side, with the same seed: all scores ask for the same, and all joint ones for the last."""
    monkeypatch.chdir(tmp_path)
    for number, names in enumerate((LEAST, LAST)):
        asked: set[tuple[int, ...]] = set()
        start: set[int] = set()
        for name in names:
            code = run(tmp_path, "run", "digits-small", "--strategy", named(name, Path(file.name)), "--name", "one")
            assert code == 0
            (folder,) = (tmp_path / "runs").iterdir()
            with Journal(folder / "journal.sqlite") as journal:
                request = journal.request(1, 0)
                assert request is not None
                start = set(journal.annotations(0, 0))
            asked.add(request.ids)
            folder.rename(tmp_path / f"{number}-{name.replace(':', '-')}")
        assert len(asked) == 1
        if names is LAST:
            assert asked == {tuple(i for i in range(1297) if i not in start)[-10:]}


def test_the_list_has_those_of_other_packages_and_says_what_is_broken(file: Path) -> None:
    rows = listings()["strategies"]()
    about = dict(rows)
    assert about["far_least"] == about["door_least"] == "How improbable a class is."
    after = {name: facts.split() for (name, _), (_, facts) in itertools.pairwise(rows)}
    assert after["far_least"] == ["score", "classes", "N", "draws", "-"]
    assert after["door_least"] == ["score", "classes", "N", "draws", "Me", "2026"]
    assert after["far_last"] == ["joint", "any", "-", "draws", "-"]
    assert after["door_last"] == ["joint", "any", "N", "items", "Me", "2026"]
    assert about["broken"].startswith(
        "The strategy 'broken' of the package 'door' cannot be loaded (door_module:nothing): "
    )
    with pytest.raises(UserError, match="'broken' of the package 'door' cannot be loaded .*no attribute 'nothing'"):
        resolve("broken")


def test_a_name_that_begins_like_a_rule_is_ones_own_where_there_is_one(file: Path, tmp_path: Path) -> None:
    for other in ("power_tools.py", "per_cost_tools.py"):
        (tmp_path / other).write_text(MINE.partition("@")[0])
    expected = pool(12, seed=0).choose(f"{file}:least", 3)
    for name in (f"{tmp_path}/power_tools.py:least", "power_tools:least", "per_cost_tools:least", "power_of_mine"):
        found = resolve(name)
        assert found.beta is None and not found.needs_costs
        assert pool(12, seed=0).choose(name, 3) == expected
    assert resolve("power_power_of_mine").beta == 1.0


def test_a_file_beside_the_user_that_begins_like_a_rule(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "power_tools.py").write_text(MINE.partition("@")[0])
    assert resolve("power_tools.py:least").beta is None
    assert resolve("power_door_module.py:least").beta == 1.0
    assert torch.equal(resolve("power_tools.py:least").scores(torch.zeros(2, 1, 2)), torch.zeros(2))
