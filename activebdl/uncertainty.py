"""Uncertainty one can look at: what a posterior says of a whole plane, and whether it tells the strange from the known.

B: points or images, K: draws, C: classes. Entropies in nats.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from activebdl.build import make_fresh, make_method, plain
from activebdl.data import ActiveDataset, Labelled, Normalise, load
from activebdl.devices import choose_device
from activebdl.errors import UserError
from activebdl.likelihoods import Categorical
from activebdl.networks import make_network
from activebdl.pictures import new_figure, png
from activebdl.posteriors import Draws, InferenceMethod, posteriors
from activebdl.progress import bars, say
from activebdl.randomness import generator
from activebdl.scoring import Scorer, entropy, predictive
from activebdl.spec import Named, read_spec
from activebdl.strategies.bald import bald
from activebdl.training import Training

MOONS = Training(steps=2000, batch_size=64, learning_rate=1e-2, weight_decay=1e-4)
"""How the networks of the two moons are trained."""

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
    methods = _methods(names, MOONS)
    surfaces: list[Surface] = []
    for name, method in methods.items():
        with bars("fit", method.steps(len(two_moons()))) as advance:
            surfaces.append(surface(name, method, draws=draws, seed=seed, on_step=lambda: advance(1)))
        say(f"  {name}")
    return draw_surfaces(surfaces)


def digits(
    names: Sequence[str] | None = None, *, labels: int = 1000, draws: int = 50, seed: int = 0, device: str = "auto"
) -> tuple[bytes, str]:
    """Fits posteriors to MNIST and shows them Fashion-MNIST, turned digits and noise.

    Args:
        names: Of posteriors; all when not given. They are trained as in the preset mnist-1000.
        labels: How many random labels they are fitted to.
        draws: K.
        seed: The source of all randomness.
        device: "auto", "cpu", "cuda", ...

    Returns:
        Histograms as a PNG, and a table.

    Raises:
        UserError: A posterior or device that is unknown, or more labels than there are.
    """
    spec = read_spec("mnist-1000")
    reference = make_method(spec.posterior)
    methods, on = _methods(names, reference.training), choose_device(device)  # pyright: ignore[reportAttributeAccessIssue]
    known, fashion = load("mnist"), load("fashion_mnist")
    network = make_fresh(spec.network, known)
    strange = strange_images(known.test[torch.arange(2000)], {"fashion": fashion.test[torch.arange(2000)]}, seed)
    found: list[Separation] = []
    for name, method in methods.items():
        with bars("fit", method.steps(labels)) as advance:
            found.append(
                separation(
                    name, method, network, known, strange,
                    labels=labels, draws=draws, seed=seed, device=on, on_step=lambda: advance(1),
                )
            )  # fmt: skip
        say(f"  {name}")
    return draw_separation(found), separation_table(found)


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


@dataclass(frozen=True)
class Separation:
    """How far a posterior tells strange images from those it knows.

    Args:
        name: Of the posterior.
        accuracy: On the known images.
        scores: For "known" and for each strange set: predictive entropy and BALD of each image, ``[B]``.
        auroc: For each strange set, by entropy and by BALD: the share of pairs that are in the right order.
    """

    name: str
    accuracy: float
    scores: Mapping[str, tuple[Tensor, Tensor]]
    auroc: Mapping[str, tuple[float, float]]


def strange_images(images: Tensor, others: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """What no network has seen, as uint8 ``[B, channels, H, W]``: others, the known turned by 90 degrees, noise."""
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=generator(seed, 0, "noise"))
    return {**others, "turned by 90 degrees": images.rot90(1, (2, 3)), "noise": noise}


def separation(
    name: str,
    method: InferenceMethod,
    network: Callable[[], nn.Module],
    known: ActiveDataset,
    strange: Mapping[str, Tensor],
    *,
    labels: int = 1000,
    draws: int = 30,
    images: int = 2000,
    seed: int = 0,
    device: torch.device | None = None,
    on_step: Callable[[], object] | None = None,
) -> Separation:
    """Fits a posterior to random labels, and asks how it tells strange images from the known ones.

    Args:
        name: How it is called in the table.
        method: How it is fitted.
        network: Makes a fresh network.
        known: The data set, with labels.
        strange: By name, images of the same shape, as they are stored.
        labels: How many it is fitted to.
        draws: K.
        images: The first so many of each set are looked at.
        seed: The source of all randomness.
        device: Where; the CPU when not given.
        on_step: Called after every optimiser step, for a progress bar.

    Raises:
        UserError: The data set has no labels, or fewer than are wanted.
    """
    if known.labels is None or not 0 < labels <= len(known.labels):
        there = 0 if known.labels is None else len(known.labels)
        raise UserError(f"{labels} labels are wanted, and the data set '{known.name}' has {there}.")
    device = device or torch.device("cpu")
    ids = torch.randperm(len(known.labels), generator=generator(seed, 0, "labels"))[:labels]
    fitted = Labelled(
        known.pool[ids].to(device), known.labels[ids].to(device), Categorical(len(known.classes)), known.normalise
    )
    posterior = method.fit(network, fitted, generator=generator(seed, 0, "fit"), on_step=on_step)
    drawn = posterior.draw(draws, generator=generator(seed, 0, "score"))
    here = torch.arange(min(images, len(known.test)))
    found = _look(drawn, known, device, known.test[here])
    accuracy = float((found[:, 2].long() == known.test_labels[here]).double().mean())
    scores = {"known": (found[:, 0], found[:, 1])}
    for what, unknown in strange.items():
        told = _look(drawn, known, device, unknown[:images])
        scores[what] = (told[:, 0], told[:, 1])
    auroc = {what: _auroc(scores["known"], scores[what]) for what in strange}
    return Separation(name, accuracy, scores, auroc)


def separation_table(separations: Sequence[Separation]) -> str:
    """AUROC by predictive entropy and by BALD of each posterior and each strange set, as text."""
    sets = list(separations[0].auroc)
    width = max(len(found.name) for found in separations) + 2
    head = "".ljust(width) + "accuracy".rjust(10) + "".join(f"{what} (entropy / BALD)".rjust(40) for what in sets)
    lines = [head]
    for found in separations:
        cells = "".join(f"{by_entropy:.3f} / {by_bald:.3f}".rjust(40) for by_entropy, by_bald in found.auroc.values())
        lines.append(found.name.ljust(width) + f"{100 * found.accuracy:.2f} %".rjust(10) + cells)
    return "\n".join(lines)


def draw_separation(separations: Sequence[Separation]) -> bytes:
    """Histograms of the predictive entropy, a row for each posterior: the known, and each strange set, as a PNG."""
    figure = new_figure(8, 1.5 * len(separations) + 0.8, dpi=110)
    table = figure.subplots(len(separations), 1, squeeze=False, sharex=True)[:, 0]
    for axes, found in zip(table, separations, strict=True):
        for what, (by_entropy, _) in found.scores.items():
            axes.hist(
                by_entropy.numpy(), bins=60, range=(0, float(np.log(10))), density=True, histtype="step", label=what
            )
        axes.set(ylabel=found.name, yticks=[], yscale="log")
        axes.spines[["top", "right", "left"]].set_visible(False)
    table[0].legend(frameon=False, fontsize=8, loc="upper center", ncols=4)
    table[-1].set_xlabel("predictive entropy (nats)")
    return png(figure)


def _methods(names: Sequence[str] | None, training: Training) -> dict[str, InferenceMethod]:
    """Posteriors by name, the plain network first, with their own defaults but for the training."""
    settings = plain(training)
    chosen = names or sorted(posteriors.names(), key=lambda name: name != "map")
    return {name: make_method(Named.model_validate({"name": name, "training": settings})) for name in chosen}


def _look(draws: Draws, known: ActiveDataset, device: torch.device, images: Any) -> Tensor:
    """``[B, 3]``: predictive entropy, BALD, and the most probable class."""

    def told(log_probs: Tensor) -> Tensor:
        mean = predictive(log_probs)
        return torch.stack([entropy(mean), bald(log_probs), mean.argmax(-1).to(mean.dtype)], dim=1)

    return Scorer(draws, images, known.normalise, device).reduce(torch.arange(len(images)), told)


def _auroc(known: tuple[Tensor, Tensor], strange: tuple[Tensor, Tensor]) -> tuple[float, float]:
    from sklearn.metrics import roc_auc_score

    is_strange = torch.arange(len(known[0]) + len(strange[0])) >= len(known[0])
    found = [float(roc_auc_score(is_strange, torch.cat([k, s]))) for k, s in zip(known, strange, strict=True)]
    return found[0], found[1]


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
