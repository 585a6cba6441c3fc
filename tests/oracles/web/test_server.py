"""The page's addresses, on a real server, without a browser."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from activebdl import ActiveDataset, Annotation, Classes, Numbers, UserError
from activebdl.oracles import make_oracle
from activebdl.oracles.web import WebOracle
from activebdl.oracles.web.state import keys
from activebdl.rounds import Round
from tests.oracles.web.conftest import Book, Client, Serve, ask


def test_a_round_by_post(book: Book, serve: Serve) -> None:
    oracle, client = serve(ask(book, (7, 3, 5)))
    status, told = client.post("state")
    assert status == 200 and told["doing"] == "labelling"
    for i, label in enumerate((1, None, 2)):
        (item,) = told["items"]
        status, told = client.label(item["id"], label, seconds=0.5 + i, annotator="Jürgen O'Neill")
        assert status == 200
        assert len(book.rows) == i + 1  # the journal had it before the answer came
    expected = [(7, 1, 0.5), (3, None, 1.5), (5, 2, 2.5)]
    assert [(row.id, row.label, row.seconds) for row in book.rows] == expected
    assert {row.annotator for row in book.rows} == {"Jürgen O'Neill"}
    assert oracle.poll("round-0") == []  # for the journal has them all
    assert client.post("state")[1]["doing"] == "working"


def test_an_answer_is_recorded_before_it_is_acknowledged(book: Book, serve: Serve) -> None:
    written, go_on = threading.Event(), threading.Event()
    record = book.record

    def slow(annotations: Any) -> None:
        written.set()
        assert go_on.wait(20)
        record(annotations)

    book.record = slow  # type: ignore[method-assign]
    _, client = serve(ask(book))
    answers: list[int] = []
    person = threading.Thread(target=lambda: answers.append(client.label(0, 1)[0]), daemon=True)
    person.start()
    assert written.wait(20)
    assert client.post("state", session="session-2")[0] == 200  # others need not wait
    assert answers == []
    go_on.set()
    person.join(20)
    assert answers == [200] and len(book.rows) == 1


def test_the_journals_failure_is_told_and_ends_the_run(book: Book, serve: Serve) -> None:
    oracle, client = serve(ask(book))
    book.failure = UserError("The journal 'x' cannot be written: disk full.")
    status, told = client.label(0, 1)
    assert (status, told) == (507, {"error": "The journal 'x' cannot be written: disk full."})
    with pytest.raises(UserError, match="disk full"):
        oracle.poll("round-0")
    book.failure = None
    assert client.label(0, 1)[0] == 200


def test_pictures_are_those_of_the_items(book: Book, serve: Serve) -> None:
    pixels = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    _, client = serve(ask(book, (8, 9), items=pixels))
    for i, id in enumerate((8, 9)):
        status, headers, content = client.raw("GET", f"/image/{id}")
        assert (status, headers["content-type"]) == (200, "image/png")
        assert np.array_equal(np.asarray(Image.open(BytesIO(content))), pixels[i].permute(1, 2, 0).numpy())
    assert client.raw("GET", "/image/7")[0] == 404


def test_what_the_model_thinks_is_told(book: Book, serve: Serve) -> None:
    p = torch.tensor([[0.1, 0.0, 0.9], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    request = ask(book, (4, 5), target=Classes(("a", "b", "c")), predictions=p, n_labels=20, budget=100, round=3)
    _, client = serve(request)
    told = client.post("state", view="grid")[1]
    sure, unsure = (item["model"] for item in told["items"])
    assert sure["top"] == [[2, 0.9], [0, 0.1], [1, 0.0]]
    assert sure["entropy"] == pytest.approx(-0.1 * np.log(0.1) - 0.9 * np.log(0.9))
    assert unsure["entropy"] == pytest.approx(np.log(3)) == unsure["most"]
    assert (told["run"]["round"], told["run"]["labels"], told["run"]["budget"]) == (3, 20, 100)
    assert client.label(4, 1)[1]["run"]["labels"] == 21


def test_numbers_and_items_that_are_no_pictures(book: Book, serve: Serve) -> None:
    items = torch.tensor([[0.25, 1e-7], [3.0, 4.0]])
    request = ask(book, (4, 5), target=Numbers(), items=items, predictions=torch.tensor([[1.5, 0.25], [2.0, 0.5]]))
    _, client = serve(request)
    (item,) = client.post("state")[1]["items"]
    assert (item["values"], item["size"], item["model"]) == (["0.25", "1e-07"], None, {"mean": 1.5, "sd": 0.25})
    assert client.raw("GET", "/image/4")[0] == 404
    assert client.label(4, 2.75)[0] == 200
    assert book.rows[0].label == 2.75


def test_the_page_hears_what_the_computer_does(book: Book, serve: Serve) -> None:
    oracle, client = serve(ask(book, (4,), n_labels=10, metrics={"accuracy": 0.5, "nll": 1.0}))
    client.label(4, 1)
    oracle.poll("round-0")
    with oracle.progress("fit", 200) as advance:
        advance(60)
        advance(30)
        told = client.post("state")[1]
        assert (told["doing"], told["phase"], told["share"], told["items"]) == ("working", "fit", 0.45, [])
        with oracle.progress("score", 0):
            assert client.post("state")[1]["share"] is None
    assert client.post("state")[1]["phase"] == ""
    oracle.told(round_with(11, 0.75))
    told = client.post("state")[1]
    assert (told["measure"], told["curve"]) == ("accuracy", [[10, 0.5], [11, 0.75]])


@pytest.mark.parametrize(
    ("labels", "stopped", "ended"),
    [
        (11, None, "done"),
        (10, None, "stopped"),
        (10, "a rule said so", "done"),
        (10, None, "done"),  # its budget in cost was spent
    ],
)
def test_pages_hear_how_the_run_ended(
    book: Book, serve: Serve, labels: int, stopped: str | None, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activebdl.oracles.web.web_oracle._FAREWELL", 20.0)
    oracle, client = serve(ask(book, (4,), n_labels=10, budget=11))
    client.label(4, 1)
    oracle.poll("round-0")
    oracle.told(replace(round_with(labels, 0.75), stopped=stopped))

    def close() -> None:
        try:
            if ended == "stopped":
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            oracle.close()
        else:
            oracle.close()

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    told = ""
    while told != ended:
        told = client.post("state")[1]["doing"]
        assert told in ("working", ended)
    closing.join(20)
    with pytest.raises(OSError):
        client.post("state")
    oracle.close()  # twice does no harm


def test_skip_undo_and_leave_by_post(book: Book, serve: Serve) -> None:
    _, client = serve(ask(book, range(3)))
    assert [item["id"] for item in client.post("skip", id=0)[1]["items"]] == [1]
    assert not client.post("state")[1]["undo"]
    assert client.label(1, 4)[1]["undo"]
    told = client.post("undo")[1]
    assert [item["id"] for item in told["items"]] == [1] and not told["undo"]
    assert [row.role for row in book.rows] == ["answer", "withdrawn"]
    status, told = client.post("undo")
    assert status == 409 and told["notice"] == "There is nothing to undo." and told["items"][0]["id"] == 1
    assert client.post("leave") == (200, {})
    assert client.post("state", session="session-2")[1]["items"][0]["id"] == 1


def test_a_second_page_is_told_kindly_and_goes_on(book: Book, serve: Serve) -> None:
    _, client = serve(ask(book, range(3)))
    client.post("state")
    client.label(0, 4)
    status, told = client.label(0, 5, session="session-2")
    assert status == 409 and "labelled meanwhile" in told["notice"]
    assert [item["id"] for item in told["items"]] == [2]  # 1 is the first page's by now
    assert [row.label for row in book.rows] == [4]


def test_seconds_are_clamped(book: Book, serve: Serve) -> None:
    _, client = serve(ask(book))
    for id, seconds in enumerate((-5, 1e300, 10**30, 2)):
        assert client.label(id, 1, seconds=seconds)[0] == 200
    assert [row.seconds for row in book.rows] == [0.0, 3600.0, 3600.0, 2.0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("0123456789", "0123456789"),
        ("BCA", "bca"),
        (["cat", "dog"], "12"),
        ([f"class {i}" for i in range(12)], "1234567890qw"),
        ("SUP", "123"),  # s, u and p mean something else
        ("aA", "12"),
    ],
)
def test_every_class_has_a_key_of_its_own(names: Any, expected: str) -> None:
    assert keys(list(names)) == list(expected)


def test_keys_run_out_and_never_clash() -> None:
    many = keys([f"class {i}" for i in range(100)])
    given = [key for key in many if key]
    assert len(many) == 100 and len(given) == len(set(given)) == 32 and not set(given) & set("supg ?")


def test_it_is_made_by_name_with_its_options(dataset: ActiveDataset) -> None:
    oracle = make_oracle("web", dataset, options={"cost": 0.25, "predictions": "hidden"})
    assert isinstance(oracle, WebOracle)
    assert oracle.price([4, 5]) == [0.25, 0.25] and oracle.shows_predictions
    with pytest.raises(UserError, match="no option 'prt'; it has: host, port"):
        make_oracle("web", dataset, options={"prt": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "listens on 127.0.0.1, localhost or ::1 alone, not on '0.0.0.0'"),
        ({"host": "example.org"}, "not on 'example.org'"),
        ({"port": 70000}, "port is a number from 0 to 65535"),
        ({"predictions": "maybe"}, "'shown' or 'hidden'"),
        ({"cost": -1.0}, "finite number from 0 on"),
        ({"cost": float("nan")}, "finite number from 0 on"),
        ({"annotator": "<b>"}, "annotator's name"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WebOracle(**options)


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activebdl.oracles.web.web_oracle.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'activebdl\[label\]'"):
        WebOracle()


def test_a_port_that_is_taken_is_told_when_named_and_passed_by_when_not(book: Book, serve: Serve) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on port {taken}"):
            WebOracle(port=taken).submit(ask(book))
    first, second = serve(ask(book), port=None)[0], serve(ask(book), port=None)[0]
    assert first.url.partition("?")[0] != second.url.partition("?")[0]


def test_token_and_port_stay_where_the_run_has_a_folder(book: Book, serve: Serve, tmp_path: Path) -> None:
    oracle, client = serve(ask(book), folder=tmp_path)
    kept = tmp_path / "web.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_text())["token"] == client.token
    url = oracle.url
    oracle.close()
    again, _ = serve(ask(book), folder=tmp_path, port=None)
    assert again.url == url
    assert client.post("state")[0] == 200  # the old cookie still holds
    assert serve(ask(book))[0].url != url


def test_a_loop_that_is_run_again_finds_the_same_page(book: Book, serve: Serve) -> None:
    oracle, client = serve(ask(book))
    url, oracle.port = oracle.url, None
    oracle.close()
    oracle.submit(ask(book))
    assert oracle.url == url and client.post("state")[1]["doing"] == "labelling"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"token": "short", "port": 1}', '{"token": 5, "port": 5}', "\x00"]
    + [f'{{"token": "{"x" * 43}", "port": {port}}}' for port in (99999, -1, 0, "true", "1e3", '"80"')],
)
def test_a_kept_token_that_is_none_is_replaced(book: Book, serve: Serve, tmp_path: Path, content: str) -> None:
    kept = tmp_path / "web.json"
    kept.write_text(content)
    kept.chmod(0o600)
    _, client = serve(ask(book), folder=tmp_path)
    assert len(client.token) >= 43 and client.token != "x" * 43


def test_a_key_that_cannot_be_kept_is_told_and_nothing_is_left_open(book: Book, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for _ in range(2):  # the port is free again
        with pytest.raises(UserError, match="cannot keep its key in '.*file"):
            WebOracle(folder=tmp_path / "file", port=port).submit(ask(book))


def test_a_token_that_others_could_read_is_replaced(book: Book, serve: Serve, tmp_path: Path) -> None:
    kept = tmp_path / "web.json"
    kept.write_text(json.dumps({"token": "x" * 43, "port": 1}))
    kept.chmod(0o644)
    _, client = serve(ask(book), folder=tmp_path)
    assert client.token != "x" * 43
    assert kept.stat().st_mode & 0o777 == 0o600


SCRIPT = """
import sys
from pathlib import Path
import torch
from activebdl import Classes, Request
from activebdl.oracles.web import WebOracle, web_oracle

