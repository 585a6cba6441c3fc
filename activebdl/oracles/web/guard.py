"""Who may call: only our own page, in a browser of this machine that was given the token.

Every request is looked at before anything else happens: its Host, so that no foreign name leads here; its Origin, so
that no foreign page uses our cookie; the cookie itself; and the size of its body.
"""

import asyncio
import hmac
import re
import secrets
from urllib.parse import parse_qs

from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = 16 * 1024  # bytes that a request may bring
PATIENCE = 10.0  # seconds in which it must have come
NAMES = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_NO_TOKEN = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>activebdl</title><main><h1>This page needs its key</h1>"
    "<p>Open the whole address that the run has printed, with the token in it. "
    "If you have just done that, <a href='/'>go on</a>.</p></main></html>"
)


class Guard:
    """Lets through what comes from our own page with our own cookie, and gives every response its headers.

    Args:
        app: What is guarded.
        port: Where it listens.
        token: Who has it may come in.
    """

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self.app, self.token = app, token
        self._codes: set[str] = set()
        self.hosts = {f"{name}:{port}" for name in NAMES} | ({*NAMES} if port == 80 else set[str]())
        self.cookie = f"activebdl-{port}"  # browsers keep one jar for all ports of a machine

    def code(self) -> str:
        """A word that lets somebody in once: whoever lists a machine's processes can read what a browser is to open."""
        self._codes.add(fresh := secrets.token_urlsafe(32))
        return fresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
                message["headers"] = [*((k, v) for k, v in message["headers"] if k not in ours), *ours.items()]
            await send(message)

        response = self._look(scope)
        if response is None and scope["method"] == "POST":
            body = await _read(receive)
            if isinstance(body, Response):
                response = body
            else:
                receive = _replay(body)
        await (response or self.app)(scope, receive, with_headers)

    def _look(self, scope: Scope) -> Response | None:
        """What is wrong with a request, or where it is to go; None when it may pass."""
        host = _only(scope, b"host")
        if host not in self.hosts:
            return error(421, "This is not the address that the run has printed.")
        site = _only(scope, b"sec-fetch-site")
        is_page = scope["path"] == "/" and scope["method"] == "GET"
        if not is_page and site not in (None, "same-origin", "none"):
            return error(403, "This may be called from the page itself alone.")
        is_in = self._is_token(_cookie(scope, self.cookie))
        query = parse_qs(scope["query_string"].decode("latin-1")) if is_page else {}
        if given := query.get("token"):
            return self._welcome() if self._is_token(given[0]) else _error_page()
        if given := query.get("code"):
            fits = given[0] in self._codes
            self._codes.discard(given[0])
            return self._welcome() if fits or is_in else _error_page()
        if not is_in:
            return _error_page() if is_page else error(403, "Open the address that the run has printed.")
        if scope["method"] == "POST":
            if _only(scope, b"origin") != f"http://{host}":
                return error(403, "This may be called from the page itself alone.")
            if (_only(scope, b"content-type") or "").partition(";")[0].strip().lower() != "application/json":
                return error(415, "The page talks JSON.")
            if not _fits(_only(scope, b"content-length")):
                return error(413, f"At most {BODY} bytes.")
        return None

    def _is_token(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def _welcome(self) -> Response:
        """The token becomes a cookie, and is gone from the address bar."""
        response = RedirectResponse("/", 303)
        response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
        return response


async def _read(receive: Receive) -> bytes | Response:
    """The body, or what is wrong with it."""
    body = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return error(400, "The connection was lost.")
                body += message.get("body", b"")
                if len(body) > BODY:  # told by nobody in advance, where it comes in chunks
                    return error(413, f"At most {BODY} bytes.")
                if not message.get("more_body"):
                    return body
    except TimeoutError:
        return error(408, "The request did not come to its end.")


def _replay(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _only(scope: Scope, name: bytes) -> str | None:
    """A header that may come once; an impossible value when it came more often."""
    values = [value for key, value in scope["headers"] if key == name]
    return None if not values else values[0].decode("latin-1") if len(values) == 1 else "\n"


def _cookie(scope: Scope, name: str) -> str | None:
    # http.cookies stops at the first cookie that it cannot read, and any server of this machine may have set that.
    return cookie_parser(_only(scope, b"cookie") or "").get(name)


def _fits(length: str | None) -> bool:
    return length is None or (re.fullmatch("[0-9]{1,9}", length) is not None and int(length) <= BODY)


def error(status: int, sentence: str) -> Response:
    """A refusal, as the page reads it."""
    # The body may not have been read: the connection cannot be used again.
    close = {"Connection": "close"} if status in (403, 408, 413, 415, 421) else None
    return JSONResponse({"error": sentence}, status, headers=close)


def _error_page() -> Response:
    return Response(_NO_TOKEN, 403, media_type="text/html", headers={"Connection": "close"})
