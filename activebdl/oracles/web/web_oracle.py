"""The oracle of the labelling page: what the loop calls."""

import math
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from activebdl.annotations import Annotation, as_float
from activebdl.errors import UserError
from activebdl.oracles._contract import Request
from activebdl.oracles._images import is_image
from activebdl.oracles.web.queue import NAME, Queue
from activebdl.oracles.web.status import Status
from activebdl.progress import Advance, say

if TYPE_CHECKING:
    from activebdl.oracles.web.server import Page
    from activebdl.oracles.web.serving import Serving
    from activebdl.rounds import Round

_FAREWELL = 3.0  # seconds that pages have to hear how the run ended


class WebOracle:
    """Asks people at a page that this machine serves to itself.

    The server starts with the first request and runs in a thread of its own; every answer is in the journal before the
    page hears that it was taken.

    Args:
        host: A loopback address: "127.0.0.1", "localhost" or "::1".
        port: Where the page is; that one and no other. None takes the run's last one, or 8765, or the next that is
            free.
        open_browser: Opens it in this machine's browser.
        predictions: Whether pages show what the model thinks from the start; P changes that on each page.
        cost: Of an answer, in the user's own unit; abstaining costs the same, and correcting nothing.
        annotator: Who it was, where a page gives no name.
        folder: The run's. The page's token is kept there, for its owner alone, so that pages that are open go on when
            the run was stopped and is resumed.

    Raises:
        UserError: An option that cannot be, or starlette, uvicorn or Pillow is not installed.
    """

    shows_predictions = True

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        open_browser: bool = False,
        predictions: str = "shown",
        cost: float = 0.0,
        annotator: str = "web",
        folder: str | Path | None = None,
    ) -> None:
        _check_installed()
        self.host = _loopback(host)
        if port is not None and not 0 <= port < 65536:
            raise UserError(f"A port is a number from 0 to 65535, not {port!r}.")
        if predictions not in ("shown", "hidden"):
            raise UserError(f"Predictions are 'shown' or 'hidden', not {predictions!r}.")
        price = as_float(cost)
        if price is None or not math.isfinite(price) or price < 0:
            raise UserError(f"The cost of an answer is a finite number from 0 on, not {cost!r}.")
        if not NAME.fullmatch(annotator):
            raise UserError(
                f"An annotator's name has at most 40 letters, digits, spaces and . @ + ' -, not {annotator!r}."
            )
        self.port, self.open_browser, self.cost = port, open_browser, price
        self.folder = None if folder is None else Path(folder)
        self.url = ""
        self._settings = {"predictions": predictions, "annotator": annotator}
        self._queue, self._status = Queue(cost=price), Status()
        self._kept: tuple[str, int | None] | None = None  # of the last start
        self._page: Page | None = None
        self._serving: Serving | None = None
        self._round: tuple[int, int] = (0, 0)  # labels, and those there will be

    def submit(self, request: Request) -> str:
        """Puts the batch on the page; see `activebdl.oracles.Oracle.submit`."""
        if is_image(request.items[0]) and find_spec("PIL") is None:
            raise UserError("The labelling page shows pictures with Pillow: pip install 'activebdl[label]'.")
        if not self._status.curve():  # in a loop that tells nothing of its rounds
            self._status.measured(request.n_labels, request.metrics)
        self._round = (request.n_labels + len(request.ids), request.budget)
        self._queue.open(request)
        self.start()
        return request.key

    def poll(self, ticket: str) -> list[Annotation]:
        """Nothing: the journal has every answer before its page hears that it was taken.

        To give it once more could bring back what was undone meanwhile. When all is answered, it waits a moment for the
        last answer to be taken back.
        """
        self._queue.settle()
        return []

    def price(self, ids: Sequence[int]) -> list[float]:
        """What the answers to each item cost at most."""
        return [self.cost] * len(ids)

    def told(self, round: "Round") -> None:
        """Shows how good the model has become."""
        self._queue.take()
        self._status.measured(round.n_labels, round.metrics)
        self._round = (round.n_labels, round.n_labels if round.stopped else self._round[1])

    def progress(self, phase: str, total: int) -> AbstractContextManager[Advance]:
        """Shows what the computer is doing; see `activebdl.progress`."""
        self._queue.take()  # the computer works when it has a batch, however that came
        return self._status.phase(phase, total)

    def start(self) -> None:
        """Serves the page, and says where; does nothing when it does already."""
        if self._serving is not None:
            return
        from activebdl.oracles.web.server import Page
        from activebdl.oracles.web.serving import Serving, listen, remember, remembered

        token, kept = self._kept or remembered(self.folder)
        listener = listen(self.host, self.port, kept)
        port = int(listener.getsockname()[1])
        self._kept = token, port
        try:
            remember(self.folder, token, port)
        except OSError as error:
            listener.close()
            raise UserError(
                f"The labelling page cannot keep its key in '{self.folder}': {error.strerror or error}."
            ) from error
        self._page = Page(self._queue, self._status, self._settings, port, token)
        guard = self._page.app()
        self._serving = Serving(listener, guard)
        address = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}/"
        self.url = f"{address}?token={token}"
        say(f"label at {self.url}")
        if self.open_browser:  # which some browsers make us wait for until they are closed
            threading.Thread(target=webbrowser.open, args=(f"{address}?code={guard.code()}",), daemon=True).start()

    def close(self) -> None:
        """Tells the pages that are open how the run ended, and stops serving."""
        if self._serving is None or self._page is None:
            return
        labels, budget = self._round
        # A run may also come to its end with fewer labels, where a budget in cost is spent: then nothing was raised.
        ended = not self._queue.is_open() and (labels >= budget or sys.exc_info()[0] is None)
        self._page.ended = "done" if ended else "stopped"
        end = time.monotonic() + _FAREWELL
        while time.monotonic() < end and len(self._page.last_told) < self._queue.present():
            time.sleep(0.05)
        self._serving.stop()
        self._serving = None


def _loopback(host: str) -> str:
    """The address, when it is one of this machine to itself."""
    if host == "localhost":
        return "127.0.0.1"
    if host in ("127.0.0.1", "::1"):
        return host
    raise UserError(
        f"The labelling page listens on 127.0.0.1, localhost or ::1 alone, not on {host!r}. "
        "From elsewhere, use a tunnel: ssh -L 8765:127.0.0.1:8765 MACHINE."
    )


def _check_installed() -> None:
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UserError("The labelling page needs starlette and uvicorn: pip install 'activebdl[label]'.")
