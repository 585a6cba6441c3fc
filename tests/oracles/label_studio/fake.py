"""A small stand-in for a Label Studio server: the few endpoints that the oracle uses, and faults on demand."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

LEGACY, PERSONAL = "0123456789abcdef0123456789abcdef01234567", "header.refresh.signature"
Reply = tuple[int, Any]


@dataclass
class FakeLabelStudio:
    """What the server knows, and how it misbehaves.

    Args:
        faults: By the number of a request, from 0, what befalls it: "500"; "drop", it is not even read; "lost", it is
            done and its answer is lost; "late", its answer is lost and it is done when
            `finish` is called; "html", a proxy's page comes in its place; "slow", the answer is late.
        page: The largest page that it gives.
        on_look: Is called before tasks are listed: what people do meanwhile.
    """

    faults: dict[int, str] = field(default_factory=dict[int, str])
    page: int = 100
    on_look: Callable[[], object] = lambda: None
    projects: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tasks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    views: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    users: dict[int, str] = field(default_factory=lambda: {1: "ada@example.org", 2: "ben@example.org"})
    requests: list[str] = field(default_factory=list[str])
    at_work: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])
    access: str = ""
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    url: str = ""
    _ids: int = 0

    def new_id(self) -> int:
        self._ids += 1
        return self._ids

    def clock(self, seconds: float = 1.0) -> str:
        """Time passes at every change; the real server too leaves microseconds out where they are 0."""
        self.now += timedelta(seconds=seconds)
        return self.now.isoformat().replace("+00:00", "Z")

    def finish(self) -> None:
        """What was at work still is done, and bears the time at which it was begun."""
        now = self.now
        while self.at_work:
            self.now = datetime(2026, 1, 1, tzinfo=UTC)
            self.at_work.pop()()
        self.now = now

    def task_of(self, item: int) -> dict[str, Any]:
        (found,) = [task for task in self.tasks if task["data"].get("id") == item]
        return found

    def annotate(
        self, task: dict[str, Any], value: Any, *, user: int | None = 1, seconds: float = 2.5
    ) -> dict[str, Any]:
        """Somebody labels a task with a class name or a number; None skips it."""
        kind = "choices" if isinstance(value, str) else "number"
        inner = {"choices": [value]} if isinstance(value, str) else {"number": value}
        result = [] if value is None else [{"from_name": "label", "to_name": "item", "type": kind, "value": inner}]
        annotation = {"id": self.new_id(), "completed_by": user, "lead_time": seconds, "created_at": self.clock()}
        task["annotations"].append(annotation)
        self.edit(task, annotation, result=result, was_cancelled=value is None)
        return annotation

    def edit(self, task: dict[str, Any], annotation: dict[str, Any], **changes: Any) -> None:
        annotation.update(changes, updated_at=self.clock())
        task["updated_at"] = self.clock()

    def delete(self, task: dict[str, Any], annotation: dict[str, Any]) -> None:
        task["annotations"].remove(annotation)
        task["updated_at"] = self.clock()

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, authorization: str) -> Reply:
        """What the server answers to a request; it does what is asked."""
        if path == "/api/token/refresh/":
            if body != {"refresh": PERSONAL}:
                return 401, {"detail": "Token is invalid"}
            self.access = f"access.{self.new_id()}.signature"
            return 200, {"access": self.access}
        if authorization not in (f"Token {LEGACY}", f"Bearer {self.access}"):
            return 401, {"detail": "Invalid token."}
        if path == "/api/current-user/whoami":
            return 200, {"id": 1}
        if path == "/api/users":
            return 200, [{"id": id, "email": email} for id, email in self.users.items()]
        if path == "/api/dm/views":
            self.views.append(body)
            return 201, {"id": self.new_id()}
        if path == "/api/projects":
            return (
                self._make_project(body)
                if method == "POST"
                else self._page("results", "count", self._titled(query), query)
            )
        if path == "/api/tasks" and self._has(int(query["project"])):
            self.on_look()
            return self._page("tasks", "total", self._listed(query), query)
        found = re.fullmatch(r"/api/projects/(\d+)/import", path)
        if found and self._has(int(found[1])):
            for task in body:
                made = {"id": self.new_id(), "project": int(found[1]), "annotations": [], "updated_at": self.clock()}
                self.tasks.append({**made, **task})
            return 201, {"task_count": len(body)}
        return 404, {"detail": "Not found."}

    def _has(self, project: int) -> bool:
        return any(known["id"] == project for known in self.projects)

    def _titled(self, query: dict[str, str]) -> list[dict[str, Any]]:
        tasks = [task["project"] for task in self.tasks]
        found = [project for project in self.projects if query["title"].lower() in project["title"].lower()]
        return [{**project, "task_number": tasks.count(project["id"])} for project in found]

    def _make_project(self, body: dict[str, Any]) -> Reply:
        if not 3 <= len(body["title"]) <= 50:
            return 400, {"detail": "Validation error", "validation_errors": {"title": ["no more than 50 characters."]}}
        (control,) = [
            found for kind in ("Choices", "Number") for found in ET.fromstring(body["label_config"]).iter(kind)
        ]
        labels = [choice.get("value") for choice in control.iter("Choice")]
        parsed = {control.get("name"): {"type": control.tag, "labels": labels}}
        self.projects.append({"id": self.new_id(), "parsed_label_config": parsed, **body})
        return 201, self.projects[-1]

    def _listed(self, query: dict[str, str]) -> list[dict[str, Any]]:
        found = [task for task in self.tasks if task["project"] == int(query["project"])]
        for item in json.loads(query.get("query", '{"filters": {"items": []}}'))["filters"]["items"]:
            assert (item["filter"], item["operator"], item["type"]) == (
                "filter:tasks:updated_at",
                "greater",
                "Datetime",
            )
            since = datetime.strptime(item["value"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)  # takes no other form
            found = [task for task in found if datetime.fromisoformat(task["updated_at"]) > since]
        return [{key: task.get(key) for key in query["include"].split(",") if key in task} for task in found]

    def _page(self, key: str, total: str, found: list[dict[str, Any]], query: dict[str, str]) -> Reply:
        size, number = min(int(query["page_size"]), self.page), int(query["page"])
        if number > 1 and (number - 1) * size >= len(found):
            return 404, {"detail": "Invalid page."}
        return 200, {key: found[(number - 1) * size : number * size], total: len(found)}


@contextmanager
def serving(fake: FakeLabelStudio, port: int = 0) -> Generator[FakeLabelStudio]:
    """Serves it on loopback; on leaving, the server is gone."""
    lock, gone = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two packets, and the second would wait

        def do_GET(self) -> None:
            self._do("GET", None)

        def do_POST(self) -> None:
            self._do("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _do(self, method: str, body: Any) -> None:
            with lock:
                url = urlsplit(self.path)
                fault = "drop" if gone.is_set() else fake.faults.get(len(fake.requests), "")
                fake.requests.append(f"{method} {url.path}")
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                reply = (500, {"detail": "database is locked"})
                ask = partial(fake.answer, method, url.path, query, body, self.headers.get("Authorization", ""))
                if fault == "late":
                    fake.at_work.append(ask)
                elif fault not in ("500", "drop", "html"):
                    reply = ask()
            if fault == "slow":
                time.sleep(0.6)
            if fault in ("drop", "lost", "late"):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            content = b"<html>back soon</html>" if fault == "html" else json.dumps(reply[1]).encode()
            self.send_response(200 if fault == "html" else reply[0])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that did not wait for the answer

    with Server(("127.0.0.1", port), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fake
        finally:
            gone.set()  # for connections that are open still
            server.shutdown()
            thread.join()
