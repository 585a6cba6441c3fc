"""Ten points on a line, y = 3x: narrow where there is data, wide where there is none, and which of the two it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from activebdl.data import Labelled, Normalise
from activebdl.networks import make_network
from activebdl.pictures import new_figure, png
from activebdl.posteriors import InferenceMethod
from activebdl.progress import bars, say
from activebdl.randomness import generator
from activebdl.regression import Moments
from activebdl.targets import Numbers
from activebdl.training import Training
from activebdl.uncertainty import methods

TRAINING = Training(steps=1500, batch_size=10, learning_rate=1e-2, weight_decay=1e-4)

SLOPE, FIRST, LAST, POINTS = 3.0, 1.1, 11.3, 10
_REACH = (-10.0, 22.0)  # of the picture
_BLUE = "#0072b2"


@dataclass(frozen=True)
class Band:
    """What one posterior says along the axis.

    Args:
        name: Of the posterior.
        x: ``[N]``.
        moments: Of y at each x, in its own units.
    """

    name: str
    x: Tensor
    moments: Moments


def line(names: Sequence[str] | None = None, *, draws: int = 100, seed: int = 0) -> bytes:
    """Fits posteriors to the ten points and draws mean and bands of two deviations, as a PNG.

    Args:
        names: Of posteriors; all when not given.
        draws: K.
        seed: The source of all randomness.

    Raises:
        UserError: A posterior that is unknown.
    """
    bands: list[Band] = []
    for name, method in methods(names, TRAINING).items():
        with bars("fit", method.steps(POINTS)) as advance:
            bands.append(band(name, method, draws=draws, seed=seed, on_step=lambda: advance(1)))
        say(f"  {name}")
    return draw_bands(bands)


def points() -> tuple[Tensor, Tensor]:
    """X and y ``[10]``, without noise."""
    x = torch.linspace(FIRST, LAST, POINTS)
    return x, SLOPE * x


def band(
    name: str, method: InferenceMethod, *, draws: int = 100, seed: int = 0, on_step: Callable[[], object] | None = None
) -> Band:
    """Fits one posterior, of a perceptron that gives mean and log variance.

    Args:
        name: How it is called in the picture.
        method: How it is fitted.
        draws: K.
        seed: The source of all randomness.
        on_step: Called after every optimiser step, for a progress bar.
    """
    x, y = points()
    scale = Normalise(1.0, float(x.mean()), float(x.std()))
    task = Numbers().task(y)
    labelled = Labelled(x[:, None], task.labels, task.likelihood, scale)
    network = make_network("mlp", (1,), task.likelihood.width, hidden=(64, 64), dropout=0.1)
    posterior = method.fit(network, labelled, generator=generator(seed, 0, "fit"), on_step=on_step)
    drawn = posterior.draw(draws, generator=generator(seed, 0, "score"))
    along = torch.linspace(*_REACH, 300)
    return Band(name, along, Moments.of(task.predict(drawn, scale(along[:, None]))))


def draw_bands(bands: Sequence[Band]) -> bytes:
    """A picture for each posterior: the mean, and two standard deviations of what it does not know and of it all."""
    columns = min(3, len(bands))
    rows = -(-len(bands) // columns)
    figure = new_figure(3.6 * columns, 2.8 * rows + 0.5, dpi=110)
    table = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, told in zip(table, bands, strict=False):
        mean = told.moments.predicted
        for variance, opacity, label in (
            (told.moments.total, 0.15, "with noise"),
            (told.moments.epistemic, 0.3, "what it does not know"),
        ):
            reach = 2 * variance.sqrt()
            axes.fill_between(told.x, mean - reach, mean + reach, color=_BLUE, alpha=opacity, lw=0, label=label)
        axes.plot(told.x, mean, color=_BLUE)
        axes.plot(told.x, SLOPE * told.x, color="k", linewidth=0.8, linestyle="--", label="y = 3x")
        axes.plot(*points(), "k.", markersize=5)
        axes.set(title=told.name, ylim=(-50, 90), xlim=_REACH)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in table[len(bands) :]:
        axes.set_visible(False)
    handles, labels = table[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return png(figure)