web_oracle._FAREWELL = 0.0
book = Path(sys.argv[1]) / "book"

def record(annotations):
    with book.open("a") as file:
        file.writelines(f"{a.id} {a.label}\\n" for a in annotations)

done = {int(line.split()[0]) for line in book.read_text().splitlines()} if book.exists() else set()
left = tuple(id for id in range(20) if id not in done)
oracle = WebOracle(folder=sys.argv[1])
target = Classes(tuple("0123456789"))
oracle.submit(Request("r", left, torch.zeros(len(left), 1, 8, 8, dtype=torch.uint8), target, record=record))
while oracle._queue.is_open():
    oracle.poll("r")
oracle.close()
"""


@pytest.mark.slow
def test_a_server_that_was_killed_goes_on_under_the_same_address(tmp_path: Path) -> None:
    """SIGKILL after some answers: each that was acknowledged is there once, and the same cookie still holds."""
    clients: list[Client] = []
    for part in (range(8), range(8, 20)):
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            client = Client(process.stdout.readline().split()[-1])
            clients.append(client)
            if len(clients) == 1:
                client.enter()
            for id in part:
                assert clients[0].label(id, id % 10)[0] == 200
            if len(clients) == 2:
                assert clients[0].label(3, 9)[0] == 404  # it was answered in the server's former life
                assert process.wait(20) == 0
            else:
                os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    assert clients[0].url == clients[1].url
    assert (tmp_path / "book").read_text() == "".join(f"{id} {id % 10}\n" for id in range(20))


def round_with(n_labels: int, accuracy: float) -> Round:
    return Round(0, n_labels, (), (), (), {"accuracy": accuracy}, {}, {}, [], {}, 0)


def test_annotations_are_plain(book: Book, serve: Serve) -> None:
    _, client = serve(ask(book))
    client.label(2, 7)
    assert book.rows == [Annotation(2, 7, "web")]
