"""Scores for the disagreement of members: bounds, closed forms, and the identity of one of them with BALD."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from activebdl import resolve
from activebdl.strategies.bald import bald
from activebdl.strategies.kl_to_mean import kl_to_mean
from activebdl.strategies.vote_entropy import vote_entropy

SCORES = [kl_to_mean, vote_entropy]
seeds, draws, classes = st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 8)


def table(n: int, k: int, c: int, seed: int, spread: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(n, k, c, generator=generator, dtype=torch.double)).log_softmax(-1)


@given(seeds, draws, classes, st.sampled_from([0.01, 1.0, 3.0, 30.0]))
def test_the_divergence_from_the_mean_is_bald(seed: int, k: int, c: int, spread: float) -> None:
    log_probs = table(20, k, c, seed, spread)
    torch.testing.assert_close(kl_to_mean(log_probs), bald(log_probs), rtol=0, atol=1e-12)
    torch.testing.assert_close(kl_to_mean(log_probs.float()), bald(log_probs.float()), rtol=0, atol=3e-6)


@given(seeds, draws, classes)
def test_item_by_item(seed: int, k: int, c: int) -> None:
    log_probs = table(6, k, c, seed)
    for i, p in enumerate(log_probs.exp().tolist()):
        mean = [sum(p[j][y] for j in range(k)) / k for y in range(c)]
        divergence = sum(p[j][y] * math.log(p[j][y] / mean[y]) for j in range(k) for y in range(c)) / k
        votes = [p[j].index(max(p[j])) for j in range(k)]
        shares = [votes.count(y) / k for y in set(votes)]
        assert kl_to_mean(log_probs)[i].item() == pytest.approx(divergence, abs=1e-12)
        assert vote_entropy(log_probs)[i].item() == pytest.approx(-sum(v * math.log(v) for v in shares), abs=1e-12)


@given(seeds, draws, classes)
def test_bounds(seed: int, k: int, c: int) -> None:
    log_probs = table(20, k, c, seed, 10.0)
    for score in SCORES:
        assert bool((score(log_probs) >= 0).all())
        assert bool((score(log_probs) <= math.log(min(k, c)) + 1e-12).all())


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("k", "c"), [(2, 2), (3, 3), (4, 10), (20, 10)])
def test_sure_draws_that_share_their_votes_evenly_score_highest(
    score: Callable[[Tensor], Tensor], k: int, c: int
) -> None:
    log_probs = torch.eye(c)[torch.arange(k) % min(k, c)].log()[None]  # holds minus infinity
    assert score(log_probs).item() == pytest.approx(math.log(min(k, c)), abs=1e-6)


@given(seeds, draws, classes)
def test_draws_that_are_one_function_score_zero(seed: int, k: int, c: int) -> None:
    log_probs = table(20, 1, c, seed).expand(-1, k, -1)
    assert kl_to_mean(log_probs).abs().max() < 1e-12
    assert vote_entropy(log_probs).abs().max() == 0


def test_votes_do_not_tell_how_sure_a_draw_is() -> None:
    sure, unsure = torch.tensor([[0.99, 0.01], [0.01, 0.99]]), torch.tensor([[0.51, 0.49], [0.49, 0.51]])
    log_probs = torch.stack([sure, unsure]).log()
    torch.testing.assert_close(vote_entropy(log_probs), torch.full((2,), math.log(2)))
    assert kl_to_mean(log_probs)[0] > 0.6 and kl_to_mean(log_probs)[1] < 0.001


@pytest.mark.parametrize("score", SCORES)
@given(seed=seeds, k=draws, c=classes)
def test_neither_order_matters(score: Callable[[Tensor], Tensor], seed: int, k: int, c: int) -> None:
    log_probs, generator = table(10, k, c, seed), torch.Generator().manual_seed(seed)
    shuffled = log_probs[:, torch.randperm(k, generator=generator)][:, :, torch.randperm(c, generator=generator)]
    torch.testing.assert_close(score(shuffled), score(log_probs), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_they_need_draws_that_differ(score: Callable[[Tensor], Tensor]) -> None:
    name = score.__name__
    assert resolve(name).needs_disagreement and resolve(name).target == "classes"
