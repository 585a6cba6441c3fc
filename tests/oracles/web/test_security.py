"""Who is kept out, and what cannot be done by those who are in."""

import contextlib
import json
import queue
import resource
import socket
import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from activebdl import Classes
from activebdl.oracles.web import WebOracle
from activebdl.oracles.web.guard import BODY
from activebdl.oracles.web.serving import CONNECTIONS
from tests.oracles.web.conftest import Book, Client, Serve, ask

PATHS = ["/", "/page.js", "/page.css", "/icon.svg", "/image/0", "/api/state", "/api/answer", "/nothing"]
BODY_OF_STATE = json.dumps({"session": "session-1"})


@pytest.fixture(scope="module")
def served() -> Generator[tuple[WebOracle, Client]]:
    """One server for all tests of this file: what one test does to it, the next would feel."""
    oracle = WebOracle(port=0)
    oracle.submit(ask(Book()))
    client = Client(oracle.url)
    client.enter()
    yield oracle, client
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("activebdl.oracles.web.web_oracle._FAREWELL", 0.0)
        oracle.close()


@pytest.fixture
def page(served: tuple[WebOracle, Client], book: Book) -> Client:
    """That server with a batch of ten items, and a client that is in."""
    oracle, client = served
    oracle.submit(ask(book))
    return replace(client)


def ours(client: Client) -> dict[str, str]:
    return {"Origin": f"http://127.0.0.1:{client.port}", "Content-Type": "application/json"}


def post(client: Client, headers: dict[str, str], body: Any = BODY_OF_STATE) -> int:
    return client.raw("POST", "/api/state", body, ours(client) | headers)[0]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cookie", ["", "activebdl-{port}=", "activebdl-{port}=wrong", "other={token}", "\x01=;;,"])
def test_nothing_is_served_without_the_cookie(page: Client, book: Book, path: str, cookie: str) -> None:
    page.cookie = cookie.format(port=page.port, token=page.token)
    for method in ("GET", "POST", "HEAD", "PUT", "OPTIONS"):
        status, headers, content = page.raw(method, path, "{}" if method == "POST" else None, ours(page))
        assert status == 403, (method, path)
        assert page.token.encode() not in content and page.token not in str(headers)
    assert book.rows == []


def test_a_wrong_token_is_no_key(page: Client) -> None:
    page.cookie = ""
    for token in ("", "wrong", page.token[:-1], page.token + "x", page.token.swapcase(), "%00", "ü"):
        query = "".join(f"%{byte:02x}" for byte in token.encode())
        status, headers, _ = page.raw("GET", f"/?token={query}")
        assert status == 403 and "set-cookie" not in headers
    assert page.raw("GET", f"/page.js?token={page.token}")[0] == 403  # the key opens the front door alone


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(page: Client) -> None:
    status, headers, _ = page.raw("GET", f"/?token={page.token}", headers={"Cookie": ""})
    assert (status, headers["location"]) == (303, "/")
    parts = {part.strip().lower() for part in headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= parts and not any(part.startswith("domain") for part in parts)


@pytest.mark.parametrize("other", ['a={"x":1}', "a=[1,2]", "a b=c d", "=", "=x", "ü=é", 'q="', "a;b"])
def test_cookies_of_other_servers_keep_nobody_out(page: Client, other: str) -> None:
    for cookie in (f"{other}; {page.cookie}", f"{page.cookie}; {other}"):
        assert post(page, {"Cookie": cookie}) == 200


def test_the_address_that_a_browser_is_started_with_lets_in_once(
    book: Book, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()
    monkeypatch.setattr("webbrowser.open", lambda url: opened.put((url, threading.current_thread().daemon)))
    oracle, client = serve(ask(book), open_browser=True)
    url, in_background = opened.get(timeout=20)
    assert in_background and client.token not in url and url.startswith(oracle.url.partition("?")[0])
    path, mine, client.cookie = "/" + url.rpartition("/")[2], client.cookie, ""
    status, headers, _ = client.raw("GET", path)
    assert (status, headers["location"]) == (303, "/") and headers["set-cookie"].partition(";")[0] == mine
    status, headers, _ = client.raw("GET", path)
    assert status == 403 and "set-cookie" not in headers
    assert client.raw("GET", path, headers={"Cookie": mine})[0] == 303  # who is in already may load it again
    assert client.raw("GET", "/?code=")[0] == client.raw("GET", "/?code=x")[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}",
             "localhost", "0.0.0.0:{port}", "user@127.0.0.1:{port}", "127.1:{port}", "[::1]"],
)  # fmt: skip
def test_a_foreign_host_is_refused(page: Client, host: str) -> None:
    headers = {"Host": host.format(port=page.port)}
    assert page.raw("GET", "/", headers=headers)[0] == 421
    assert page.raw("GET", f"/?token={page.token}", headers=headers)[0] == 421
    assert post(page, headers | {"Origin": f"http://{headers['Host']}"}) == 421


