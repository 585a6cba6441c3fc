"""The README's Python is run as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_the_ten_lines_run_and_learn_and_laplace_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    cycle, numbers, laplace = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(cycle, str(README), "exec"), names)
    told = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [int(n) for n, *_ in told] == [20, 40, 60, 80, 100]
    assert float(told[-1][1]) > 0.85
    exec(compile(numbers, str(README), "exec"), names)
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(n) for n, _ in told] == [10, 20, 30, 40, 50]
    assert float(told[-1][1]) < 71  # the error of always saying the mean
    exec(compile(laplace, str(README), "exec"), names)
    assert capsys.readouterr().out == "torch.Size([200, 20, 10])\n"


def test_every_command_it_names_exists() -> None:
    from typer.main import get_command

    from activebdl.cli import app

    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"activebdl (run|compare|resume|list|data|ui|\w+ing)\b", text))
    assert named <= set(get_command(app).commands)  # type: ignore[attr-defined]
    assert {"run", "compare", "resume", "list", "data", "ui"} <= named


def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
