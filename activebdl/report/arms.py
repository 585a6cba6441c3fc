"""What each arm of a comparison brought: an arm is a strategy and a posterior, with all of its seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from activebdl.metrics import labels_to_accuracy
from activebdl.report.curves import TARGETS, Curve, area, common_counts
from activebdl.report.intervals import mean_interval

BOUNDS = {"accuracy": (0.0, 1.0), "ece": (0.0, 1.0), "coverage_90": (0.0, 1.0), "rmse": (0.0, math.inf)}
"""What a metric can be; no interval goes beyond."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and the ends of its 95 % interval: not a number where there is a single seed."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Price:
    """Labels to a target accuracy, over the seeds; never (infinity) is the largest of all values.

    Args:
        median: Of an even number of seeds the upper one of the two in the middle, which some seed really needed.
        fewest: The best seed's.
        most: The worst seed's.
        stopped_at: Where a run was stopped, or is by now, that had not got there yet: then never is not proven.
    """

    median: float
    fewest: float
    most: float
    stopped_at: int | None = None

    @staticmethod
    def of(labels: Sequence[float], stopped_at: int | None = None) -> "Price":
        """Of what each seed needed."""
        needed = sorted(labels)
        return Price(needed[len(needed) // 2], needed[0], needed[-1], stopped_at)

    @property
    def span(self) -> str:
        """From the fewest to the most."""
        least, most = self.told(self.fewest), "never" if math.isinf(self.most) else self.told(self.most)
        return least if self.fewest == self.most else f"{least} - {most}"

    def __str__(self) -> str:
        """The median, and the range where seeds differ."""
        return self.span if self.fewest == self.most else f"{self.told(self.median)} ({self.span})"

    def told(self, labels: float) -> str:
        """What a seed needed, in words."""
        if math.isfinite(labels):
            return f"{int(labels):,}"
        return "never" if self.stopped_at is None else f"not by {self.stopped_at:,}"


@dataclass(frozen=True)
class Arm:
    """One arm.

    Args:
        label: The strategy, and the posterior where they differ.
        strategy: Its label.
        posterior: Its name.
        seeds: Of the runs that it is made of.
        band: The headline at each count that all of its runs have.
        area: Mean height of the learning curve up to the last count that all arms have.
        final: The headline at that count.
        prices: Labels to each target accuracy; empty for numbers.
        seconds: What a run took, on average.
    """

    label: str
    strategy: str
    posterior: str
    seeds: tuple[int, ...]
    band: dict[int, Estimate]
    area: Estimate
    final: Estimate
    prices: dict[float, Price]
    seconds: float


def summary(label: str, group: Sequence[Curve], last: int) -> Arm:
    """The arm of the runs in a group, with area and end at ``last`` labels."""
    of_classes = group[0].headline == "accuracy"
    return Arm(
        label=label,
        strategy=group[0].strategy,
        posterior=group[0].posterior,
        seeds=tuple(sorted(curve.seed for curve in group)),
        band=band(group, group[0].headline),
        area=_estimates([[area(curve, last)] for curve in group], group[0].headline)[0],
        final=_estimates([[curve.at(last)] for curve in group], group[0].headline)[0],
        prices={target: price(target, group) for target in TARGETS} if of_classes else {},
        seconds=float(np.mean([curve.seconds for curve in group])),
    )


def band(group: Sequence[Curve], metric: str) -> dict[int, Estimate]:
    """A metric at each count that all runs of a group have: the mean over seeds, and its interval."""
    counts = common_counts(group)
    values = [[curve.at(count, metric) for count in counts] for curve in group]
    return dict(zip(counts, _estimates(values, metric), strict=True))


def price(target: float, group: Sequence[Curve]) -> Price:
    """Labels to a target over the runs of a group."""
    found = [labels_to_accuracy(curve.counts, curve.heights, target) for curve in group]
    needed = [math.inf if labels is None else labels for labels in found]
    short = [
        curve.counts[-1]
        for curve, n in zip(group, found, strict=True)
        if n is None and (curve.stopped or not curve.complete)
    ]
    return Price.of(needed, min(short, default=None))


def _estimates(values: Sequence[Sequence[float]], metric: str) -> list[Estimate]:
    """Of ``[seeds][M]`` values of a metric."""
    lowest, highest = BOUNDS.get(metric, (-math.inf, math.inf))
    mean, low, high = mean_interval(np.array(values))
    return [
        Estimate(float(m), float(a), float(b))
        for m, a, b in zip(mean, np.clip(low, lowest, highest), np.clip(high, lowest, highest), strict=True)
    ]
