"""A page that is served, and somebody who talks to it without a browser."""

import http.client
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from activebdl import Annotation, Classes, Request
from activebdl.oracles.web import WebOracle
from activebdl.targets import Target

TEN = Classes(tuple("0123456789"))


@dataclass
class Book:
    """What was recorded, in its order: the journal of these tests."""

    rows: list[Annotation] = field(default_factory=list[Annotation])
    failure: Exception | None = None

    def record(self, annotations: Sequence[Annotation]) -> None:
        if self.failure is not None:
            raise self.failure
        self.rows.extend(annotations)

    def effective(self) -> dict[int, Annotation]:
        """The last answer to each item, unless it was withdrawn after that."""
        last = {row.id: row for row in self.rows}
        return {id: row for id, row in last.items() if row.role == "answer"}


def ask(book: Book, ids: Iterable[int] = range(10), key: str = "round-0", target: Target = TEN, **more: Any) -> Request:
    ids = tuple(ids)
    items = more.pop("items", None)
    if items is None:
        items = torch.stack([torch.full((1, 8, 8), id % 251, dtype=torch.uint8) for id in ids])
    return Request(key, ids, items, target, record=book.record, **more)


@dataclass
class Client:
    """A browser's manners without a browser."""

    url: str
    cookie: str = ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def token(self) -> str:
        return urlsplit(self.url).query.removeprefix("token=")

    def raw(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with small names, and body; headers that are None-like ("") are left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {"Cookie": self.cookie} | (headers or {})
        try:
            connection.request(method, path, body, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def enter(self) -> None:
        """Exchanges the token for the cookie."""
        status, headers, _ = self.raw("GET", f"/?token={self.token}")
        assert (status, headers["location"]) == (303, "/")
        self.cookie = headers["set-cookie"].partition(";")[0]

    def post(self, verb: str, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, dict[str, Any]]:
        ours = {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"}
        content = json.dumps({"session": "session-1"} | body)
        status, _, answer = self.raw("POST", f"/api/{verb}", content, ours | (headers or {}))
        return status, json.loads(answer)

    def label(self, id: int, label: Any, **body: Any) -> tuple[int, dict[str, Any]]:
        return self.post("answer", id=id, label=label, **body)


Serve = Callable[..., tuple[WebOracle, Client]]


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Generator[Serve]:
    """Starts a page with a request on it, and a client that is in; stops it after the test."""
    started: list[WebOracle] = []
    monkeypatch.setattr("activebdl.oracles.web.web_oracle._FAREWELL", 0.0)

    def start(request: Request, **options: Any) -> tuple[WebOracle, Client]:
        options.setdefault("port", 0)
        oracle = WebOracle(**options)
        oracle._queue._grace = 0.0
        started.append(oracle)
        oracle.submit(request)
        client = Client(oracle.url)
        client.enter()
        return oracle, client

    yield start
    for oracle in started:
        oracle.close()
