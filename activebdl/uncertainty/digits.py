"""Digits and what is none: whether a posterior tells images that no network has seen from those that it knows.

B: images, K: draws. Entropies in nats.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from activebdl.build import make_fresh, make_method
from activebdl.data import ActiveDataset, Labelled, load
from activebdl.devices import choose_device
from activebdl.errors import UserError
from activebdl.likelihoods import Categorical
from activebdl.pictures import new_figure, png
from activebdl.posteriors import Draws, InferenceMethod
from activebdl.progress import bars, say
from activebdl.randomness import generator
from activebdl.scoring import Scorer, entropy, predictive
from activebdl.spec import read_spec
from activebdl.strategies.bald import bald
from activebdl.uncertainty import methods


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


def digits(
    names: Sequence[str] | None = None, *, labels: int = 1000, draws: int = 50, seed: int = 0, device: str = "auto"
) -> tuple[bytes, str]:
    """Fits posteriors to MNIST and shows them Fashion-MNIST, turned digits and noise.

    Args:
        names: Of posteriors; all when not given. They are trained as in the preset mnist-batchbald.
        labels: How many random labels they are fitted to.
        draws: K.
        seed: The source of all randomness.
        device: "auto", "cpu", "cuda", ...

    Returns:
        Histograms as a PNG, and a table.

    Raises:
        UserError: A posterior or device that is unknown, or more labels than there are.
    """
    spec = read_spec("mnist-batchbald")
    reference = make_method(spec.posterior)
    chosen, on = methods(names, reference.training), choose_device(device)  # pyright: ignore[reportAttributeAccessIssue]
    known, fashion = load("mnist"), load("fashion_mnist")
    network = make_fresh(spec.network, known)
    strange = strange_images(known.test[torch.arange(2000)], {"fashion": fashion.test[torch.arange(2000)]}, seed)
    found: list[Separation] = []
    for name, method in chosen.items():
        with bars("fit", method.steps(labels)) as advance:
            found.append(
                separation(
                    name, method, network, known, strange,
                    labels=labels, draws=draws, seed=seed, device=on, on_step=lambda: advance(1),
                )
            )  # fmt: skip
        say(f"  {name}")
    return draw_separation(found), separation_table(found)


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
