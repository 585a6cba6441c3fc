"""The notebooks run from top to bottom in their fast form, and those that are committed are as a run leaves them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

HERE = Path(__file__).parents[2] / "notebooks"
NAMES = ["1-the-cycle", "2-comparing-strategies", "3-your-own", "4-what-posteriors-believe"]

MACHINE = re.compile(r"(?<![\w.:])(/(?:home|root|tmp|var|usr|opt|mnt|work|Users|private)/|[A-Z]:\\)|\b\w+@\w+:")
"""What names a folder or a machine."""


def test_these_are_all() -> None:
    assert sorted(path.stem for path in HERE.glob("*.ipynb")) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs_in_its_fast_form_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in HERE.rglob("*") if path.is_file()}

    before = files()
    command = [sys.executable, str(HERE / "run.py"), str(HERE / f"{name}.ipynb")]
    fast = os.environ | {"ACTIVEBDL_FAST": "1", "ACTIVEBDL_OFFLINE": "1", "ACTIVEBDL_DATA": str(tmp_path / "none")}
    done = subprocess.run(command, env=fast, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}.ipynb: ")
    assert files() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_was_run_from_top_to_bottom_without_a_complaint(name: str) -> None:
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [cell.id for cell in notebook.cells] == [f"cell-{i:02}" for i in range(1, len(notebook.cells) + 1)]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_names_no_machine_and_is_small(name: str) -> None:
    path = HERE / f"{name}.ipynb"
    assert path.stat().st_size < 400_000
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    told = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        assert cell.metadata == {}  # no times
        for output in cell.get("outputs", []):
            told += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
    assert [text for text in told if MACHINE.search(text)] == []


@pytest.mark.parametrize("page", [*(f"{name}.ipynb" for name in NAMES), "README.md"])
def test_every_file_it_links_to_exists(page: str) -> None:
    if page.endswith(".md"):
        text = (HERE / page).read_text(encoding="utf-8")
    else:
        cells = nbformat.read(HERE / page, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert [link for link in links if not (HERE / link).exists()] == []
