from pathlib import Path

import pytest
import torch

from activebdl import UserError, resolve
from activebdl.registry import Registry
from activebdl.strategies import strategies


def fresh() -> Registry[object]:
    return Registry("strategy", "activebdl.strategies", lambda name, found: (name, found))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'balt'. Known: badge, .*variation_ratios.*; or name your own"):
        strategies.get("balt")


def test_a_name_is_taken_only_once() -> None:
    registry = fresh()
    registry.register("mine", 1)
    with pytest.raises(UserError, match="'mine' is already taken"):
        registry.register("mine", 2)


CELL = "from activebdl import strategy\n@strategy('cell')\ndef {}(log_probs):\n    return log_probs[:, 0, {}]\n"


def test_a_notebooks_cell_may_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    strategies.names()
    monkeypatch.setattr(strategies, "_known", {found.name: found for found in strategies.known()})
    table = torch.rand(4, 2, 3)
    for c in (0, 2):
        session = {"__name__": "__main__"}
        exec(CELL.format("mine", c), session)
        assert torch.equal(resolve("cell").scores(table), table[:, 0, c])
        assert resolve(session["mine"]).name == "cell"  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'cell' is already taken"):
        exec(CELL.format("another", 1), {"__name__": "__main__"})
    with pytest.raises(UserError, match="'cell' is already taken"):
        exec(CELL.format("mine", 1), {"__name__": "tests.test_registry"})


def test_a_module_and_a_file_are_found_by_reference(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def score(log_probs):\n    return 7\n")
    name, found = fresh().get(f"{file}:score")  # type: ignore[misc]
    assert name == f"{file}:score"
    assert found(None) == 7  # type: ignore[operator]
    assert fresh().get("math:pi") == ("math:pi", pytest.approx(3.14159265))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere.py:f", "There is no file 'nowhere.py'"),
        ("no_such_package:f", "Cannot import 'no_such_package'"),
        ("math:tau_and_a_half", "'math' has no 'tau_and_a_half' to use as a strategy"),
    ],
)
def test_a_bad_reference_says_what_is_wrong(reference: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fresh().get(reference)


def test_a_file_with_a_decorated_strategy_and_an_oracle_is_run_once(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from activebdl import strategy\n"
        "@strategy('decorated', needs_disagreement=True)\ndef mine(log_probs):\n    return log_probs[:, 0, 0]\n"
        "def label(items):\n    return [0] * len(items)\n"
    )
    assert strategies.get(f"{file}:mine").name == "decorated"
    assert strategies.get(f"{file}:mine").needs_disagreement
    assert fresh().get(f"{file}:label") is not None
    assert f"{file}:mine" not in strategies.names()


def test_a_file_that_raises_is_told_with_its_error(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        fresh().get(f"{file}:f")
