"""The addresses of the page.

What is served is a handful of known files and the pictures of items that were asked for; no path of a request reaches a
disk. `activebdl.oracles.web.guard` has let nobody else in.
"""

import json
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from activebdl.errors import UserError
from activebdl.oracles._images import is_image, png
from activebdl.oracles.web.guard import Guard, error
from activebdl.oracles.web.queue import NAME, Queue, Refused
from activebdl.oracles.web.state import state
from activebdl.oracles.web.status import Status

LONGEST = 3600.0  # seconds that an answer may have taken
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
    "/panels.js": ("panels.js", "text/javascript; charset=utf-8"),
    "/talk.js": ("talk.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_SESSION = re.compile(r"[A-Za-z0-9-]{8,64}")


class Page:
    """What the addresses do.

    Args:
        queue: The open batch.
        status: What the computer does meanwhile.
        settings: What the page is told once: whether predictions are shown, and how an annotator without a name is
            called.
        port: Where it listens.
        token: Who has it may label.
    """

    def __init__(self, queue: Queue, status: Status, settings: dict[str, str], port: int, token: str) -> None:
        self.queue, self.status, self.settings = queue, status, settings
        self.port, self.token = port, token
        self.ended = ""  # "done" or "stopped" when the run is over
        self.last_told: set[str] = set()  # sessions that know how it ended
        self._files = {
            path: (files("activebdl.oracles.web").joinpath(name).read_bytes(), kind)
            for path, (name, kind) in FILES.items()
        }

    def app(self) -> Guard:
        """As uvicorn takes it."""
        verbs = {"state": self._state, "answer": self._answer, "skip": self._skip, "undo": self._undo}
        verbs["leave"] = self._leave
        routes = [Route(path, self._file, methods=["GET"]) for path in FILES]
        routes += [Route("/image/{id}", self._image, methods=["GET"])]
        routes += [Route(f"/api/{name}", self._call(verb), methods=["POST"]) for name, verb in verbs.items()]
        return Guard(Starlette(routes=routes), self.port, self.token)

    async def _file(self, request: Request) -> Response:
        content, kind = self._files[request.url.path]
        return Response(content, headers={"Content-Type": kind})

    async def _image(self, request: Request) -> Response:
        name = request.path_params["id"]
        item = self.queue.item(int(name)) if re.fullmatch("[0-9]{1,15}", name) else None
        if item is None or not is_image(item.input):
            return error(404, "There is no such picture.")
        return Response(await run_in_threadpool(png, item.input, item.white), media_type="image/png")

    def _call(self, verb: Callable[[str, dict[str, Any]], str]) -> Callable[[Request], Awaitable[Response]]:
        """An address that takes JSON and answers with all that the page is to show."""

        async def endpoint(request: Request) -> Response:
            try:
                body = _json(await request.body())
                return await run_in_threadpool(self._answered, verb, body)
            except Refused as refused:
                return error(refused.status, str(refused))

        return endpoint

    def _answered(self, verb: Callable[[str, dict[str, Any]], str], body: dict[str, Any]) -> Response:
        session, grid = body.get("session"), body.get("view") == "grid"
        if not isinstance(session, str) or not _SESSION.fullmatch(session):
            raise Refused(400, "A page names its session: 8 to 64 letters, digits and hyphens.")
        status, notice = 200, ""
        try:
            notice = verb(session, body)
        except Refused as refused:
            if refused.status != 409:
                raise
            status, notice = 409, str(refused)  # the page goes on with what it may do instead
        except UserError as error:  # the journal's
            raise Refused(507, str(error)) from error
        if verb == self._leave:
            return JSONResponse({})
        shown = self.queue.look(session, grid)
        told = state(self.queue, self.status, shown, session, self.ended)
        if self.ended:
            self.last_told.add(session)
        return JSONResponse(told | {"notice": notice, "settings": self.settings}, status)

    def _state(self, session: str, body: dict[str, Any]) -> str:
        return ""

    def _answer(self, session: str, body: dict[str, Any]) -> str:
        if "label" not in body:
            raise Refused(400, "An answer has a label; null abstains.")
        seconds = body.get("seconds", 0.0)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise Refused(400, "The seconds of an answer are a number.")
        seconds = float(min(max(seconds, 0), LONGEST))
        return self.queue.answer(session, _id(body), body["label"], self._annotator(body), seconds)

    def _skip(self, session: str, body: dict[str, Any]) -> str:
        return self.queue.skip(session, _id(body))

    def _undo(self, session: str, body: dict[str, Any]) -> str:
        nonce = body.get("nonce", "")
        if not isinstance(nonce, str) or len(nonce) > 64:
            raise Refused(400, "An undo's nonce has at most 64 characters.")
        return self.queue.undo(session, nonce)

    def _leave(self, session: str, body: dict[str, Any]) -> str:
        self.queue.leave(session)
        return ""

    def _annotator(self, body: dict[str, Any]) -> str:
        name = body.get("annotator") or self.settings["annotator"]
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise Refused(
                400, "A name has at most 40 letters, digits, spaces and . @ + ' -, and starts with a letter or digit."
            )
        return name


def _json(body: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> object:
        raise ValueError(constant)  # NaN and infinity, which JSON has not

    try:
        found = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise Refused(400, "This is not JSON.") from None
    if not isinstance(found, dict):
        raise Refused(400, "The page sends an object.")
    return cast(dict[str, Any], found)


def _id(body: dict[str, Any]) -> int:
    id = body.get("id")
    if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < 10**15:
        raise Refused(400, "An item's id is a whole number.")
    return id
