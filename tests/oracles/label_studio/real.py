"""A real Label Studio server for tests: installed once into an environment of its own, started on loopback."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from filelock import FileLock

from activebdl.files import cache_folder

VERSION = "1.23.2"
USER, TOKEN = "ada@example.org", "0123456789abcdef0123456789abcdef01234567"
_NO_REGISTRY = re.compile("resolve|connect|timed out|unreachable|dns|no matching distribution|not found in the", re.I)


def install() -> Path:
    """The command ``label-studio``; skips the test where no package registry can be reached."""
    folder = cache_folder() / "label-studio"
    command = folder / VERSION / "bin" / "label-studio"
    whole = folder / f"{VERSION}-is-whole"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if whole.exists() and command.exists():
            return command
        shutil.rmtree(folder / VERSION, ignore_errors=True)
        python, package = str(folder / VERSION / "bin" / "python"), f"label-studio=={VERSION}"
        uv = shutil.which("uv")
        if uv:
            steps = [[uv, "venv", "--python", sys.executable, str(folder / VERSION)]]
            steps += [[uv, "pip", "install", "--python", python, package]]
        else:
            steps = [[sys.executable, "-m", "venv", str(folder / VERSION)]]
            steps += [[python, "-m", "pip", "install", "--quiet", package]]
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False, timeout=1200)
            if done.returncode != 0:
                if _NO_REGISTRY.search(done.stderr):
                    pytest.skip(f"Label Studio {VERSION} cannot be fetched: no package registry can be reached")
                pytest.fail(f"Label Studio {VERSION} cannot be installed: {done.stderr[-2000:]}")
        whole.touch()
    return command


class RealLabelStudio:
    """A server that can be killed and started again, and what people do there over its own interface.

    Args:
        folder: Where it keeps its data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = install()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.headers = {"Authorization": f"Token {TOKEN}"}
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        nowhere = "http://127.0.0.1:9"  # what wants to leave the machine goes there, and comes to nothing
        quiet = {"COLLECT_ANALYTICS": "0", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "LATEST_VERSION_CHECK": "0"}
        proxies = {"http_proxy": nowhere, "https_proxy": nowhere, "no_proxy": "127.0.0.1,localhost"}
        user = {"LABEL_STUDIO_USERNAME": USER, "LABEL_STUDIO_PASSWORD": "a secret", "LABEL_STUDIO_USER_TOKEN": TOKEN}
        home = {"HOME": str(self.folder), "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "1"}
        options = ["--no-browser", "--data-dir", str(self.folder), "--internal-host", "127.0.0.1"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.command), "start", *options, "--port", str(self.port)],
                env=os.environ | quiet | proxies | user | home, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        for _ in range(3000):  # it makes its database first, which takes a minute or two on a busy machine
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            try:
                if requests.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.2)
        self.kill()
        pytest.fail(f"Label Studio did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def call(self, method: str, path: str, body: Any = None, **parameters: Any) -> Any:
        """What a person's browser asks of it."""
        answer = requests.request(
            method, self.url + path, json=body, params=parameters, headers=self.headers, timeout=60
        )  # fmt: skip
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def tasks(self, title: str) -> list[dict[str, Any]]:
        """All tasks of a project with their annotations; none while there is no project."""
        projects = self.call("GET", "/api/projects", title=title)["results"]
        if not projects:
            return []
        assert len(projects) == 1
        where = {"project": projects[0]["id"], "fields": "all", "page_size": 1000}
        return self.call("GET", "/api/tasks", **where)["tasks"]

    def annotate(self, task: int, value: str | float | None) -> int:
        """Labels a task with a class or a number, or skips it; the annotation's id."""
        kind = "choices" if isinstance(value, str) else "number"
        inner = {"choices": [value]} if isinstance(value, str) else {"number": value}
        result = [] if value is None else [{"from_name": "label", "to_name": "item", "type": kind, "value": inner}]
        skip = {"was_cancelled": 1} if value is None else {}
        body = {"result": result, "lead_time": 1.5}
        return self.call("POST", f"/api/tasks/{task}/annotations/", body, **skip)["id"]
