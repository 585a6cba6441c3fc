"""MNIST (LeCun et al. 1998) and the harder pools made from it; Fashion-MNIST (Xiao et al. 2017) has the same form."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from activebdl.data import dataset
from activebdl.data.dataset import ActiveDataset, Normalise
from activebdl.data.fetch import fetch
from activebdl.data.idx import read_idx
from activebdl.errors import UserError
from activebdl.targets import Classes

HELD_OUT = 10_000
"""Training images that stand in for the test set while a recipe is tuned."""

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
FASHION_MEAN, FASHION_STD = 0.2860, 0.3530
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataset("mnist")
def mnist(*, tuning: bool = False, cache: Path | None = None, progress: bool = True) -> ActiveDataset:
    """60,000 handwritten digits as the pool, 10,000 to test, 28 x 28 grey.

    Args:
        tuning: Leaves the test set alone, so that a recipe can be chosen without it: the last 10,000 training images
            stand in for it, and the pool is the other 50,000.
        cache: See `activebdl.data.fetch`.
        progress: Whether to show progress bars.
    """
    normalise = Normalise(255.0, MNIST_MEAN, MNIST_STD)
    return _load("mnist", tuple("0123456789"), normalise, cache, progress, tuning=tuning)


@dataset("fashion_mnist")
def fashion_mnist(*, tuning: bool = False, cache: Path | None = None, progress: bool = True) -> ActiveDataset:
    """60,000 pictures of clothes as the pool, 10,000 to test, 28 x 28 grey.

    Args:
        tuning: As for `mnist`.
        cache: See `activebdl.data.fetch`.
        progress: Whether to show progress bars.
    """
    normalise = Normalise(255.0, FASHION_MEAN, FASHION_STD)
    return _load("fashion_mnist", FASHION_CLASSES, normalise, cache, progress, tuning=tuning)


@dataset("repeated_mnist")
def repeated_mnist(
    *, repeats: int = 3, noise: float = 0.1, seed: int = 0, cache: Path | None = None, progress: bool = True
) -> ActiveDataset:
    """MNIST's pool repeated, each copy with its own Gaussian noise (Kirsch, van Amersfoort, Gal 2019, section 4.1).

    Copies of an item carry nearly the same information, which a strategy must notice to be any better than random.

    Args:
        repeats: Copies of every item, at least 1; ids run through the first copy of all, then the second, ...
        noise: Standard deviation of the noise, in units of the normalised inputs (0.1 in the paper).
        seed: Of the noise; part of the data set, not of a run.
        cache: See `activebdl.data.fetch`.
        progress: Whether to show progress bars.
    """
    if repeats < 1 or noise < 0:
        raise UserError("repeated_mnist needs repeats of at least 1 and a noise that is not negative.")
    base = mnist(cache=cache, progress=progress)
    assert isinstance(base.pool, Tensor) and isinstance(base.test, Tensor) and base.labels is not None
    # Noise leaves the range of the grey levels, so uint8 codes a wider one: from -margin to 1 + margin, in steps of
    # about .02 of the normalised units, far finer than the noise. Normalise undoes the coding.
    margin = 4 * noise * MNIST_STD
    generator = torch.Generator().manual_seed(seed)
    copies = [_encode(base.pool, noise * MNIST_STD, margin, generator) for _ in range(repeats)]
    scale = 255.0 / (1 + 2 * margin)
    return ActiveDataset(
        name=f"repeated_mnist-x{repeats}-noise{noise:g}-seed{seed}",
        pool=torch.cat(copies),
        labels=base.labels.repeat(repeats),
        test=_encode(base.test, 0.0, margin, generator),
        test_labels=base.test_labels,
        target=base.target,
        normalise=Normalise(scale, MNIST_MEAN + margin, MNIST_STD),
    )


@dataset("unbalanced_mnist")
def unbalanced_mnist(
    *,
    rare: Sequence[int] = (0, 1, 2, 3, 4),
    keep: float = 0.1,
    seed: int = 0,
    cache: Path | None = None,
    progress: bool = True,
) -> ActiveDataset:
    """MNIST's pool with some classes made rare; the test set stays balanced. The construction is our own.

    Args:
        rare: The classes that are thinned out.
        keep: The share of their items that stays, in (0, 1].
        seed: Which items stay; part of the data set, not of a run.
        cache: See `activebdl.data.fetch`.
        progress: Whether to show progress bars.
    """
    if not 0 < keep <= 1 or not set(rare) <= set(range(10)):
        raise UserError("unbalanced_mnist needs keep in (0, 1] and rare classes from 0 to 9.")
    base = mnist(cache=cache, progress=progress)
    assert isinstance(base.pool, Tensor) and base.labels is not None
    is_rare = torch.isin(base.labels, torch.tensor(list(rare)))
    kept = ~is_rare | (torch.rand(len(base.labels), generator=torch.Generator().manual_seed(seed)) < keep)
    return ActiveDataset(
        name=f"unbalanced_mnist-rare{''.join(map(str, sorted(set(rare))))}-keep{keep:g}-seed{seed}",
        pool=base.pool[kept],
        labels=base.labels[kept],
        test=base.test,
        test_labels=base.test_labels,
        target=base.target,
        normalise=base.normalise,
    )


def _load(
    name: str,
    classes: tuple[str, ...],
    normalise: Normalise,
    cache: Path | None,
    progress: bool,
    *,
    tuning: bool,
) -> ActiveDataset:
    files = {key: read_idx(path) for key, path in fetch(name, cache=cache, progress=progress).items()}
    pool, labels = files["train_images"][:, None], files["train_labels"].long()  # [N, 1, 28, 28], [N]
    test, test_labels = files["test_images"][:, None], files["test_labels"].long()
    if tuning:
        kept = len(pool) - HELD_OUT
        pool, labels, test, test_labels = pool[:kept], labels[:kept], pool[kept:], labels[kept:]
    return ActiveDataset(
        name=f"{name}-tuning" if tuning else name,
        pool=pool,
        labels=labels,
        test=test,
        test_labels=test_labels,
        target=Classes(classes),
        normalise=normalise,
    )


def _encode(images: Tensor, std: float, margin: float, generator: torch.Generator) -> Tensor:
    """uint8 images plus noise of ``std`` (in grey levels of 0 to 1), coded in uint8 over [-margin, 1 + margin]."""
    coded = torch.empty_like(images)
    for start in range(0, len(images), 5000):  # a float copy of the whole pool would be four times its size
        grey = images[start : start + 5000].float() / 255
        grey += std * torch.randn(grey.shape, generator=generator)
        coded[start : start + 5000] = ((grey + margin) / (1 + 2 * margin) * 255).round().clamp(0, 255).to(torch.uint8)
    return coded
