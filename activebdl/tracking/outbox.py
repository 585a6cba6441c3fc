"""What a server is still to be told: it is kept while the server is away, and tried again, so that no run waits for it.

Kept in memory, for the journal has it all: what is left when the process ends is sent by `activebdl resume`.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol

from activebdl.progress import say

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0  # seconds between two tries; they double, and may be longer by the share
SHARE = 10  # a pause is so many times as long as the try before it: a server that hangs takes a tenth of the time
PATIENCE = 5.0  # seconds; once something failed in a try, what would begin later than this waits for the next


class Letter(Protocol):
    """What one run has to tell."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will come."""
        ...

    def send(self) -> None:
        """Sends what has not been sent. It may fail anywhere and is called again, and sends nothing twice."""
        ...


class Outbox:
    """Sends what it is given, now or when the server is back; it raises nothing.

    Args:
        clock: Seconds from any moment on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._letters: list[Letter] = []
        self._failure: str | None = None  # why it failed the last time
        self._pause, self._next_try = 0.0, -math.inf

    def add(self, letter: Letter) -> None:
        """A run that will have something to tell."""
        self._letters.append(letter)

    def send(self) -> None:
        """Sends what there is, unless the server failed a short while ago."""
        if self._clock() < self._next_try:
            return
        failed_before = self._failure is not None
        self._try()
        if self._failure is not None and not failed_before:
            say(f"  MLflow fails ({self._failure}); the run goes on, and what MLflow misses is kept and tried again")

    def close(self, resume: str) -> None:
        """Tries a last time, whenever it failed, and says how to go on when something is still missing.

        Args:
            resume: The command that sends it.
        """
        try:
            self._try()
            if self._failure is not None:
                say(f"  MLflow misses something ({self._failure}); once that is mended, this sends it: {resume}")
        finally:
            self._letters, self._failure, self._pause, self._next_try = [], None, 0.0, -math.inf

    def _try(self) -> None:
        """All letters, the newest first: one that fails by itself, such as of a deleted run, stops no other."""
        begin, failure = self._clock(), None
        for letter in reversed(self._letters):
            if failure is not None and self._clock() - begin > PATIENCE:
                break
            try:
                letter.send()
            except Exception as error:
                failure = failure or reason(error)
        end = self._clock()
        if failure is not None:
            self._pause = max(FIRST_PAUSE, min(2 * self._pause, LONGEST_PAUSE), SHARE * (end - begin))
            self._next_try = end + self._pause
        else:
            self._letters = [letter for letter in self._letters if not letter.is_closed]
            self._pause, self._next_try = 0.0, -math.inf
            if self._failure is not None:
                say("  MLflow is back: sent what it missed")
        self._failure = failure


def reason(error: Exception) -> str:
    """The first line of an error's words."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
