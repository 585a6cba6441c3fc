"""The oracles of the README beside them, as it says, by the command line."""

import json
import re
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from activebdl import load
from activebdl.cli import main
from activebdl.journal_reading import read_history, read_rounds
from activebdl.oracles import oracles

README = Path(__file__).parents[2] / "activebdl" / "oracles" / "README.md"
QUICK = ["--no-mlflow", "--budget=30", "--query-size=10", "--set=posterior.training.steps=5", "--set=test_draws=2"]


def truth() -> Tensor:
    labels = load("digits").labels
    assert labels is not None
    return labels


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's three oracles in mine.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("activebdl.asking._LONGEST_PAUSE", 0.05)
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 3
    (tmp_path / "mine.py").write_text("\n".join(code))
    return tmp_path


def run(name: str, *more: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main(["run", "digits-small", "--name", name, *more, *QUICK])
    return int(exit.value.code or 0)


def labels_of(folder: Path, name: str) -> dict[int, int | float | None]:
    lines, _ = read_history(folder / "runs" / name / "journal.sqlite")
    return {line.annotation.id: line.annotation.label for line in lines}


def test_a_function_at_the_terminal(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def person(prompt: str) -> str:
        told = capsys.readouterr().out
        asked.append(int(re.findall(r"item (\d+):", told)[-1]))
        assert re.search(r"[.:#]", told.rpartition("item")[2])  # and a picture
        return "" if len(asked) == 3 else str(int(truth()[asked[-1]]))

    monkeypatch.setattr("builtins.input", person)
    assert run("hand", "--oracle", "mine.py:by_hand") == 0
    found = labels_of(here, "hand")
    assert len(asked) == 31 and list(found) == asked
    assert found == {id: None if id == asked[2] else int(truth()[id]) for id in asked}


@pytest.mark.parametrize("folder", ["lab", "answers"])
def test_an_inbox(here: Path, folder: str) -> None:
    stop = threading.Event()

    def somebody() -> None:
        while not stop.is_set():
            wanted = here / folder / "wanted.md"
            for id in re.findall(r"- (\d+).txt", wanted.read_text() if wanted.exists() else ""):
                (here / folder / f"{id}.txt").write_text(f"{int(truth()[int(id)])}\n")
            time.sleep(0.01)

    thread = threading.Thread(target=somebody, daemon=True)
    thread.start()
    options = ["--set", "oracle.folder=lab"] if folder == "lab" else []  # else what the class says by itself
    assert run("lab", "--oracle", "mine.py:Inbox", "--set", "time_limit=60", *options) == 0
    stop.set()
    thread.join()
    found = labels_of(here, "lab")
    assert len(found) == 30 and all(label == int(truth()[id]) for id, label in found.items())


@contextmanager
def service(fails: int = 0) -> Generator[tuple[str, list[tuple[str, Any]]]]:
    """Labels what is sent to it, three items a look; its first answers may be errors."""
    seen: list[tuple[str, Any]] = []
    known: dict[str, list[Any]] = {}
    looks: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, content))
            known[self.path] = content["items"]
            self.answer({})

        def do_GET(self) -> None:
            looks[self.path] = looks.get(self.path, 0) + 1
            if sum(looks.values()) == fails:
                self.send_error(503)
                return
            done = known[self.path][: 3 * looks[self.path]]
            self.answer([{"id": i["id"], "label": int(truth()[i["id"]]), "who": "she", "seconds": 2} for i in done])

        def answer(self, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_service_that_fails_once_and_a_budget_in_cost(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with service(fails=2) as (url, seen):
        options = ["--set", f"oracle.url={url}", "--set", "max_cost=1.23"]
        assert run("paid", "--oracle", "mine.py:Service", *options) == 2
        assert "The oracle's poll failed: HTTPError: HTTP Error 503" in capsys.readouterr().err
        assert len(labels_of(here, "paid")) == 3
        with pytest.raises(SystemExit) as exit:
            main(["resume", "paid", "--no-mlflow"])
        assert exit.value.code == 0
    assert "stopped: the budget in cost of 1.23 is spent: 1.2 paid" in capsys.readouterr().out
    found = labels_of(here, "paid")
    assert len(found) == 24 and all(label == int(truth()[id]) for id, label in found.items())
    assert [(path, len(content["items"])) for path, content in seen] == [
        ("/round-0-attempt-0", 20), ("/round-0-attempt-0", 17), ("/round-1-attempt-0", 4),
    ]  # fmt: skip
    assert len(seen[0][1]["classes"]) == 10 and len(seen[0][1]["items"][0]["pixels"][0]) == 8
    rounds = read_rounds(here / "runs/paid/journal.sqlite")
    assert [record.n_labels for record in rounds] == [20, 24]


def test_every_oracle_and_option_that_it_names_is_there() -> None:
    import inspect

    table = re.findall(r"^\| `(\w+)` \| .*? \| (.*?) ?\|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name, _ in table} == {name for name in oracles.names() if ":" not in name}
    for name, options in table:
        takes = set(inspect.signature(oracles.get(name)).parameters)
        assert set(re.findall(r"`(\w+)`", options)) <= takes
    for link in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / link).exists()
