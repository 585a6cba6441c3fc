"""What the computer is doing, how far it is, and how good the model has become: for the page to tell."""

import contextlib
import threading
from collections.abc import Generator, Mapping

from activebdl.progress import Advance

MEASURES = ("accuracy", "rmse")  # the one that the page shows, of classes or of numbers


class Status:
    """Told by the loop, read by the pages; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: list[tuple[str, int]] = []  # the innermost last
        self._done = 0
        self._curve: dict[int, float] = {}
        self.measure = ""

    @contextlib.contextmanager
    def phase(self, name: str, total: int) -> Generator[Advance]:
        """One phase of the work; see `activebdl.progress`."""

        def advance(count: int) -> None:
            with self._lock:
                self._done += count

        with self._lock:
            self._phases.append((name, total))
            self._done = 0
        try:
            yield advance
        finally:
            with self._lock:
                self._phases.pop()
                self._done = 0

    def measured(self, n_labels: int, metrics: Mapping[str, float]) -> None:
        """How good the model is with so many labels."""
        for measure in MEASURES:
            if measure in metrics:
                with self._lock:
                    self.measure = measure
                    self._curve[n_labels] = float(metrics[measure])

    def working(self) -> tuple[str, float | None]:
        """The phase, and how much of it is done; empty between phases."""
        with self._lock:
            if not self._phases:
                return "", None
            name, total = self._phases[-1]
            return name, min(self._done / total, 1.0) if total else None

    def curve(self) -> list[tuple[int, float]]:
        """Labels, and how good the model was with them."""
        with self._lock:
            return sorted(self._curve.items())
