"""What several tests need: tiny data, tiny networks, posteriors whose draws are known."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from activebdl import ABSTAIN, ActiveDataset, Annotation, Normalise, Request
from tests.oracles.web.chromium import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


@dataclass
class SlowOracle:
    """Answers one item a look, gives out what it gave out before, and abstains from some."""

    labels: Tensor
    refuses: set[int] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    looks: int = 0

    def submit(self, request: Request) -> str:
        self.requests.append(request)
        self.looks = 0
        return request.key

    def poll(self, ticket: str) -> list[Annotation]:
        self.looks += 1
        done = self.requests[-1].ids[: self.looks]
        return [Annotation(id, ABSTAIN if id in self.refuses else int(self.labels[id]), "slow") for id in done]


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activebdl.asking._LONGEST_PAUSE", 0.0)


@pytest.fixture(scope="module")
def browser() -> Generator["Browser"]:
    with chromium() as found:
        yield found
