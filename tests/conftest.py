"""What several tests need: tiny data, tiny networks, posteriors whose draws are known."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from activebdl import ActiveDataset, Normalise

settings.register_profile("no-deadline", deadline=None)  # no test asserts a time
settings.load_profile("no-deadline")


@dataclass(frozen=True)
class KnownDraws:
    """Draws that look their log-probabilities up: item i is the number i."""

    table: Tensor  # [N, K, C]

    @property
    def count(self) -> int:
        return self.table.shape[1]

    def log_probs(self, x: Tensor) -> Tensor:
        return self.table[x[:, 0].long()]


@pytest.fixture
def known_draws() -> Callable[[Tensor], KnownDraws]:
    return KnownDraws


def blobs(n: int, classes: int = 3, seed: int = 0, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Points around the corners of a triangle, and which corner: easy, but not trivial."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    angle = labels * (2 * torch.pi / classes)
    centres = torch.stack([angle.cos(), angle.sin()], dim=1)
    return centres + noise * torch.randn(n, 2, generator=generator), labels


@pytest.fixture
def dataset() -> ActiveDataset:
    """120 points of 3 classes in the pool, 60 to test."""
    x, y = blobs(180)
    return ActiveDataset.from_arrays(x[:120], y[:120], x[120:], y[120:], name="blobs", normalise=Normalise())


def small_network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


@pytest.fixture
def network() -> Callable[[], nn.Module]:
    return small_network
