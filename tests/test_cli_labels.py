"""Commands about labels: what they hand on, and what they say."""

from pathlib import Path
from typing import Any

import pytest

from activebdl import cli_labels
from activebdl.cli import main


def code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main([*arguments])
    return int(exit.value.code or 0)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for people, to whom the page shows nothing of the model's."""
    monkeypatch.chdir(tmp_path)
    options = ["--set", "oracle.cost=2", "--name", "a run", "--no-mlflow"]
    assert code_of("run", "digits-small", "--oracle", "files", *options) == 3


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize(
    ("options", "given"),
    [
        ([], {}),
        (["--predictions", "--open"], {"predictions": "shown", "open_browser": True}),
        (["--no-predictions", "--no-open"], {"predictions": "hidden", "open_browser": False}),
        (["--port", "8123"], {"port": 8123}),
    ],
)
def test_the_page_is_as_the_command_says(
    options: list[str], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[Any] = []
    monkeypatch.setattr(cli_labels, "_go_on", lambda folder, runs, mlflow, page: pages.append(page))
    assert code_of("label", "a run", *options) == 0
    assert pages[0].name == "web" and pages[0].options == {"cost": 2, **given}


@pytest.mark.usefixtures("begun")
def test_labels_are_not_exported_to_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("labels", "a run", "--export", ".") == 2
    assert "Error: '.' cannot be written: Is a directory." in capsys.readouterr().err


@pytest.mark.usefixtures("begun")
def test_a_name_with_a_space_is_quoted_where_a_command_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("activebdl.runs.resume", stopped)
    assert code_of("resume", "a run", "--no-mlflow") == 130
    assert "go on with: activebdl resume 'a run'\n" in capsys.readouterr().err
