"""Label Studio as an oracle, against a real server, which is installed from the package registry at the first time."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from activebdl import ActiveDataset, Annotation, Normalise, UserError
from activebdl.build import build
from activebdl.data import load
from activebdl.journal import Journal
from activebdl.journal_reading import read_rounds
from activebdl.spec import read_spec
from activebdl.targets import Numbers
from tests.oracles.label_studio.conftest import NAMES, answers, connect, request_of
from tests.oracles.label_studio.real import TOKEN, USER, RealLabelStudio

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SETTINGS = {"posterior.training.steps": "60", "initial": "10", "budget": "26", "query_size": "8"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLabelStudio]:
    server = RealLabelStudio(tmp_path_factory.mktemp("server") / "data")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def personal(server: RealLabelStudio) -> str:
    """The user's personal access token; there is but one at a time."""
    return server.call("POST", "/api/token/", {})["token"]


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)


def tiny(names: tuple[str, ...] = NAMES) -> ActiveDataset:
    pool, labels = torch.arange(300).view(300, 1, 1, 1).expand(300, 3, 4, 6) % 256, torch.arange(300) % len(names)
    pool = pool.to(torch.uint8).contiguous()
    return ActiveDataset.from_arrays(pool, labels, pool[:9], labels[:9], name="tiny", classes=names)


def test_labels_come_back_whatever_classes_are_called(server: RealLabelStudio) -> None:
    data = tiny()
    predictions = torch.full((250, 7), 1 / 7)
    request = request_of(data, *range(250), predictions=predictions, scores=(0.5,) * 250)
    oracle = connect(data, server, project="odd names")
    ticket = oracle.submit(request)
    assert oracle.poll(ticket) == []
    tasks = {task["data"]["id"]: task["id"] for task in server.tasks("odd names")}
    assert sorted(tasks) == list(range(250))  # three pages
    made = {id: server.annotate(tasks[id], name) for id, name in enumerate(NAMES)}
    server.annotate(tasks[249], None)
    said = list(oracle.poll(ticket))
    assert said[0] == Annotation(0, 0, USER, 0.0, 1.5)
    assert answers(said) == {id: id for id in range(len(NAMES))} | {249: None}
    server.call("DELETE", f"/api/annotations/{made[3]}/")
    result = [{"from_name": "label", "to_name": "item", "type": "choices", "value": {"choices": [NAMES[6]]}}]
    server.call("PATCH", f"/api/annotations/{made[1]}/", {"result": result})
    said += oracle.poll(ticket)
    expected = {0: 0, 1: 6, 2: 2, 4: 4, 5: 5, 6: 6, 249: None}
    assert answers(said) == expected
    again = connect(data, server, project="odd names")
    again.submit(request)
    assert answers(again.poll(ticket)) == expected and len(server.tasks("odd names")) == 250
    listed = server.call("GET", "/api/projects", title="odd names")["results"]
    assert [project["task_number"] for project in listed] == [250]  # by which one is chosen among several
    view = server.call("GET", "/api/dm/views", project=again._project)[0]
    assert len(server.call("GET", "/api/tasks", view=view["id"])["tasks"]) == 100


def test_the_tab_has_the_most_uncertain_first(server: RealLabelStudio) -> None:
    data = tiny(tuple("ab"))
    p = torch.tensor([0.5, 0.9, 0.99999, 0.7, 0.999])
    request = request_of(data, 0, 1, 2, 3, 4, predictions=torch.stack([p, 1 - p], dim=1))
    oracle = connect(data, server, project="uncertain")
    oracle.submit(request)
    (view,) = server.call("GET", "/api/dm/views", project=oracle._project)
    tasks = server.call("GET", "/api/tasks", view=view["id"], fields="all")["tasks"]
    assert [task["data"]["id"] for task in tasks] == [0, 3, 1, 4, 2]
    assert [task["predictions"][0]["score"] for task in tasks] == pytest.approx([0.5, 0.7, 0.9, 0.999, 0.99999])


def test_numbers(server: RealLabelStudio) -> None:
    x, y = torch.randn(4, 3), torch.zeros(4)
    data = ActiveDataset.from_arrays(x, y, x, y, name="numbers", numbers=Numbers(), normalise=Normalise())
    oracle = connect(data, server, project="numbers")
    ticket = oracle.submit(request_of(data, 0, 1, 2, predictions=torch.tensor([[0.5, 1.0]] * 3)))
    tasks = {task["data"]["id"]: task["id"] for task in server.tasks("numbers")}
    server.annotate(tasks[0], -2.75)
    server.annotate(tasks[2], None)
    assert answers(oracle.poll(ticket)) == {0: -2.75, 2: None}