def test_localhost_by_all_its_names_is_ours(page: Client) -> None:
    for name in ("127.0.0.1", "localhost", "[::1]"):
        host = f"{name}:{page.port}"
        assert post(page, {"Host": host, "Origin": f"http://{host}"}) == 200
    assert post(page, {"Host": f"localhost:{page.port}"}) == 403  # of another origin than it is sent to


@pytest.mark.parametrize(
    "origin", ["", "null", "http://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "https://127.0.0.1:{port}",
               "http://127.0.0.1:{port}.evil.example", "http://127.0.0.1:{port}/"],
)  # fmt: skip
def test_a_foreign_origin_cannot_post(page: Client, book: Book, origin: str) -> None:
    body = json.dumps({"session": "session-1", "id": 0, "label": 1})
    headers = ours(page) | {"Origin": origin.format(port=page.port)}
    assert page.raw("POST", "/api/answer", body, headers)[0] == 403
    assert book.rows == []


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_other_sites_can_call_nothing_but_the_front_door(page: Client, site: str) -> None:
    headers = {"Sec-Fetch-Site": site}
    assert post(page, headers) == 403
    assert page.raw("GET", "/image/0", headers=headers)[0] == 403
    assert page.raw("GET", "/page.js", headers=headers)[0] == 403
    assert page.raw("GET", "/", headers=headers)[0] == 200
    for own in ("same-origin", "none"):
        assert post(page, {"Sec-Fetch-Site": own}) == 200


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_only_json_is_taken(page: Client, kind: str) -> None:
    assert post(page, {"Content-Type": kind}) == 415
    assert post(page, {"Content-Type": "Application/JSON; charset=utf-8"}) == 200


def test_a_body_that_is_too_large_is_refused_by_its_length_before_it_is_read(page: Client) -> None:
    head = (
        f"POST /api/state HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nOrigin: http://127.0.0.1:{page.port}\r\n"
        f"Cookie: {page.cookie}\r\nContent-Type: application/json\r\nContent-Length: {10**9}\r\n\r\n"
    )
    assert talk(page, head.encode()).startswith(b"HTTP/1.1 413")  # not a byte of it was sent
    assert post(page, {}, BODY_OF_STATE.ljust(BODY)) == 200
    assert post(page, {}, BODY_OF_STATE.ljust(BODY + 1)) == 413


