"""Queries whose predictions and features are known, and what every strategy promises."""

import random
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from activebdl import Normalise, Query, resolve
from activebdl.scoring import Scorer
from activebdl.strategies import Strategy
from tests.conftest import KnownDraws

seeds = st.integers(0, 10_000)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(n: int, k: int, c: int, seed: int, spread: float = 2.0) -> Tensor:
    """Log-probabilities at random, ``[N, K, C]`` in float64."""
    return (spread * torch.randn(n, k, c, generator=seeded(seed), dtype=torch.double)).log_softmax(-1)


def of_bit(bit: Tensor, sure: float) -> Tensor:
    """An item whose label is the bit that each draw has, up to noise: ``[K] -> [K, 2]`` log-probabilities."""
    p = torch.stack([torch.where(bit == y, sure, 1 - sure) for y in (0, 1)], -1)
    return p.double().log().clamp_min(-1e4)


@dataclass(frozen=True)
class Known:
    """A pool of N items: what K draws say of each, what the last layer reads, and which have a label."""

    log_probs: Tensor  # [N, K, C]; of numbers mean and variance, [N, K, 2]
    features: Tensor  # [N, D], float32; the inputs too, for strategies that need no model
    labelled: list[int] = field(default_factory=list[int])
    set_aside: list[int] = field(default_factory=list[int])  # neither labelled nor to be asked for
    target: str = "classes"
    looked_at: set[int] = field(default_factory=set[int])  # the ids whose features were read

    @property
    def unlabelled(self) -> list[int]:
        return [i for i in range(len(self.features)) if i not in self.labelled and i not in self.set_aside]

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
        draws, cpu = KnownDraws(self.log_probs), torch.device("cpu")
        scorer = Scorer(draws, items, Normalise(), cpu, chunk=3, read_features=read, target=self.target)
        labelled = torch.tensor(sorted(self.labelled), dtype=torch.long)
        unlabelled = torch.tensor(self.unlabelled, dtype=torch.long)
        costs = 1 + self.h[:, 0].abs()  # of equal items the same
        return Query(unlabelled, labelled, quantity, seeded(seed), scorer, self.features, costs=costs)

    def choose(self, name: str, quantity: int, seed: int = 0, **options: Any) -> list[int]:
        return resolve(name, **options).select(self.query(quantity, seed)).ids.tolist()

    def in_order(self, order: Tensor) -> "Known":
        """The same pool, item ``order[i]`` at i."""
        labelled, aside = (
            [i for i, old in enumerate(order.tolist()) if old in some] for some in (self.labelled, self.set_aside)
        )
        return replace(
            self, log_probs=self.log_probs[order], features=self.features[order], labelled=labelled, set_aside=aside,
            looked_at=set[int](),
        )  # fmt: skip


def saying(log_probs: Tensor, labelled: Sequence[int] = (), target: str = "classes") -> Known:
    """A pool of which nothing matters but what the draws say, ``[N, K, ...]``."""
    return Known(log_probs, torch.zeros(len(log_probs), 1), list(labelled), target=target)


def pool(
    n: int,
    seed: int,
    labelled: int = 0,
    classes: int = 3,
    width: int = 4,
    draws: int = 5,
    set_aside: int = 0,
    target: str = "classes",
) -> Known:
    """N items at random, the labelled and those that are set aside among them anywhere."""
    generator = seeded(seed)
    raw = torch.randn(n, draws, 2 if target == "numbers" else classes, generator=generator, dtype=torch.double)
    features = torch.randn(n, width, generator=generator)
    order = torch.randperm(n, generator=generator).tolist()
    predictions = (2 * raw).log_softmax(-1)
    if target == "numbers":
        predictions = torch.stack([raw[..., 0], raw[..., 1].exp()], dim=-1)
    return Known(predictions, features, order[:labelled], order[labelled : labelled + set_aside], target)


@st.composite
def pools(draw: Callable[..., int], *, duplicates: bool = True, gaps: bool = False, target: str = "classes") -> Known:
    """Small pools; some have duplicates, of labelled items too, and some are of one item again and again.

    Args:
        draw: From hypothesis.
        duplicates: Whether there may be any.
        gaps: Whether items may be set aside, so that neither the ids of the labelled nor the others are all there are.
        target: What labels they are for.
    """
    n, labelled, aside = draw(st.integers(2, 14)), draw(st.integers(0, 4)), draw(st.integers(0, 4)) if gaps else 0
    size, seed, classes, width = n + labelled + aside, draw(seeds), draw(st.integers(2, 4)), draw(st.integers(1, 5))
    known = pool(size, seed, labelled, classes, width, set_aside=aside, target=target)
    if not duplicates:
        return known
    same = torch.arange(size) % draw(st.integers(1, size))
    return replace(known, log_probs=known.log_probs[same], features=known.features[same])


@contextmanager
def global_states(seed: int) -> Generator[None]:
    """Every global generator at this seed, and not one number drawn from any of them inside."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    before = _states()
    try:
        yield
        assert _states() == before
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


def _states() -> tuple[object, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


def keeps_its_promises(name: str, known: Known, quantity: int, seed: int, **options: Any) -> None:
    """Distinct unlabelled ids, as many as were asked for or are left, and the query's generator decides which."""
    with global_states(1):
        chosen = known.choose(name, quantity, seed, **options)
    assert len(set(chosen)) == len(chosen) == quantity
    assert set(chosen) <= set(known.unlabelled)
    with global_states(2):
        assert known.choose(name, quantity, seed, **options) == chosen
    everything = len(known.unlabelled)
    for asked in (everything, everything + 5):
        assert sorted(known.choose(name, asked, seed, **options)) == known.unlabelled


def breaks_ties_at_random(name: str, **options: Any) -> None:
    """Of 8 items that are all the same, two labelled and one set aside, each pair of the others is as likely as any."""
    strategy = resolve(name, **options)
    one = pool(1, seed=0, target=target_of(strategy))
    known = replace(
        one, log_probs=one.log_probs.expand(8, -1, -1), features=one.features.expand(8, -1), labelled=[0, 4],
        set_aside=[5],
    )  # fmt: skip
    trials, counts = 300, torch.zeros(8, 8)
    for seed in range(trials):
        first, second = strategy.select(known.query(2, seed)).ids.tolist()
        counts[first, second] += 1
    of_unlabelled = counts[known.unlabelled][:, known.unlabelled]
    off_diagonal = of_unlabelled[~torch.eye(5, dtype=torch.bool)]
    expected = trials / 20
    assert float((off_diagonal - expected).square().sum() / expected) < 58  # chi-square of 19: 1 in 100,000


def target_of(strategy: Strategy) -> str:
    """What labels its queries have: "numbers" where it takes no others."""
    return "numbers" if strategy.target == "numbers" else "classes"
