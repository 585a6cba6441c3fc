"""Data sets that come as one file: where it is found, and that it is the right one."""

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from activebdl import ActiveDataset
from activebdl.data._published import Found, Published, data_set, find
from activebdl.data.dataset import Normalise
from activebdl.data.fetch import checksum, fetch_file
from activebdl.errors import UserError

CONTENT = bytes(range(256)) * 300
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """A site on this machine that counts how often it is asked for ``small.npz``, and says what it is told to."""

    url = ""
    says: bytes | None = CONTENT
    asked = 0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file is kept, in a cache of the test's own."""
    monkeypatch.delenv("ACTIVEBDL_OFFLINE", raising=False)
    monkeypatch.setenv("ACTIVEBDL_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "small"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            if state.says is None or self.path != "/files/small.npz?download=1":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(state.says)))
            self.end_headers()
            self.wfile.write(state.says)

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        state.url = f"http://127.0.0.1:{site.server_port}/files/small.npz?download=1"
        yield state
        site.shutdown()


def test_fetched_once(server: Server, folder: Path) -> None:
    for _ in range(2):
        assert fetch_file("small", server.url, MD5) == folder / "small.npz"
    assert (folder / "small.npz").read_bytes() == CONTENT
    assert server.asked == 1


@pytest.mark.parametrize("within", ["", "small"])
def test_a_file_put_there_by_hand_is_taken(server: Server, folder: Path, within: str) -> None:
    place = folder.parent / within / "small.npz"
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert fetch_file("small", server.url, MD5) == place
    assert server.asked == 0


@pytest.mark.parametrize("said", [CONTENT[:-1], CONTENT + b"!", CONTENT[:99] + b"!" + CONTENT[100:], b""])
def test_a_wrong_file_is_refused(server: Server, folder: Path, said: bytes) -> None:
    server.says = said
    with pytest.raises(UserError, match=r"tried: 127\.0\.0\.1:\d+ \(small\.npz has a wrong checksum\)\."):
        fetch_file("small", server.url, MD5)
    assert {path.name for path in folder.iterdir()} <= {".lock"}
    server.says = CONTENT
    assert fetch_file("small", server.url, MD5).read_bytes() == CONTENT


def test_a_damaged_file_is_fetched_again(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "small.npz").write_bytes(CONTENT[:-1])
    assert fetch_file("small", server.url, MD5).read_bytes() == CONTENT


def test_where_all_fails_one_sentence_tells_what_to_do(server: Server, folder: Path) -> None:
    server.says = None
    folder.mkdir(parents=True)
    (folder / "small.npz").write_bytes(b"not it")
    with pytest.raises(UserError) as caught:
        fetch_file("small", server.url, MD5)
    place = server.url.split("/")[2]
    assert str(caught.value) == (
        f"small.npz of small is not in '{folder}' and could not be fetched; tried: the folder itself (small.npz has a "
        f"wrong checksum); {place} (small.npz: Not Found). Either restore the network, or get it from {server.url} by "
        "other means and put it into that folder, or say where it is by the option path."
    )


def test_offline_nothing_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIVEBDL_OFFLINE", "1")
    with pytest.raises(UserError, match=r"ACTIVEBDL_OFFLINE is set\. Either unset ACTIVEBDL_OFFLINE, or get it from"):
        fetch_file("small", server.url, MD5)
    assert server.asked == 0


def test_sums_are_those_of_the_standards(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # of RFC 1321 and FIPS 180-4
    assert checksum(tmp_path / "abc", "md5") == "900150983cd24fb0d6963f7d28e17f72"
    assert checksum(tmp_path / "abc", "sha256") == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_a_file_of_ones_own_is_told_from_the_published_one(server: Server, tmp_path: Path) -> None:
    known = Published(server.url, MD5, 5, 2)
    same, other = tmp_path / "same", tmp_path / "other"
    same.write_bytes(CONTENT)
    other.write_bytes(b"abc")
    assert find("tiny", known, "small", same, None, False) == Found(same, True, "tiny")
    assert find("tiny", known, "small", str(other), None, False) == Found(other, False, "tiny-90015098")
    assert server.asked == 0
    fetched = find("tiny", known, "small", None, tmp_path / "cache", False)
    assert fetched == Found(tmp_path / "cache/small/small.npz", True, "tiny")


@pytest.mark.parametrize(("path", "why"), [("absent", "No such file"), (".", "Is a directory")])
def test_a_file_of_ones_own_that_is_none(tmp_path: Path, path: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"cannot be read for the data set 'tiny': {why}"):
        find("tiny", Published("http://127.0.0.1/x", MD5, 5, 2), "small", tmp_path / path, None, False)


def test_the_published_file_has_all_that_it_is_known_to_have() -> None:
    x, y = torch.zeros(5, 3), torch.tensor([0, 1, 0, 1, 0])

    def made(published: bool, known: tuple[int, int]) -> ActiveDataset:
        found = Found(Path("f"), published, "tiny")
        return data_set(found, Published("", "", *known), (x, y), (x[:2], y[:2]), ("a", "b"), Normalise(2.0))

    for published, known in ((True, (5, 2)), (False, (9, 9))):
        data = made(published, known)
        assert (data.name, data.classes, data.normalise) == ("tiny", ("a", "b"), Normalise(2.0))
        assert data.pool is x and data.labels is y and len(data.test) == 2 and torch.equal(data.test_labels, y[:2])
    for known in ((4, 2), (5, 3)):
        with pytest.raises(
            UserError, match=rf"'f' gave 5 .* 2 to test, and tiny has {known[0]} and {known[1]}; delete"
        ):
            made(True, known)