def test_a_body_that_is_too_large_is_refused_when_it_comes_in_chunks(page: Client) -> None:
    chunks = [BODY_OF_STATE.encode(), *[b" " * 1024] * 15]
    assert page.raw("POST", "/api/state", iter(chunks), ours(page))[0] == 200
    head = (
        f"POST /api/state HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nOrigin: http://127.0.0.1:{page.port}\r\n"
        f"Cookie: {page.cookie}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    endless = head.encode() + 17 * (b"400\r\n" + b" " * 1024 + b"\r\n")  # and it does not end here
    assert talk(page, endless).startswith(b"HTTP/1.1 413")


def test_headers_without_end_are_refused(page: Client) -> None:
    assert talk(page, b"GET / HTTP/1.1\r\nHost: " + b"x" * 100_000).startswith(b"HTTP/1.1 400")
    assert talk(page, b"GET /" + b"a" * 100_000).startswith(b"HTTP/1.1 400")
    assert talk(page, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert post(page, {}) == 200


TRAVERSALS = [
    "/../pyproject.toml", "/page.js/../../pyproject.toml", "/..%2fpyproject.toml", "/%2e%2e/%2e%2e/etc/passwd",
    "/..%5c..%5cetc%5cpasswd", "/image/../queue.py", "/image/..%2fqueue.py", "/image/%2e%2e%2fqueue.py", "//etc/passwd",
    "/etc/passwd", "/image//etc/passwd", "/image/0%00.png", "/page.js%00", "/./queue.py", "/queue.py", "/server.py",
    "/web.json", "/__init__.py", "/image/", "/image", "/image/-1", "/image/0.0", "/image/" + "9" * 5000,
    "/image/%d9%a3", "/..;/etc/passwd", "/....//etc/passwd", "/%252e%252e/etc/passwd", "file:///etc/passwd",
    "/api/../page.js", "/api",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_reaches_a_file(page: Client, path: str) -> None:
    """As it is spelled, for http.client sends what it is given."""
    status, _, content = page.raw("GET", path)
    assert status in (400, 404), path
    assert b"root:" not in content and b"import" not in content and b"[project]" not in content


def test_only_items_that_were_asked_for_have_pictures(page: Client) -> None:
    assert [page.raw("GET", f"/image/{id}")[0] for id in (0, 9, 10, 11, 4711)] == [200, 200, 404, 404, 404]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS"])
def test_other_methods_are_refused(page: Client, method: str) -> None:
    for path in ("/", "/api/answer", "/image/0"):
        assert page.raw(method, path, headers=ours(page))[0] in (400, 404, 405)
    assert page.raw("GET", "/api/state", headers=ours(page))[0] == 405


@pytest.mark.parametrize(
    "body",
    ["", "{", "null", "[]", "3", '"x"', "[" * 8000, '{"session": NaN}', "\xff", '{"session": 5}', '{"session": "x"}',
     '{"session": "<script>aaaaaaa"}', '{"session": "' + "a" * 65 + '"}', "9" * 5000, "{}"],
)  # fmt: skip
def test_what_is_no_request_is_refused(page: Client, body: str) -> None:
    for verb in ("state", "answer", "skip", "undo", "leave"):
        status, _, content = page.raw("POST", f"/api/{verb}", body.encode("latin-1"), ours(page))
        assert status == 400 and set(json.loads(content)) == {"error"}


@pytest.mark.parametrize(
    "answer",
    [
        {"id": 0}, {"label": 1}, {"id": 0, "label": 10}, {"id": 0, "label": -1}, {"id": 0, "label": "1"},
        {"id": 0, "label": True}, {"id": 0, "label": [1]}, {"id": 0, "label": 1.5}, {"id": "0", "label": 1},
        {"id": True, "label": 1}, {"id": None, "label": 1}, {"id": 0.0, "label": 1}, {"id": -1, "label": 1},
        {"id": 10**30, "label": 1}, {"id": 0, "label": 10**30}, {"id": "<script>alert(1)</script>", "label": 1},
        {"id": 0, "label": 1, "seconds": "1"}, {"id": 0, "label": 1, "seconds": None},
        {"id": 0, "label": 1, "seconds": True}, {"id": 0, "label": 1, "annotator": "<script>"},
        {"id": 0, "label": 1, "annotator": "a" * 41}, {"id": 0, "label": 1, "annotator": 5},
        {"id": 0, "label": 1, "annotator": "a\nb"}, {"id": 0, "label": 1, "annotator": "a\u202eb"},
    ],
)  # fmt: skip
def test_a_wrong_answer_is_refused_and_harms_nothing(page: Client, book: Book, answer: dict[str, Any]) -> None:
    assert page.post("answer", **answer)[0] == 400
    assert book.rows == []
    assert page.label(0, 1)[0] == 200


def test_an_unknown_item_cannot_be_answered(page: Client, book: Book) -> None:
    assert page.label(10, 1)[0] == 404
    assert page.post("skip", id=10)[0] == 409
    assert book.rows == []


def test_script_in_class_names_stays_text(book: Book, serve: Serve) -> None:
    """The names travel as JSON, under a policy that runs no script but our own; the browser tests see it drawn."""
    evil = ("<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>")
    _, client = serve(ask(book, target=Classes(evil)))
    assert [each["name"] for each in client.post("state")[1]["run"]["classes"]] == list(evil)
    status, headers, content = client.raw("POST", "/api/state", BODY_OF_STATE, ours(client))
    assert status == 200 and headers["content-type"] == "application/json"
    for path in PATHS[:4]:
        status, headers, content = client.raw("GET", path)
        assert status == 200 and b"alert" not in content


@pytest.mark.parametrize("path", [*PATHS, "/?token=wrong"])
def test_every_response_carries_the_policy(page: Client, path: str) -> None:
    for cookie in (page.cookie, ""):
        _, headers, _ = page.raw("GET", path, headers={"Cookie": cookie})
        parts = [part.strip().partition(" ") for part in headers["content-security-policy"].split(";")]
        policy = {name: value for name, _, value in parts}
        assert policy.pop("default-src") == policy.pop("frame-ancestors") == "'none'"
        assert set(policy.values()) <= {"'self'", "'none'"}
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_it_listens_on_loopback_alone(page: Client) -> None:
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("only Linux tells what listens where in a file")
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    listening = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[1].endswith(f":{page.port:04X}")]
    assert listening == ["0100007F"]


def test_a_thousand_requests_at_once_harm_nothing(page: Client, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """All connections are open before the first is answered; what is given before and after is all there."""
    monkeypatch.setattr("activebdl.oracles.web.serving._SILENCE", 120.0)  # they say nothing while others connect
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2600
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"this process may open {hard} files alone")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    assert page.label(0, 5)[0] == 200
    page.post("leave")
    head = (
        f"POST /api/answer HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nOrigin: http://127.0.0.1:{page.port}\r\n"
        f"Cookie: {page.cookie}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    )
    statuses: list[bytes] = []
    together = threading.Barrier(50)

    def many(worker: int) -> None:
        sockets: list[socket.socket] = []
        for _ in range(20):
            connection = socket.socket()
            connection.settimeout(30)
            try:
                connection.connect(("127.0.0.1", page.port))
            except OSError:
                statuses.append(b"refused")
            else:
                sockets.append(connection)
        together.wait(60)
        for connection in sockets:
            body = json.dumps({"session": f"session-{worker:04}", "id": 1 + worker % 8, "label": worker % 10}).encode()
            with contextlib.suppress(OSError):
                connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        for connection in sockets:
            try:
                statuses.append(connection.recv(65536)[9:12] or b"closed")
            except OSError:
                statuses.append(b"closed")
            connection.close()

    workers = [threading.Thread(target=many, args=(i,), daemon=True) for i in range(50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert len(statuses) == 1000
    assert set(statuses) <= {b"200", b"409", b"503", b"closed", b"refused"}
    first = {row.id: row.label for row in book.rows}
    assert len(first) == len(book.rows) <= 9  # each item once, by whoever came first, however often it came
    assert all((label - id + 1) % 2 == 0 for id, label in first.items() if id and label is not None)
    assert 0 < sum(status in (b"200", b"409", b"503") for status in statuses) <= 2 * CONNECTIONS
    answered = {row.id for row in book.rows}
    for worker in range(50):
        assert page.post("leave", session=f"session-{worker:04}")[0] == 200
    for id in range(10):
        assert page.label(id, 5, session="late-session")[0] == (409 if id in answered else 200)
    assert sorted(row.id for row in book.rows) == list(range(10))


def test_connections_that_say_nothing_are_closed(page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activebdl.oracles.web.serving._SILENCE", 0.05)
    assert talk(page, b"") == b""


def talk(client: Client, sent: bytes) -> bytes:
    """What the server says to raw bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        heard = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(sent)
            while part := connection.recv(65536):
                heard += part
        return heard
