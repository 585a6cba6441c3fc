"""Learning curves side by side: a table, a CSV file, a plot."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activebdl.files import write_safely
from activebdl.metrics import area_under_curve, labels_to_accuracy
from activebdl.pictures import new_figure, png

TARGETS = (0.90, 0.95, 0.98)
"""Accuracies whose price in labels is told."""

HEADLINES = ("accuracy", "rmse")
"""The one metric of a learning curve: that of classes, and that of numbers."""

_COLOURS = ("#0072b2", "#7f7f7f", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito


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
    """

    strategy: str
    posterior: str
    seed: int
    counts: tuple[int, ...]
    metrics: Mapping[str, tuple[float, ...]]
    seconds: float = 0.0
    stopped: bool = False

    @property
    def headline(self) -> str:
        """The metric that is shown when there is room for one: accuracy, or rmse."""
        return next(name for name in HEADLINES if name in self.metrics)

    @property
    def heights(self) -> tuple[float, ...]:
        """The headline at each count."""
        return self.metrics[self.headline]


def by_label(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """The curves of all seeds together, by what is compared: the strategy, and the posterior where they differ."""
    several = len({curve.posterior for curve in curves}) > 1
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        label = f"{curve.strategy}, {curve.posterior}" if several else curve.strategy
        groups.setdefault(label, []).append(curve)
    return groups


def table(curves: Sequence[Curve], rows: int = 14) -> str:
    """Accuracy in percent, or RMSE, at up to ``rows`` counts, and the price of each target accuracy, as text.

    With several seeds: the mean, and the standard deviation after the plus-minus sign. Where stopping rules end runs
    at different counts, rows and areas are those of the counts that all have, and the ends are told below.
    """
    groups = by_label(curves)
    of_classes = curves[0].headline == "accuracy"
    cell = _percent if of_classes else _number
    width = max(14, *(len(label) + 2 for label in groups))
    counts = _common_counts(curves)
    lines = ["labels".rjust(14) + "".join(label.rjust(width) for label in groups)]
    for at in _spread(len(counts), rows):
        cells = [cell([c.heights[c.counts.index(counts[at])] for c in group]) for group in groups.values()]
        lines.append(f"{counts[at]:,}".rjust(14) + "".join(text.rjust(width) for text in cells))
    lines.append("-" * len(lines[0]))
    for target in TARGETS if of_classes else ():
        cells = [_price_of(target, group) for group in groups.values()]
        lines.append(f"labels to {target:.0%}".rjust(14) + "".join(text.rjust(width) for text in cells))
    areas = [cell([_area(c, counts[-1]) for c in group]) for group in groups.values()]
    lines.append(("AULC" if of_classes else "mean RMSE").rjust(14) + "".join(text.rjust(width) for text in areas))
    if _ends_differ(curves):
        lines[-1] += f"   up to {counts[-1]:,} labels"
        ends = [_price([c.counts[-1] for c in group]) for group in groups.values()]
        lines.append("ends at".rjust(14) + "".join(text.rjust(width) for text in ends))
        reached = [cell([c.heights[-1] for c in group]) for group in groups.values()]
        lines.append("there".rjust(14) + "".join(text.rjust(width) for text in reached))
    times = [_minutes([c.seconds for c in group]) for group in groups.values()]
    lines.append("time per run".rjust(14) + "".join(text.rjust(width) for text in times))
    return "\n".join(lines)


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


def plot(curves: Sequence[Curve], title: str) -> bytes:
    """Accuracy or RMSE against labels as a PNG: a line for each group, a band from the worst to the best seed.

    A line goes as far as all seeds of its group; where lines end at different counts, the legend says where.
    """
    figure = new_figure(8, 5, dpi=144)
    axes: Any = figure.add_subplot()
    of_classes = curves[0].headline == "accuracy"
    scale, digits = (100, ".2f") if of_classes else (1, ".4g")
    unit = " %" if of_classes else ""
    for colour, (label, group) in zip(_COLOURS * 9, by_label(curves).items(), strict=False):
        counts = _common_counts(group)
        heights = [[scale * c.heights[c.counts.index(count)] for c in group] for count in counts]
        seeds = f" ({len(group)} seeds)" if len(group) > 1 else ""
        means = [statistics.fmean(column) for column in heights]
        end = f"at {counts[-1]:,}" if _ends_differ(curves) else "at the end"
        axes.plot(counts, means, marker=".", color=colour, label=f"{label}{seeds}, {means[-1]:{digits}}{unit} {end}")
        if len(group) > 1:
            axes.fill_between(counts, [min(h) for h in heights], [max(h) for h in heights], color=colour, alpha=0.18)
    if of_classes:
        _percent_axis(axes, curves)
    axes.set(xlabel="labels", ylabel="test accuracy" if of_classes else "test RMSE", title=title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right" if of_classes else "upper right", frameon=False)
    return png(figure)


def write_report(curves: Sequence[Curve], folder: Path) -> None:
    """Writes the plot, the numbers and the table of a comparison."""
    write_safely(folder / "curves.png", plot(curves, folder.name))
    write_safely(folder / "curves.csv", to_csv(curves))
    write_safely(folder / "table.txt", table(curves) + "\n")


def _percent_axis(axes: Any, curves: Sequence[Curve]) -> None:
    """The upper end of the curve is where strategies differ, so errors are on a logarithmic axis, best on top."""
    axes.set_yscale("function", functions=(_up, _down))
    highest = 100 * max(max(curve.heights) for curve in curves)
    lowest = 100 * min(min(curve.heights) for curve in curves)
    ticks = [t for t in (0, 50, 70, 80, 90, 95, 97, 98, 99, 99.5, 99.8) if t <= highest + 0.4]
    ticks = [t for i, t in enumerate(ticks) if i + 1 == len(ticks) or ticks[i + 1] > lowest]
    axes.set_ylim(ticks[0], min(99.95, highest + (100 - highest) * 0.25))
    axes.set_yticks(ticks, [f"{t:g} %" for t in ticks])


def _up(accuracy: Any) -> Any:
    import numpy as np

    return -np.log(np.maximum(100.0 - np.asarray(accuracy, dtype=float), 0.01))


def _down(height: Any) -> Any:
    import numpy as np

    return 100.0 - np.exp(-np.asarray(height, dtype=float))


def _common_counts(curves: Sequence[Curve]) -> list[int]:
    return sorted(set[int].intersection(*(set(curve.counts) for curve in curves)))


def _ends_differ(curves: Sequence[Curve]) -> bool:
    return len({curve.counts[-1] for curve in curves}) > 1


def _area(curve: Curve, last: int) -> float:
    """Under the curve up to that count: beyond, one that goes further would be compared with nothing."""
    until = curve.counts.index(last) + 1
    return area_under_curve(curve.counts[:until], curve.heights[:until])


def _spread(total: int, wanted: int) -> list[int]:
    """Up to ``wanted`` positions from the first to the last."""
    if total <= wanted:
        return list(range(total))
    return sorted({round(i * (total - 1) / (wanted - 1)) for i in range(wanted)})


def _percent(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean} %"


def _number(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def _price_of(target: float, group: Sequence[Curve]) -> str:
    """Labels to the target; a run that a rule stopped might still have got there."""
    labels = [labels_to_accuracy(c.counts, c.heights, target) for c in group]
    short = [c.counts[-1] for c, n in zip(group, labels, strict=True) if n is None and c.stopped]
    return _price(labels, f"not by {min(short):,}" if short else "never")


def _price(labels: Sequence[int | None], never: str = "never") -> str:
    """Labels needed, of every seed from the fewest to the most; a seed that never got there is the most."""
    reached = sorted(n for n in labels if n is not None)
    if not reached:
        return never
    most = never if len(reached) < len(labels) else f"{reached[-1]:,}"
    return most if most == f"{reached[0]:,}" else f"{reached[0]:,} - {most}"


def _minutes(seconds: Sequence[float]) -> str:
    minutes = statistics.fmean(seconds) / 60
    return f"{minutes:.1f} min" if minutes >= 1 else f"{60 * minutes:.0f} s"
