"""The paired tests against sums written out, scipy, statsmodels, and simulation."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from activebdl.report.paired import fewest_seeds, holm, leads_from, rank_biserial, seeds_needed, wilcoxon_p


def by_all_signs(differences: list[float]) -> float:
    """The share of all ways to put signs whose rank sum is at least as far from its middle as the one seen."""
    d = [x for x in differences if x != 0]
    ranks = stats.rankdata(np.abs(d))
    middle = ranks.sum() / 2
    seen = abs(sum(r for r, x in zip(ranks, d, strict=True) if x > 0) - middle)
    sums = [sum(r for r, up in zip(ranks, ups, strict=True) if up) for ups in itertools.product((0, 1), repeat=len(d))]
    return sum(abs(s - middle) >= seen - 1e-9 for s in sums) / len(sums)


def test_wilcoxon_by_hand() -> None:
    """Ranks 1 to 6, minus at rank 2: W = 2; of 64 ways {}, {1}, {2} are as small, and as many as large: 6 / 64."""
    assert wilcoxon_p([0.1, -0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(6 / 64)
    assert wilcoxon_p([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)
    assert wilcoxon_p([1, 2, 3]) == pytest.approx(2 / 8)
    assert wilcoxon_p([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("seed", range(6))
def test_wilcoxon_by_all_signs_with_ties_and_zeros_too(seed: int) -> None:
    random = np.random.default_rng(seed)
    smooth = random.normal(0.5, 1, 7).tolist()
    assert wilcoxon_p(smooth) == pytest.approx(by_all_signs(smooth))
    tied = np.round(random.normal(0.5, 1, 9) * 2).tolist()
    assert wilcoxon_p(tied) == pytest.approx(by_all_signs(tied))


def test_many_tied_differences_have_the_normal_approximation() -> None:
    """z by hand, its variance less (t^3 - t) / 48 for every t that are tied (Lehmann 1975)."""
    d = np.round(np.random.default_rng(0).normal(0.4, 1, 40), 1)
    d = d[d != 0]
    n, ranks = len(d), stats.rankdata(np.abs(d))
    ties = np.unique(np.abs(d), return_counts=True)[1]
    assert ties.max() > 1
    variance = n * (n + 1) * (2 * n + 1) / 24 - (ties**3 - ties).sum() / 48
    z = (ranks[d > 0].sum() - n * (n + 1) / 4) / variance**0.5
    assert wilcoxon_p(d.tolist()) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-6)


def test_differences_that_are_equal_but_for_rounding_are_ties() -> None:
    assert 0.3 - 0.1 != 0.2
    assert wilcoxon_p([0.3 - 0.1, 0.2, -0.2, 0.5]) == wilcoxon_p([2, 2, -2, 5])


def test_holm_by_hand() -> None:
    """.01 x 4; .02 x 3; .03 x 2 = .06, not below the one before; .04 x 1, neither."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow  # statsmodels takes its time to load
def test_holm_as_statsmodels_has_it() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for seed in range(20):
        ps = np.random.default_rng(seed).uniform(0, 0.3, 1 + seed % 7).round(2)
        assert holm(ps.tolist()) == pytest.approx(multitest.multipletests(ps, method="holm")[1])


def test_the_effect_is_the_share_of_ranks_in_favour_less_that_against() -> None:
    assert rank_biserial([1, 2, 3]) == 1 and rank_biserial([-1, -2]) == -1
    assert rank_biserial([1, -2, 3, 0]) == pytest.approx((1 + 3 - 2) / 6)
    assert rank_biserial([0, 0]) == 0


def test_the_fewest_seeds_are_those_whose_smallest_p_can_reach_5_percent() -> None:
    assert [fewest_seeds(m) for m in (1, 2, 3, 4, 7)] == [6, 7, 7, 8, 9]
    for m in range(1, 12):
        n = fewest_seeds(m)
        best, before = (m * wilcoxon_p(list(range(1, size + 1))) for size in (n, n - 1))
        assert best <= 0.05 < before


@pytest.mark.parametrize(("effect", "comparisons"), [(0.6, 1), (1.0, 1), (0.8, 3), (1.3, 3), (1.0, 7)])
def test_as_many_seeds_as_are_said_have_the_power_that_is_said(effect: float, comparisons: int) -> None:
    """4,000 comparisons with that many seeds: four of five see the difference; .6 % is one standard deviation."""
    known = np.array([-1.0, 1.0]) / math.sqrt(2) + effect  # standard deviation 1, mean the effect
    n = seeds_needed(known.tolist(), comparisons)
    assert n is not None
    drawn = np.random.default_rng(0).normal(effect, 1, (4000, n))
    tests: Any = stats.wilcoxon(drawn, axis=1, method="exact")
    power = float((tests.pvalue <= 0.05 / comparisons).mean())
    assert 0.76 <= power <= 0.86


def test_seeds_needed_where_there_is_little_to_go_by() -> None:
    assert seeds_needed([0.1]) is None and seeds_needed([0.0, 0.0]) is None
    assert seeds_needed([0.1, 0.1]) == 6  # no scatter: the fewest that can tell
    assert seeds_needed([1.0, -1.0]) is None and seeds_needed([1.0, -0.999]) is None


SIX = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]  # all in favour: p = 2 / 2^6 = .031


def test_the_lead_goes_back_to_the_first_place_that_does_not_tell() -> None:
    mixed = [0.1, -0.2, 0.3, 0.4, 0.5, 0.6]  # p = .0625 + ...
    assert leads_from([SIX, mixed, SIX, SIX]) == 2
    assert leads_from([SIX, SIX]) == 0
    assert leads_from([SIX, mixed]) is None
    assert leads_from([SIX, [-d for d in SIX], SIX]) == 2  # behind is not ahead
    assert leads_from([[0.0] * 6, SIX]) == 1
    assert leads_from([SIX[:5]]) is None  # five pairs never tell
    assert leads_from([SIX], comparisons=2) is None  # .031 > .05 / 2
    far = [-0.01 - i / 1e4 for i in range(19)] + [0.9]  # 19 of 20 are behind, and the last one turns the mean
    assert np.mean(far) > 0 and wilcoxon_p(far) < 0.01
    assert leads_from([far]) is None


def test_a_lead_that_is_not_there_is_rarely_told() -> None:
    """In favour of either side .05 in all, so of ours .025: of 1,000 trials 25 are expected, with a deviation of 5."""
    rng = np.random.default_rng(0)
    found = sum(leads_from(rng.normal(size=(6, 8)).tolist()) is not None for _ in range(1000))
    assert found < 25 + 4 * 5
