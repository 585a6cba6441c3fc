"""The port, the token, and the thread in which uvicorn serves the page."""

import asyncio
import contextlib
import json
import os
import re
import secrets
import socket
import threading
from pathlib import Path
from typing import cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from activebdl.errors import UserError

PORT = 8765
TRIES = 20  # ports after the first, where that is taken
CONNECTIONS = 128  # at once; further ones are closed
_SILENCE = 10.0  # seconds in which a connection must have asked for something
_KEPT = "web.json"


class BoundedProtocol(H11Protocol):
    """HTTP as uvicorn speaks it, for a bounded number of connections that do something."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Takes a connection, or closes it where there are too many: their number bounds memory and open files."""
        crowded = len(self.connections) >= CONNECTIONS
        super().connection_made(transport)
        if crowded:
            transport.abort()
        else:
            self.loop.call_later(_SILENCE, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if not self.cycle:
            self.transport.abort()


class Serving:
    """A server in a thread of its own, which ends with the process.

    Args:
        listener: What it listens on, from `listen`.
        app: What it serves.
    """

    def __init__(self, listener: socket.socket, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # the terminal is the run's
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=16 * 1024,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="activebdl-web", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._server.should_exit = True
        self._thread.join(5)


def listen(host: str, port: int | None, kept: int | None = None) -> socket.socket:
    """A socket that listens on a loopback address.

    Args:
        host: Which.
        port: Which; None for the one that was kept, or `PORT`, or the next that is free. 0 for any.
        kept: Where it listened before.

    Raises:
        UserError: The port is taken.
    """
    wanted = [*([kept] if kept else []), *range(PORT, PORT + TRIES + 1)] if port is None else [port]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in wanted:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen(CONNECTIONS)
        except OSError as error:
            listener.close()
            if port is not None:
                raise UserError(
                    f"The labelling page cannot listen on port {port}: {error.strerror or error}. "
                    "Name another port, or none, and one that is free is taken."
                ) from None
        else:
            return listener
    raise UserError(f"The labelling page finds no free port from {PORT} to {PORT + TRIES}; name one that is free.")


def remembered(folder: Path | None) -> tuple[str, int | None]:
    """Token and port of the server that was here before; else a fresh token and no port."""
    if folder is not None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            file = folder / _KEPT
            kept = cast(dict[str, object], json.loads(file.read_text()))
            token, port = kept["token"], kept["port"]
            private = not file.stat().st_mode & 0o077
            is_token = isinstance(token, str) and re.fullmatch(r"[A-Za-z0-9_-]{40,}", token)
            if private and is_token and type(port) is int and 0 < port < 65536:
                return cast(str, token), port
    return secrets.token_urlsafe(32), None


def remember(folder: Path | None, token: str, port: int) -> None:
    """Keeps both, for this user alone, so that a page that is open goes on when the run is taken up again.

    Raises:
        OSError: The folder cannot be written.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{_KEPT}.{os.getpid()}.part"
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"token": token, "port": port}, file)
    beside.replace(folder / _KEPT)
