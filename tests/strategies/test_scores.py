"""Every score against its closed form, brute force in float64, and the bounds that its docstring promises."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from activebdl.scoring import entropy, predictive
from activebdl.strategies import strategies, strategy_names
from activebdl.strategies.bald import bald
from activebdl.strategies.least_confidence import least_confidence
from activebdl.strategies.margin import margin
from activebdl.strategies.max_entropy import max_entropy
from activebdl.strategies.mean_std import mean_std
from activebdl.strategies.variation_ratios import variation_ratios

SCORES = [bald, least_confidence, margin, max_entropy, mean_std, variation_ratios]
seeds, draws, classes = st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 8)


def table(n: int, k: int, c: int, seed: int, spread: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(n, k, c, generator=generator, dtype=torch.double)).log_softmax(-1)


def one_hot_mixture(c: int) -> Tensor:
    """One item, C draws, each sure of another class."""
    return torch.eye(c, dtype=torch.double).log()[None]


@given(seeds, draws, classes)
def test_bald_lies_between_zero_and_the_entropy_which_lies_below_log_c(seed: int, k: int, c: int) -> None:
    log_probs = table(20, k, c, seed)
    b, h = bald(log_probs), max_entropy(log_probs)
    assert bool((b >= 0).all())
    assert bool((b <= h + 1e-12).all())
    assert bool((h <= math.log(c) + 1e-12).all())


@given(seeds, draws, classes)
def test_bald_of_identical_draws_is_zero(seed: int, k: int, c: int) -> None:
    log_probs = table(20, 1, c, seed).expand(-1, k, -1)
    assert bald(log_probs).abs().max() < 1e-12
    assert mean_std(log_probs).abs().max() < 1e-7
    assert variation_ratios(log_probs).abs().max() == 0


@pytest.mark.parametrize("c", [2, 3, 10])
def test_an_even_mixture_of_one_hots_has_the_highest_score_of_each_kind(c: int) -> None:
    log_probs = one_hot_mixture(c)
    assert bald(log_probs).item() == pytest.approx(math.log(c))
    assert max_entropy(log_probs).item() == pytest.approx(math.log(c))
    assert variation_ratios(log_probs).item() == pytest.approx(1 - 1 / c)
    assert least_confidence(log_probs).item() == pytest.approx(1 - 1 / c)
    assert margin(log_probs).item() == pytest.approx(1)
    assert mean_std(log_probs).item() == pytest.approx(math.sqrt(1 / c - 1 / c**2))


@pytest.mark.parametrize("c", [2, 10])
def test_what_all_draws_find_ambiguous_has_entropy_but_no_bald(c: int) -> None:
    log_probs = torch.full((1, 6, c), 1 / c, dtype=torch.double).log()
    assert bald(log_probs).item() == pytest.approx(0, abs=1e-12)
    assert max_entropy(log_probs).item() == pytest.approx(math.log(c))


@given(seeds, draws, classes)
def test_bald_equals_the_mean_divergence_of_the_draws_from_their_mean(seed: int, k: int, c: int) -> None:
    """I(y; theta) = 1/K sum_k KL( p_k || mean p ), the other way to write it."""
    log_probs = table(5, k, c, seed)
    mean = log_probs.exp().mean(1, keepdim=True).log()
    divergence = (log_probs.exp() * (log_probs - mean)).sum(-1).mean(1)
    torch.testing.assert_close(bald(log_probs), divergence, rtol=1e-9, atol=1e-12)


@given(seeds, draws, classes)
def test_brute_force_item_by_item(seed: int, k: int, c: int) -> None:
    log_probs = table(6, k, c, seed)
    p = log_probs.exp().tolist()
    for i in range(6):
        mean = [sum(p[i][j][y] for j in range(k)) / k for y in range(c)]
        votes = [p[i][j].index(max(p[i][j])) for j in range(k)]
        modal = max(votes.count(y) for y in range(c))
        best, second = sorted(mean, reverse=True)[:2]
        spread = [math.sqrt(sum((p[i][j][y] - mean[y]) ** 2 for j in range(k)) / k) for y in range(c)]
        assert variation_ratios(log_probs)[i].item() == pytest.approx(1 - modal / k)
        assert least_confidence(log_probs)[i].item() == pytest.approx(1 - best)
        assert margin(log_probs)[i].item() == pytest.approx(1 - (best - second))
        assert mean_std(log_probs)[i].item() == pytest.approx(sum(spread) / c, abs=1e-12)
        assert max_entropy(log_probs)[i].item() == pytest.approx(-sum(m * math.log(m) for m in mean))


@pytest.mark.parametrize("score", SCORES)
@given(seed=seeds, k=draws, c=classes)
def test_no_score_depends_on_the_order_of_draws_or_classes(
    score: Callable[[Tensor], Tensor], seed: int, k: int, c: int
) -> None:
    log_probs = table(10, k, c, seed)
    generator = torch.Generator().manual_seed(seed)
    shuffled = log_probs[:, torch.randperm(k, generator=generator)][:, :, torch.randperm(c, generator=generator)]
    torch.testing.assert_close(score(shuffled), score(log_probs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("score", SCORES)
def test_float32_agrees_with_float64(score: Callable[[Tensor], Tensor]) -> None:
    log_probs = table(500, 20, 10, seed=1)
    torch.testing.assert_close(score(log_probs.float()).double(), score(log_probs), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("score", SCORES)
def test_sure_predictions_are_finite(score: Callable[[Tensor], Tensor]) -> None:
    """Log-probabilities of minus infinity are met when a network is very sure."""
    log_probs = one_hot_mixture(4).float()[:, :1].expand(-1, 5, -1)
    assert score(log_probs).item() == pytest.approx(0, abs=1e-6)


def test_entropy_and_predictive_keep_the_type() -> None:
    log_probs = table(3, 4, 5, 0).float()
    assert entropy(log_probs).dtype == predictive(log_probs).dtype == torch.float32


def test_every_name_resolves_to_a_strategy_with_a_docstring() -> None:
    from activebdl import resolve

    for name in strategy_names():
        assert resolve(name).name == name
        assert resolve(name).doc
    assert {"random", "bald", "power_bald", "softrank_margin"} <= set(strategy_names())
    assert not strategies.get("random").needs_model
