"""Pictures of a comparison, as matplotlib figures: learning curves, who wins, what was asked, calibration, time."""

import math
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np

from activebdl.pictures import new_figure, png
from activebdl.report.arms import band
from activebdl.report.curves import Curve, by_label, common_counts, ends_differ
from activebdl.report.published import Published

Array = np.ndarray[Any, Any]

PHASES = ("fit", "select", "ask", "evaluate")
_GREY = "#7f7f7f"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
_LINES = ("-", "--", "-.", ":")
_LINES_INSIDE = 4  # a longer legend stands beside the picture
_MANY = 6  # arms, beyond which bands are faint
_TICKS = (0, 30, 50, 70, 80, 85, 90, 95, 97, 98, 99, 99.5, 99.8)


def plot(curves: Sequence[Curve], title: str) -> bytes:
    """The learning curves as a PNG; see `learning_curves`."""
    return png(learning_curves(curves, title))


def learning_curves(curves: Sequence[Curve], title: str, published: Sequence[Published] = ()) -> Any:
    """Accuracy or RMSE against labels: the mean of each arm, with its 95 % interval from three seeds on.

    A line goes as far as all seeds of its arm; where lines end at different counts, the legend says where. Of two seeds
    both are drawn: the interval of so few is wider than the picture. Published curves are thin, grey and dashed.
    """
    groups = by_label(curves)
    aside = len(groups) + len(published) > _LINES_INSIDE
    figure = new_figure(12 if aside else 8, 5, dpi=144)
    axes: Any = figure.add_subplot()
    of_classes = curves[0].headline == "accuracy"
    scale, digits, unit = (100, ".2f", " %") if of_classes else (1, ".4g", "")
    best_first = sorted(groups, key=lambda label: _end(groups[label]), reverse=of_classes)
    looks = styles(list(groups))
    for label in best_first:
        group = groups[label]
        last = common_counts(group)[-1]
        end = f"at {last:,}" if ends_differ(curves) else "at the end"
        seeds = f" ({len(group)} seeds)" if len(group) > 1 else ""
        told = f"{label}{seeds}, {scale * _end(group):{digits}}{unit} {end}"
        _draw_arm(axes, group, looks[label], told, metric=group[0].headline, scale=scale, crowded=len(groups) > _MANY)
    _draw_published(axes, published, max(curve.counts[-1] for curve in curves), scale)
    if of_classes:
        _percent_axis(axes, curves)
    axes.set(xlabel="labels", ylabel="test accuracy" if of_classes else "test RMSE", title=title)
    _tidy(axes)
    if aside:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    else:
        axes.legend(loc="lower right" if of_classes else "upper right", frameon=False, fontsize=9)
    return figure


