"""Two moons: the predictive of each posterior over a plane, close by and from far away (as in Maddox et al. 2019)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from activebdl.data import Labelled, Normalise
from activebdl.likelihoods import Categorical
from activebdl.networks import make_network
from activebdl.pictures import new_figure, png
from activebdl.posteriors import InferenceMethod
from activebdl.progress import bars, say
from activebdl.randomness import generator
from activebdl.scoring import predictive
from activebdl.strategies.bald import bald
from activebdl.training import Training
from activebdl.uncertainty import methods

TRAINING = Training(steps=2000, batch_size=64, learning_rate=1e-2, weight_decay=1e-4)

NEAR, FAR = 2.0, 8.0
"""Half the side of the two views, in units of the moons' radius."""

_SIDE = 120  # points along an edge of a view
_POINTS = ("#67a9cf", "#ef8a62")  # of the two moons, lighter than the surfaces below them


@dataclass(frozen=True)
class Surface:
    """What one posterior says of the plane around the two moons, each ``[side, side]``.

    Args:
        name: Of the posterior.
        near: Probability of the second moon, close by.
        far: The same, from far away.
        disagreement: Mutual information of label and weights (BALD), from far away.
    """

    name: str
    near: Tensor
    far: Tensor
    disagreement: Tensor


def moons(names: Sequence[str] | None = None, *, draws: int = 50, seed: int = 0) -> bytes:
    """Fits posteriors to the two moons and draws what they say, as a PNG.

    Args:
        names: Of posteriors; all when not given.
        draws: K.
        seed: The source of all randomness.

    Raises:
        UserError: A posterior that is unknown.
    """
    surfaces: list[Surface] = []
    for name, method in methods(names, TRAINING).items():
        with bars("fit", method.steps(len(two_moons()))) as advance:
            surfaces.append(surface(name, method, draws=draws, seed=seed, on_step=lambda: advance(1)))
        say(f"  {name}")
    return draw_surfaces(surfaces)


def two_moons(n: int = 200, noise: float = 0.12, seed: int = 0) -> Labelled:
    """Two half circles of points that reach into each other, centred at zero."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(n, noise=noise, random_state=seed)
    centred = torch.from_numpy(points).float() - torch.tensor([0.5, 0.25])
    return Labelled(centred, torch.from_numpy(labels).long(), Categorical(2), Normalise())


def surface(
    name: str, method: InferenceMethod, *, draws: int = 100, seed: int = 0, on_step: Callable[[], object] | None = None
) -> Surface:
    """Fits a posterior to the two moons, and looks at the plane around them.

    Args:
        name: How it is called in the picture.
        method: How it is fitted, to a perceptron of two hidden layers.
        draws: K.
        seed: The source of all randomness.
        on_step: Called after every optimiser step, for a progress bar.
    """
    network = make_network("mlp", (2,), 2, hidden=(64, 64), dropout=0.2)
    posterior = method.fit(network, two_moons(seed=seed), generator=generator(seed, 0, "fit"), on_step=on_step)
    drawn = posterior.draw(draws, generator=generator(seed, 0, "score"))
    near, far = (drawn.log_probs(_grid(reach)) for reach in (NEAR, FAR))
    return Surface(name, _shaped(_second(near)), _shaped(_second(far)), _shaped(bald(far)))


def draw_surfaces(surfaces: Sequence[Surface]) -> bytes:
    """A column for each posterior, near above far above disagreement, as a PNG."""
    figure = new_figure(2.3 * len(surfaces) + 1.2, 7.4, dpi=100)
    table = figure.subplots(3, len(surfaces), squeeze=False)
    points = two_moons()
    x, y = points.inputs.T
    for column, found in zip(table.T, surfaces, strict=True):
        rows: list[tuple[Tensor, float, str, float]] = [
            (found.near, NEAR, "RdBu_r", 1.0),
            (found.far, FAR, "RdBu_r", 1.0),
            (found.disagreement, FAR, "magma", float(np.log(2))),
        ]
        for axes, (values, reach, colours, most) in zip(column, rows, strict=True):
            shown = axes.imshow(
                values.numpy(), origin="lower", extent=(-reach, reach, -reach, reach), cmap=colours, vmin=0, vmax=most
            )
            colours_of = [_POINTS[label] for label in points.labels]
            axes.scatter(x, y, c=colours_of, s=6 if reach == NEAR else 2, edgecolors="w", linewidths=0.2)
            axes.set(xticks=[], yticks=[])
            if axes in table[:, -1]:
                figure.colorbar(shown, ax=axes, shrink=0.8)
        column[0].set_title(found.name, fontsize=10)
    for axes, text in zip(table[:, 0], ("p(red), near", "p(red), far", "disagreement (nats), far"), strict=True):
        axes.set_ylabel(text)
    return png(figure)


def _grid(reach: float) -> Tensor:
    """Points ``[side * side, 2]`` of a square view, row by row from below."""
    edge = torch.linspace(-reach, reach, _SIDE)
    y, x = torch.meshgrid(edge, edge, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def _second(log_probs: Tensor) -> Tensor:
    """The predictive probability of the second class."""
    return predictive(log_probs)[:, 1].exp()


def _shaped(values: Tensor) -> Tensor:
    return values.reshape(_SIDE, _SIDE).clone()
