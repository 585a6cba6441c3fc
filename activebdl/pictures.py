"""Pictures of a run as PNG bytes: what was asked, what is confused, how sure is too sure."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_BLUE, _GREY = "#0072b2", "#7f7f7f"


def asked_grid(images: Array, captions: Sequence[str], title: str, most: int = 100) -> bytes:
    """The images that were asked for, in the order of choice, each with its caption.

    Args:
        images: ``[Q, channels, H, W]`` with 1 or 3 channels, any range of values; each image fills its own.
        captions: Q, e.g. the labels given.
        title: Above it all.
        most: Images shown; when there are more, the first ones, and the title says so.
    """
    shown = images[:most]
    if len(images) > most:
        title = f"{title} (the first {most} of {len(images)})"
    columns = min(10, len(shown))
    rows = math.ceil(len(shown) / columns)
    height, width = shown.shape[2:]
    gap = math.ceil(0.3 * height)  # above each image, for its caption
    sheet = np.ones((rows * (height + gap), columns * (width + 1), 3))
    figure = new_figure(max(3.4, 0.75 * columns + 0.3), 0.95 * rows + 0.5)  # at least as wide as the title
    axes = figure.add_subplot()
    for i, (image, caption) in enumerate(zip(shown, captions, strict=False)):
        top, left = i // columns * (height + gap) + gap, i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = np.moveaxis(_unit(image), 0, -1)  # one channel fills three
        axes.text(left + width / 2, top - 0.12 * height, _short(caption), ha="center", fontsize=8)
    axes.imshow(sheet)  # one picture in all: an axes for each would take a second
    axes.set_axis_off()
    figure.suptitle(title, fontsize=9)
    return png(figure)


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> bytes:
    """Counts ``[C true][C predicted]``; the colour tells the errors, which the diagonal would outshine.

    Of more than 40 classes the colour alone is there: numbers and names could not be read.
    """
    table, names = np.array(counts), [_short(name) for name in classes]
    readable = len(names) <= 40
    errors = table.astype(float)
    np.fill_diagonal(errors, np.nan)
    side = max(4.0, 0.5 * len(names) + 1.5) if readable else 9.0
    figure = new_figure(side, side)
    axes = figure.add_subplot()
    axes.imshow(errors, cmap="Oranges", vmin=0)
    highest = max(1.0, float(np.nan_to_num(errors).max()))
    for (i, j), count in np.ndenumerate(table) if readable else ():
        dark = i != j and count > 0.6 * highest
        colour = "white" if dark else "black" if count else "#cccccc"
        axes.text(j, i, str(count), ha="center", va="center", fontsize=7, color=colour)
    if readable:
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, fontsize=10)
    return png(figure)


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def reliability_diagram(bins: dict[str, list[float]], ece: float, title: str) -> bytes:
    """Accuracy against confidence; on the diagonal the predictions are as sure as they are right.

    Args:
        bins: edges, confidence, accuracy and count of each bin, as `activebdl.metrics.reliability` has them.
        ece: The expected calibration error.
        title: Above it all.
    """
    count = np.array(bins["count"])
    inside = count > 0
    figure = new_figure(4.5, 5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
    confidence, accuracy = np.array(bins["confidence"])[inside], np.array(bins["accuracy"])[inside]
    upper.plot(confidence, accuracy, marker="o", color=_BLUE)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.set_title(f"{title}, ECE {ece:.3f}", fontsize=10)
    edges = np.array(bins["edges"])
    lower.bar(edges, count, width=1 / len(edges), align="edge", color=_BLUE, alpha=0.5)
    lower.set_yscale("log")
    lower.set(xlabel="confidence", ylabel="items")
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _unit(image: Array) -> Array:
    """Values from 0 to 1."""
    low, high = float(image.min()), float(image.max())
    return (image - low) / max(high - low, 1e-12)


def new_figure(width: float, height: float, dpi: int = 120) -> Any:
    """An empty figure, sides in inches; no window opens, and pyplot's global state is not touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Any) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def svg(figure: Any) -> bytes:
    """The figure as the bytes of an SVG file, the same for the same figure."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "activebdl"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