def win_matrix(curves: Sequence[Curve], title: str) -> Any:
    """How often each arm is ahead of each other: over the seeds both have and the counts all have, a tie being half.

    The first count is left out, for there every arm has the same labels. After the pairwise penalty matrix of Ash et
    al. (2020), "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds", but without a test at each
    count.
    """
    groups = by_label(curves)
    labels, shares = list(groups), wins(curves)
    side = max(4.2, 0.85 * len(labels) + 2.2)
    figure = new_figure(side, side - 0.6, dpi=144)
    axes: Any = figure.add_subplot()
    axes.imshow(shares, cmap="PuOr_r", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        if not math.isnan(share):
            strong = abs(share - 0.5) > 0.3
            axes.text(j, i, f"{100 * share:.0f} %", ha="center", va="center", color="white" if strong else "black")
    _name_ticks(axes, labels, labels)
    axes.xaxis.tick_top()
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("is ahead of the one above in so many cases")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def wins(curves: Sequence[Curve]) -> Array:
    """The share of (seed, count) at which arm i is ahead of arm j, ``[arms, arms]``; no number where none is shared."""
    groups = list(by_label(curves).values())
    counts = common_counts(curves)
    counts = counts[1:] or counts
    sign = 1 if curves[0].headline == "accuracy" else -1
    heights = [{c.seed: np.array([sign * c.at(count) for count in counts]) for c in group} for group in groups]
    shares = np.full((len(groups), len(groups)), math.nan)
    for i, ours in enumerate(heights):
        for j, theirs in enumerate(heights):
            gaps = [ours[seed] - theirs[seed] for seed in set(ours) & set(theirs)]
            if i != j and gaps:
                shares[i, j] = np.mean([(gap > 0) + 0.5 * (gap == 0) for gap in gaps])
    return shares


def asked_by_class(asked: Mapping[str, Array], counts: Sequence[int], classes: Sequence[str], title: str) -> Any:
    """The share of each class in what was asked for, round by round; white is an even share.

    Args:
        asked: Of each arm, the mean share ``[rounds, classes]`` over its seeds.
        counts: Labels at the end of each of those rounds.
        classes: Their names.
        title: Above it all.
    """
    from matplotlib.colors import TwoSlopeNorm

    columns = 2 if len(asked) == 4 else min(3, len(asked))
    rows = math.ceil(len(asked) / columns)
    figure = new_figure(1.4 + 3.1 * columns, 0.9 + 2.5 * rows, dpi=144)
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    even = 1 / len(classes)
    highest = max(2 * even, max(float(np.nanmax(shares)) for shares in asked.values()))
    norm, picture = TwoSlopeNorm(even, 0, highest), None
    for axes, (label, shares) in zip(grid.flat, asked.items(), strict=False):
        picture = axes.imshow(shares.T, aspect="auto", cmap="PuOr_r", norm=norm, origin="lower")
        axes.set_title(label, fontsize=10)
        at = _spread_ticks(len(counts), 5)
        axes.set_xticks(at, [f"{counts[i]:,}" for i in at])
        at = _spread_ticks(len(classes), 10)
        axes.set_yticks(at, [shorten(classes[i], 16, placeholder="...") for i in at])
        axes.spines[:].set_visible(False)
    for empty in range(len(asked), rows * columns):
        grid.flat[empty].set_visible(False)
        grid.flat[empty - columns].tick_params(labelbottom=True)  # it is the last of its column
    ticks = [0, even, *[t * even for t in (2, 4, 8, 16) if t * even <= 1.01 * highest]]
    bar = figure.colorbar(picture, ax=grid, shrink=0.9, ticks=ticks)
    bar.ax.set_yticklabels([f"{100 * t:.3g} %" for t in ticks])
    bar.outline.set_visible(False)
    figure.supxlabel("labels", fontsize=10)
    figure.supylabel("class", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure


def calibration(curves: Sequence[Curve], title: str) -> Any:
    """ECE and NLL against labels, or, of numbers, NLL and the coverage of 90 % intervals."""
    of_classes = curves[0].headline == "accuracy"
    names = (
        {"ece": "ECE", "nll": "NLL (nats)"} if of_classes else {"nll": "NLL (nats)", "coverage_90": "in 90 % interval"}
    )
    names = {name: told for name, told in names.items() if all(name in curve.metrics for curve in curves)}
    figure = new_figure(4.6 * max(1, len(names)), 4.2, dpi=144)
    panels: Any = figure.subplots(1, max(1, len(names)), squeeze=False)[0]
    groups = by_label(curves)
    looks = styles(list(groups))
    for axes, (name, told) in zip(panels, names.items(), strict=False):
        for label, group in groups.items():
            _draw_arm(axes, group, looks[label], label, metric=name, scale=1, crowded=len(groups) > _MANY)
        means = [value.mean for group in groups.values() for value in band(group, name).values()]
        room = 0.15 * (max(means) - min(means)) or 0.1
        axes.set_ylim(min(means) - room, max(means) + room)  # the intervals of few seeds may go beyond
        if name == "ece":
            axes.set_ylim(bottom=0)
        if name == "coverage_90":
            axes.axhline(0.9, color="black", linewidth=0.8, linestyle=":")
            axes.set_ylim(min(0.85, min(means) - room), 1)
        axes.set(xlabel="labels", ylabel=told)
        _tidy(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def time_per_phase(seconds: Mapping[str, Mapping[str, float]], title: str) -> Any:
    """What a run spends on each phase, as stacked bars.

    Args:
        seconds: Of each arm, the mean over its runs, by phase.
        title: Above it all.
    """
    figure = new_figure(8, 1.5 + 0.42 * len(seconds), dpi=144)
    axes: Any = figure.add_subplot()
    totals = {label: sum(phases.values()) for label, phases in seconds.items()}
    scale, unit = (60, "minutes") if max(totals.values()) >= 120 else (1, "seconds")
    left = dict.fromkeys(seconds, 0.0)
    for phase, colour in zip(PHASES, ("#0072b2", "#e69f00", "#cc79a7", "#009e73"), strict=True):
        widths = [seconds[label].get(phase, 0.0) / scale for label in seconds]
        axes.barh(list(seconds), widths, left=list(left.values()), color=colour, label=phase, height=0.62)
        left = {label: at + width for (label, at), width in zip(left.items(), widths, strict=True)}
    for row, total in enumerate(left.values()):
        axes.text(total, row, f"  {total:.3g}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_xlabel(f"{unit} per run")
    axes.set_title(title, fontsize=11, pad=24)
    _tidy(axes, axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(PHASES), frameon=False, fontsize=9)
    return figure


def styles(labels: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and line of each arm, the same in all pictures: random is grey; colours come again with other dashes."""
    looks: dict[str, dict[str, str]] = {}
    greys = others = 0
    for label in labels:
        if label.partition(",")[0] == "random":
            looks[label] = {"color": _GREY, "linestyle": _LINES[greys % len(_LINES)]}
            greys += 1
        else:
            line = _LINES[others // len(_COLOURS) % len(_LINES)]
            looks[label] = {"color": _COLOURS[others % len(_COLOURS)], "linestyle": line}
            others += 1
    return looks


def _end(group: Sequence[Curve]) -> float:
    """Where an arm's line ends."""
    last = common_counts(group)[-1]
    return float(np.mean([curve.at(last) for curve in group]))


def _draw_arm(
    axes: Any, group: Sequence[Curve], look: Mapping[str, str], label: str, *, metric: str, scale: float, crowded: bool
) -> None:
    """The mean, and the band of three seeds or more; of two, both, where there is room for them."""
    points = band(group, metric)
    counts = list(points)
    marker = "." if len(counts) <= 40 else None
    axes.plot(counts, [scale * point.mean for point in points.values()], marker=marker, label=label, **look)
    if len(group) > 2:
        low, high = [scale * point.low for point in points.values()], [scale * point.high for point in points.values()]
        axes.fill_between(counts, low, high, color=look["color"], alpha=0.07 if crowded else 0.15, linewidth=0)
    elif len(group) == 2 and not crowded:
        for curve in group:
            values = [scale * curve.at(count, metric) for count in counts]
            axes.plot(counts, values, linewidth=0.7, alpha=0.6, label="_", **look)


def _draw_published(axes: Any, published: Sequence[Published], last: int, scale: float) -> None:
    for each, dashes in zip(published, ((5, 2), (1, 1.5), (6, 2, 1, 2), (8, 3)) * 3, strict=False):
        shown = [(n, scale * height) for n, height in zip(each.counts, each.heights, strict=True) if n <= last]
        if shown:
            counts, heights = zip(*shown, strict=True)
            axes.plot(counts, heights, color="#555555", linewidth=1, dashes=dashes, label=each.label, zorder=1)


def _percent_axis(axes: Any, curves: Sequence[Curve]) -> None:
    """The upper end of the curve is where strategies differ, so errors are on a logarithmic axis, best on top."""
    axes.set_yscale("function", functions=(_up, _down))
    highest = 100 * max(max(curve.heights) for curve in curves)
    lowest = 100 * min(min(curve.heights) for curve in curves)
    top = min(99.95, highest + (100 - highest) * 0.25)
    ticks = [t for t in _TICKS if t <= max(top, highest + 0.4)]
    ticks = [t for i, t in enumerate(ticks) if i + 1 == len(ticks) or ticks[i + 1] > lowest]
    axes.set_ylim(ticks[0], top)
    axes.set_yticks(ticks, [f"{t:g} %" for t in ticks])


def _up(accuracy: Any) -> Any:
    return -np.log(np.maximum(100.0 - np.asarray(accuracy, dtype=float), 0.01))


def _down(height: Any) -> Any:
    return 100.0 - np.exp(-np.asarray(height, dtype=float))


def _tidy(axes: Any, axis: str = "both") -> None:
    axes.grid(alpha=0.25, axis=axis)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _name_ticks(axes: Any, across: Sequence[str], down: Sequence[str]) -> None:
    axes.set_xticks(range(len(across)), across, rotation=30, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(down)), down)


def _spread_ticks(total: int, wanted: int) -> list[int]:
    step = max(1, math.ceil(total / wanted))
    return list(range(0, total, step))
