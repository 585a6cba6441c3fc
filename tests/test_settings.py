"""Settings as they are written and changed: none is without effect, and none is lost, without a word."""

from pathlib import Path
from typing import Any

import pytest

from activebdl import UserError
from activebdl.spec import Named, RunSpec, read_spec


def written(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


def compared(spec: RunSpec) -> tuple[list[Any], tuple[int, ...]]:
    """Strategies, by name where they have no options, and seeds."""
    named = [strategy.model_dump() if strategy.options else strategy.name for strategy in spec.compare.strategies]
    return named, spec.compare.seeds


MARGIN = "extends: mnist-1000\nstrategy: margin\n"


@pytest.mark.parametrize(
    ("text", "strategies", "seeds"),
    [
        ("dataset: digits\nstrategy: margin\nseed: 3\n", ["margin", "random"], (3,)),
        ("dataset: digits\nstrategy: random\n", ["random"], (0,)),
        ("dataset: digits\n", ["power_bald", "random"], (0,)),
        ("strategy: margin\ncompare: {seeds: [1, 2]}\n", ["margin", "random"], (1, 2)),
        ("strategy: margin\nseed: 3\ncompare: {strategies: [bald]}\n", ["bald"], (3,)),
        (MARGIN, ["margin", "random"], (0,)),
        (f"{MARGIN}compare: {{strategies: [bald]}}\n", ["bald"], (0,)),
        ("extends: mnist-1000\nbudget: 60\n", [{"name": "power_bald", "beta": 4}, "random"], (0,)),
        ("extends: mnist-1000\nseed: 9\n", [{"name": "power_bald", "beta": 4}, "random"], (9,)),
    ],
)
def test_a_file_compares_its_own_strategy_and_seed(
    text: str, strategies: list[Any], seeds: tuple[int, ...], tmp_path: Path
) -> None:
    assert compared(read_spec(written(tmp_path, text))) == (strategies, seeds)


@pytest.mark.parametrize(
    ("changes", "strategies", "seeds"),
    [
        ({}, ["bald", "random"], (0, 1)),
        ({"posterior.training.steps": 3, "budget": 60}, ["bald", "random"], (0, 1)),
        ({"strategy": "margin"}, ["margin", "random"], (0, 1)),
        ({"strategy.name": "power_bald", "strategy.beta": 9}, [{"name": "power_bald", "beta": 9}, "random"], (0, 1)),
        ({"seed": 7}, ["bald", "random"], (7,)),
        ({"seed": 7, "compare.seeds": [1]}, ["bald", "random"], (1,)),
        ({"strategy": "margin", "compare": {"strategies": ["badge"]}}, ["badge"], (0,)),
    ],
)
def test_a_changed_strategy_or_seed_is_what_is_compared(
    changes: dict[str, Any], strategies: list[Any], seeds: tuple[int, ...]
) -> None:
    assert compared(read_spec("digits-small", changes)) == (strategies, seeds)


def test_another_posterior_takes_the_place_of_those_compared_and_its_options_do_not(tmp_path: Path) -> None:
    source = written(tmp_path, "compare: {posteriors: [laplace, swag]}\n")
    both = (Named(name="laplace"), Named(name="swag"))
    assert read_spec(source, {"posterior.training.steps": 3}).compare.posteriors == both
    assert read_spec(source, {"posterior.name": "map"}).compare.posteriors == ()
    assert read_spec(source, {"posterior": "map"}).compare.posteriors == ()


def test_counts_one_by_one_are_not_silently_above_a_budget(tmp_path: Path) -> None:
    source = written(tmp_path, "dataset: digits\ncounts: [10, 20]\n")
    for key in ("budget", "initial", "query_size", "growth"):
        with pytest.raises(UserError, match=f"one by one, so {key} would change nothing.* counts=null"):
            read_spec(source, {key: 10})
    (tmp_path / "above.yaml").write_text("extends: mine.yaml\nbudget: 30\n")
    with pytest.raises(UserError, match=r"above\.yaml: .* so budget would change nothing"):
        read_spec(str(tmp_path / "above.yaml"))
    assert read_spec(source, {"counts": [10, 30], "budget": 30}).label_counts() == (10, 30)
    assert read_spec(source, {"counts": None, "budget": 60}).label_counts() == (20, 40, 60)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget: 10\nseed: 1\nbudget: 7\n", r"mine\.yaml, line 3: 'budget' stands there twice, first on line 1"),
        ("posterior: {name: map, name: swag}\n", r"line 1: 'posterior\.name' stands there twice"),
        ("compare:\n  strategies: [{name: bald},\n    {name: a,\n  name: b}]\n", "line 4: 'compare.strategies.1.name'"),
        ("dataset: &here [*here]\n", "an alias of what it stands in"),
    ],
)
def test_a_file_that_says_two_things_is_told(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_spec(written(tmp_path, text))
