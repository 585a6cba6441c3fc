"""Layers of every kind, networks and data for multiplicative normalizing flows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import Training
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical
from activebdl.posteriors.mnf import MNF, MNFPosterior, MultiplicativeLayer
from tests.conftest import blobs
from tests.posteriors.modules import seeded
from tests.posteriors.test_flows import scrambled

QUICK = Training(steps=20, batch_size=8)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(3, 2), (3,)),
    "linear, no bias, on tokens": (lambda: nn.Linear(3, 2, bias=False), (4, 3)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 2, stride=2, groups=2, dilation=2), (4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, bias=False), (1, 2, 3, 3)),
}
EVERY = pytest.mark.parametrize("name", LAYERS)


def layer(plain: nn.Module, scale: float = 0.4, seed: int = 0, **options: Any) -> MultiplicativeLayer:
    """A layer of which no parameter is where it starts, the same whatever ran before; in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        plain.reset_parameters()  # type: ignore[operator]
        made = scrambled(MultiplicativeLayer(plain, MNF(hidden=5, **options)), scale)
    assert isinstance(made, MultiplicativeLayer)
    return made.requires_grad_(False)


def distribution_given(made: MultiplicativeLayer, z: Tensor) -> torch.distributions.Normal:
    """q(W | z), written out: z stands at the inputs of a linear layer and at the filters of a convolution."""
    along = z if isinstance(made.plain, nn.Linear) else z.view(-1, *[1] * (made.mu.dim() - 1))
    return torch.distributions.Normal(made.mu * along, made.log_sigma.exp())


def classes(n: int = 30) -> Labelled:
    x, y = blobs(n)
    return Labelled(x, y, Categorical(3))


def images(n: int = 6) -> Labelled:
    y = torch.arange(n) % 3
    return Labelled(torch.randn(n, 1, 8, 8, generator=seeded()) + y[:, None, None, None], y, Categorical(3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout2d(0.5), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


def fitted(
    network: Callable[[], nn.Module], labelled: Labelled, seed: int = 0, training: Training = QUICK, **options: Any
) -> MNFPosterior:
    return MNF(training, **options).fit(network, labelled, generator=seeded(seed))
