"""Files that others can read: what they hold, and what must be installed for them."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import torch

from activebdl import portable

CPU = torch.device("cpu")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> str:
            raise TypeError("no")

    portable.save({"x": torch.arange(3)}, tmp_path / "a.pkl")
    with pytest.raises(TypeError, match="no"):
        portable.save([torch.zeros(10_000), Bad()], tmp_path / "a.pkl")
    assert portable.load(tmp_path / "a.pkl", CPU)["x"].tolist() == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["a.pkl"]


def test_what_is_needed_is_named_in_the_versions_of_here(tmp_path: Path) -> None:
    portable.save(pd.Timestamp("2020-01-01"), tmp_path / "a.pkl")
    needed = portable.requirements(tmp_path / "a.pkl")
    assert f"pandas=={version('pandas')}" in needed
    assert f"torch=={version('torch').partition('+')[0]}" in needed  # a local build is on no index
    assert not [name for name in needed if name.startswith(("activebdl", "mlflow"))]
    portable.save(3, tmp_path / "b.pkl")
    assert [name.partition("==")[0] for name in portable.requirements(tmp_path / "b.pkl")] == [
        "cloudpickle", "numpy", "torch",
    ]  # fmt: skip


def test_a_function_of_a_module_on_the_path_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_users_module.py").write_text("N = 40\ndef f(x):\n    return x + N\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import a_users_module  # pyright: ignore[reportMissingImports]

    portable.save(a_users_module.f, tmp_path / "f.pkl")
    script = "import sys, pathlib, torch\nfrom activebdl import portable\n"
    script += "print(portable.load(pathlib.Path(sys.argv[1]), torch.device('cpu'))(2), 'a_users_module' in sys.modules)"
    command = [sys.executable, "-c", script, str(tmp_path / "f.pkl")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["42", "False"]


SCRIPT = """
import multiprocessing, pathlib, sys
from activebdl import portable

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=portable.save, args=({"a": 1}, pathlib.Path("a.pkl")))
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


def test_a_process_that_a_script_has_spawned_keeps_its_things_too(tmp_path: Path) -> None:
    """There the script is known as two modules, which are one."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert portable.load(tmp_path / "a.pkl", torch.device("cpu")) == {"a": 1}


def test_a_module_that_may_not_be_imported_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "forbidden", None)
    portable.save([1, 2], tmp_path / "a.pkl")
    assert portable.load(tmp_path / "a.pkl", torch.device("cpu")) == [1, 2]