def test_tokens(server: RealLabelStudio, personal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", personal)
    oracle = connect(tiny(), server, project="tokens")
    ticket = oracle.submit(request_of(tiny(), 1))
    server.annotate(server.tasks("tokens")[0]["id"], NAMES[1])
    assert oracle._client._access is not None
    oracle._client._access = oracle._client._access[:-6] + "AAAAAA"  # it is worth nothing any more
    assert answers(oracle.poll(ticket)) == {1: 1}
    for wrong in (personal[:-6] + "AAAAAA", TOKEN[:-1] + "x"):
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", wrong)
        with pytest.raises(UserError, match=r"does not take the API token in LABEL_STUDIO_API_KEY: .*[Ii]nvalid"):
            connect(tiny(), server)


def test_legacy_tokens_that_the_organisation_does_not_allow(
    server: RealLabelStudio, personal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    access = server.call("POST", "/api/token/refresh/", {"refresh": personal})["access"]
    server.call("POST", "/api/jwt/settings", both | {"legacy_api_tokens_enabled": False})
    try:
        with pytest.raises(UserError, match="does not take the API token .*legacy"):
            connect(tiny(), server)
    finally:
        monkeypatch.setattr(server, "headers", {"Authorization": f"Bearer {access}"})
        server.call("POST", "/api/jwt/settings", both)


RELUCTANT = """
from activebdl.data import load
labels = load("digits").labels
def look_up(items, ids):
    return [None if id == {refuse} else int(labels[id]) for id in ids.tolist()]
"""


def reference(folder: Path, refuse: int | None) -> Path:
    """The run with the data set's own labels, uninterrupted; one item is not labelled. Its journal."""
    folder.mkdir()
    file = folder / "reluctant.py"
    file.write_text(RELUCTANT.format(refuse=refuse))
    with Journal(folder / "journal.sqlite") as journal:
        for _ in build(read_spec("digits-small", SETTINGS | {"oracle": f"{file}:look_up"})).run(journal):
            pass
    return folder / "journal.sqlite"


def what_counts(path: Path) -> Any:
    """Selections, labels and the curve."""
    with Journal(path) as journal:
        asked = {
            key: (found.ids, {id: a.label for id, a in journal.annotations(*key).items()})
            for key in [(round, attempt) for round in range(4) for attempt in range(3)]
            if (found := journal.request(*key))
        }
    curve = [(r.n_labels, r.results["metrics"], r.results["confusion"]) for r in read_rounds(path)]
    return asked, curve


def test_a_round_trip_with_both_sides_killed_half_way(server: RealLabelStudio, tmp_path: Path) -> None:
    """The loop and the server are killed and started again; people skip, and change their minds."""
    asked, _ = what_counts(reference(tmp_path / "plain", None))
    skipped = asked[1, 0][0][2]
    expected = what_counts(reference(tmp_path / "reluctant", skipped))
    assert (1, 1) in expected[0]  # another is asked for in its place
    labels = load("digits").labels
    assert labels is not None

    run = [sys.executable, "-m", "activebdl", "run", "digits-small", "--no-mlflow", "--name", "mine"]
    run += ["--oracle", "label_studio", "--set", f"oracle.url={server.url}"]
    run += [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    resume = [sys.executable, "-m", "activebdl", "resume", "mine", "--no-mlflow"]
    journal = tmp_path / "runs" / "mine" / "journal.sqlite"
    title = "digits: mine"
    log = (tmp_path / "log").open("w+")

    def loop(command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)

    process = loop(run)

    def waiting(least: int) -> list[dict[str, Any]]:
        """The tasks that nobody has looked at, once there are so many; as the request orders them."""
        for _ in range(1500):
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            tasks = [task for task in server.tasks(title) if not task["annotations"]]
            if len(tasks) >= least:
                return sorted(tasks, key=lambda task: task["id"])
            time.sleep(0.2)
        return pytest.fail(f"no {least} tasks came")

    def label(tasks: list[dict[str, Any]]) -> None:
        for task in tasks:
            id = task["data"]["id"]
            server.annotate(task["id"], None if id == skipped else str(int(labels[id])))

    def until(condition: Callable[[], bool]) -> None:
        for _ in range(1500):
            if condition():
                return
            time.sleep(0.2)
        pytest.fail("it did not come about")

    def written(id: int) -> int:
        with closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as db:
            return db.execute("SELECT count(*) FROM annotations WHERE id = ?", (id,)).fetchone()[0]

    try:
        first = waiting(10)
        label(first[:5])
        server.kill()
        until(lambda: "does not answer" in (tmp_path / "log").read_text())  # and the run goes on
        server.start()
        label(first[5:])

        second = waiting(8)
        label(second[:3])
        until(lambda: written(second[2]["data"]["id"]) > 0)
        process.kill()
        process.wait()
        label(second[3:5])  # nobody is there to take them
        server.kill()
        server.start()
        process = loop(resume)
        wrong = second[5]["data"]["id"]
        made = server.annotate(second[5]["id"], str((int(labels[wrong]) + 1) % 10))
        until(lambda: written(wrong) == 1)
        value = {"choices": [str(int(labels[wrong]))]}
        result = [{"from_name": "label", "to_name": "item", "type": "choices", "value": value}]
        server.call("PATCH", f"/api/annotations/{made}/", {"result": result})
        until(lambda: written(wrong) == 2)
        label(second[6:])
        label(waiting(1))  # in place of what was skipped
        third = waiting(8)
        process.kill()
        process.wait()
        label(third[:-1])
        process = loop(resume)
        label(third[-1:])
        assert process.wait(300) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        process.kill()
        process.wait()
        log.close()

    assert what_counts(journal) == expected
    tasks = [task["data"]["id"] for task in server.tasks(title)]
    ids = [id for found, _ in expected[0].values() for id in found]
    assert sorted(tasks) == sorted(ids) and len(set(ids)) == 27
    assert all(len(task["annotations"]) == 1 for task in server.tasks(title))
    with Journal(journal) as kept:
        history = kept.history()
    assert len(history) == 28  # one of them was changed
    assert {annotation.annotator for annotation in history} == {USER}
