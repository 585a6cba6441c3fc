"""Queries whose predictions and features are known, and what every strategy that chooses a batch promises."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from activebdl import Normalise, Query, resolve
from activebdl.scoring import Scorer
from tests.conftest import KnownDraws


@dataclass(frozen=True)
class Known:
    """A pool of N items: what K draws say of each, what the last layer reads, and which have a label."""

    log_probs: Tensor  # [N, K, C]
    features: Tensor  # [N, D], float32
    labelled: list[int] = field(default_factory=list[int])
    looked_at: set[int] = field(default_factory=set[int])  # the ids whose features were read

    @property
    def unlabelled(self) -> list[int]:
        return [i for i in range(len(self.features)) if i not in self.labelled]

    @property
    def p(self) -> Tensor:
        """The posterior predictive, ``[N, C]``."""
        return self.log_probs.exp().mean(1)

    @property
    def h(self) -> Tensor:
        """Features in float64."""
        return self.features.double()

    def query(self, quantity: int, seed: int = 0) -> Query:
        def read(x: Tensor) -> Tensor:
            ids = x[:, 0].long()
            self.looked_at.update(ids.tolist())
            return self.features[ids]

        items = torch.arange(len(self.features))[:, None]
        scorer = Scorer(
            KnownDraws(self.log_probs), items, Normalise(), torch.device("cpu"), chunk=3, read_features=read
        )
        generator = torch.Generator().manual_seed(seed)
        labelled = torch.tensor(sorted(self.labelled), dtype=torch.long)
        return Query(torch.tensor(self.unlabelled), labelled, quantity, generator, scorer)

    def choose(self, name: str, quantity: int, seed: int = 0, **options: Any) -> list[int]:
        return resolve(name, **options).select(self.query(quantity, seed)).ids.tolist()

    def in_order(self, order: Tensor) -> "Known":
        """The same pool, item ``order[i]`` at i."""
        labelled = [i for i, old in enumerate(order.tolist()) if old in self.labelled]
        return Known(self.log_probs[order], self.features[order], labelled)


def pool(n: int, seed: int, labelled: int = 0, classes: int = 3, width: int = 4, draws: int = 5) -> Known:
    """N items at random, the labelled among them anywhere."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = (2 * torch.randn(n, draws, classes, generator=generator, dtype=torch.double)).log_softmax(-1)
    features = torch.randn(n, width, generator=generator)
    return Known(log_probs, features, torch.randperm(n, generator=generator)[:labelled].tolist())


@st.composite
def pools(draw: Callable[..., int], *, duplicates: bool = True) -> Known:
    """Small pools; some have duplicates, of labelled items too, and some are of one item again and again."""
    n, labelled = draw(st.integers(2, 14)), draw(st.integers(0, 4))
    known = pool(n + labelled, draw(st.integers(0, 10_000)), labelled, draw(st.integers(2, 4)), draw(st.integers(1, 5)))
    if not duplicates:
        return known
    kinds = draw(st.integers(1, n + labelled))
    same = torch.arange(n + labelled) % kinds
    return Known(known.log_probs[same], known.features[same], known.labelled)


def keeps_its_promises(name: str, known: Known, quantity: int, seed: int, **options: Any) -> None:
    """Distinct unlabelled ids, as many as were asked for, and the seed decides which."""
    chosen = known.choose(name, quantity, seed, **options)
    assert len(set(chosen)) == len(chosen) == quantity
    assert set(chosen) <= set(known.unlabelled)
    torch.rand(3)  # the global generator has no say
    assert known.choose(name, quantity, seed, **options) == chosen
    assert sorted(known.choose(name, len(known.unlabelled), seed, **options)) == known.unlabelled


def breaks_ties_at_random(name: str, **options: Any) -> None:
    """Of 8 items that are all the same, two labelled, each pair of the others is chosen as often as any."""
    one = pool(1, seed=0)
    known = Known(one.log_probs.expand(8, -1, -1), one.features.expand(8, -1), [0, 4])
    trials, counts = 600, torch.zeros(8, 8)
    for seed in range(trials):
        first, second = known.choose(name, 2, seed, **options)
        counts[first, second] += 1
    share = counts[known.unlabelled][:, known.unlabelled] / trials
    off_diagonal = share[~torch.eye(6, dtype=torch.bool)]
    assert bool(((off_diagonal - 1 / 30).abs() < 4.5 * (1 / 30 * 29 / 30 / trials) ** 0.5).all())
