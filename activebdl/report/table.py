"""A comparison as a table of text."""

import statistics
from collections.abc import Sequence

from activebdl.report.arms import Price, price
from activebdl.report.curves import TARGETS, Curve, area, by_label, common_counts, ends_differ


def table(curves: Sequence[Curve], rows: int = 14) -> str:
    """Accuracy in percent, or RMSE, at up to ``rows`` counts, and the price of each target accuracy, as text.

    With several seeds: the mean, and the standard deviation after the plus-minus sign. Where stopping rules end runs
    at different counts, rows and areas are those of the counts that all have, and the ends are told below.
    """
    groups = by_label(curves)
    of_classes = curves[0].headline == "accuracy"
    cell = percent if of_classes else number
    width = max(14, *(len(label) + 2 for label in groups))
    counts = common_counts(curves)
    lines = ["labels".rjust(14) + "".join(label.rjust(width) for label in groups)]
    for at in spread(len(counts), rows):
        cells = [cell([c.heights[c.counts.index(counts[at])] for c in group]) for group in groups.values()]
        lines.append(f"{counts[at]:,}".rjust(14) + "".join(text.rjust(width) for text in cells))
    lines.append("-" * len(lines[0]))
    for target in TARGETS if of_classes else ():
        cells = [price(target, group).span for group in groups.values()]
        lines.append(f"labels to {target:.0%}".rjust(14) + "".join(text.rjust(width) for text in cells))
    areas = [cell([area(c, counts[-1]) for c in group]) for group in groups.values()]
    lines.append(("AULC" if of_classes else "mean RMSE").rjust(14) + "".join(text.rjust(width) for text in areas))
    if ends_differ(curves):
        lines[-1] += f"   up to {counts[-1]:,} labels"
        ends = [Price.of([c.counts[-1] for c in group]).span for group in groups.values()]
        lines.append("ends at".rjust(14) + "".join(text.rjust(width) for text in ends))
        reached = [cell([c.heights[-1] for c in group]) for group in groups.values()]
        lines.append("there".rjust(14) + "".join(text.rjust(width) for text in reached))
    times = [_minutes([c.seconds for c in group]) for group in groups.values()]
    lines.append("time per run".rjust(14) + "".join(text.rjust(width) for text in times))
    return "\n".join(lines)


def spread(total: int, wanted: int) -> list[int]:
    """Up to ``wanted`` positions of ``total``, from the first to the last."""
    if total <= wanted:
        return list(range(total))
    return sorted({round(i * (total - 1) / (wanted - 1)) for i in range(wanted)})


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation of shares."""
    mean = f"{100 * statistics.fmean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean} %"


def number(values: Sequence[float]) -> str:
    """Mean and standard deviation of anything else."""
    mean = f"{statistics.fmean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def _minutes(seconds: Sequence[float]) -> str:
    minutes = statistics.fmean(seconds) / 60
    return f"{minutes:.1f} min" if minutes >= 1 else f"{60 * minutes:.0f} s"
