"""Learning curves: one for each run, put together by what is compared."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from activebdl.errors import UserError
from activebdl.metrics import area_under_curve

TARGETS = (0.80, 0.90, 0.95, 0.98, 0.99)
"""Accuracies whose price in labels is told."""

HEADLINES = ("accuracy", "rmse")
"""The one metric of a learning curve: that of classes, and that of numbers."""


@dataclass(frozen=True)
class Curve:
    """The learning curve of one run.

    Args:
        strategy: Its label: the name, with the beta of a stochastic rule.
        posterior: By name.
        seed: Of the run.
        counts: Labels at the end of each round.
        metrics: Of the test set, each with a value for each count.
        seconds: What the run took.
        stopped: Whether a stopping rule ended it, so that it might have gone further.
        complete: Whether the run is at its end; False while rounds are still to come.
    """

    strategy: str
    posterior: str
    seed: int
    counts: tuple[int, ...]
    metrics: Mapping[str, tuple[float, ...]]
    seconds: float = 0.0
    stopped: bool = False
    complete: bool = True

    @property
    def headline(self) -> str:
        """The metric that is shown when there is room for one: accuracy, or rmse."""
        return next(name for name in HEADLINES if name in self.metrics)

    @property
    def heights(self) -> tuple[float, ...]:
        """The headline at each count."""
        return self.metrics[self.headline]

    def at(self, count: int, metric: str | None = None) -> float:
        """A metric at a count; the headline when none is named."""
        return self.metrics[metric or self.headline][self.counts.index(count)]


def by_label(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """The curves of all seeds together, by what is compared: the strategy, and the posterior where they differ."""
    several = len({curve.posterior for curve in curves}) > 1
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        label = f"{curve.strategy}, {curve.posterior}" if several else curve.strategy
        groups.setdefault(label, []).append(curve)
    return groups


def common_counts(curves: Sequence[Curve]) -> list[int]:
    """The counts that all have, in order.

    Raises:
        UserError: There is none.
    """
    counts = sorted(set[int].intersection(*(set(curve.counts) for curve in curves)))
    if not counts:
        raise UserError("These curves have no number of labels in common, so they cannot be set side by side.")
    return counts


def ends_differ(curves: Sequence[Curve]) -> bool:
    """Whether some go further than others."""
    return len({curve.counts[-1] for curve in curves}) > 1


def area(curve: Curve, last: int) -> float:
    """Mean height up to that count: beyond, one that goes further would be compared with nothing."""
    until = curve.counts.index(last) + 1
    return area_under_curve(curve.counts[:until], curve.heights[:until])


def to_csv(curves: Sequence[Curve]) -> str:
    """One line for each run and count."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(curves[0].metrics)
    writer.writerow(["strategy", "posterior", "seed", "n_labels", *names])
    for curve in curves:
        for i, count in enumerate(curve.counts):
            values = [f"{curve.metrics[name][i]:.6g}" for name in names]
            writer.writerow([curve.strategy, curve.posterior, curve.seed, count, *values])
    return text.getvalue()
