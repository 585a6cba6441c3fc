"""Intervals cover the truth as often as they say, on noise whose mean is known."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from activebdl.report.arms import band, summary
from activebdl.report.curves import Curve
from activebdl.report.intervals import Array, mean_interval
from tests.report.made import curve

NOISES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "skewed": lambda random, shape: (random.gamma(4, 1, shape) - 4) / 2,  # skewness 1
}


def coverage(noise: str, seeds: int, samples: int) -> float:
    random, inside = np.random.default_rng(1), 0
    for _ in range(samples // 500):
        _, low, high = mean_interval(NOISES[noise](random, (seeds, 500)))
        inside += int(((low <= 0) & (high >= 0)).sum())
    return inside / samples


@pytest.mark.parametrize("noise", sorted(NOISES))
@pytest.mark.parametrize(("seeds", "samples"), [(3, 40_000), (5, 4000)])
def test_intervals_of_few_seeds_cover_the_mean_as_often_as_they_say(noise: str, seeds: int, samples: int) -> None:
    """With 4,000 samples the share is known to .4 % (one standard deviation), with 40,000 to .1 %."""
    assert 0.93 <= coverage(noise, seeds, samples) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("noise", sorted(NOISES))
@pytest.mark.parametrize("seeds", [3, 4, 5, 6, 8, 10])
def test_intervals_cover_the_mean_as_often_as_they_say(noise: str, seeds: int) -> None:
    assert 0.93 <= coverage(noise, seeds, 20000) <= 0.97


def test_the_band_of_simulated_learning_curves_covers_the_true_curve() -> None:
    """Curves with a level of their own and noise of their own at each count, as those of runs have."""
    random, truth = np.random.default_rng(0), np.array([0.7, 0.8, 0.88, 0.92])
    inside = 0
    for _ in range(250):
        levels = 0.01 * random.standard_normal((6, 1)) + 0.01 * random.standard_normal((6, 4))
        group = [curve("bald", seed, row, (20, 40, 60, 80)) for seed, row in enumerate((truth + levels).tolist())]
        points = band(group, "accuracy").values()
        inside += sum(p.low <= true <= p.high for p, true in zip(points, truth, strict=True))
    assert 0.93 <= inside / (250 * 4) <= 0.97


def test_three_seeds_have_the_interval_of_student() -> None:
    values = np.array([0.90, 0.93, 0.96])
    mean, low, high = (float(each[0]) for each in mean_interval(values[:, None]))
    half = 4.302652729911275 * 0.03 / math.sqrt(3)  # the 97.5 % quantile of t with 2 degrees of freedom, from tables
    assert (mean, low, high) == pytest.approx((0.93, 0.93 - half, 0.93 + half))


def test_four_seeds_have_the_bootstraps_quantiles_by_all_resamples_written_out() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    mean, error, ratios = np.mean(values), np.std(values, ddof=1) / 2, list[float]()
    for resample in itertools.product(values, repeat=4):
        spread = np.std(resample, ddof=1) / 2
        gap = float(np.mean(resample) - mean)
        ratios.append(gap / float(spread) if spread > 0 else math.copysign(1e9, gap))
    q = np.quantile(ratios, [0.025, 0.975])
    t = stats.t.ppf(0.975, 3)
    expected = mean - np.clip(q[1], t / 1.5, 1.5 * t) * error, mean - np.clip(q[0], -1.5 * t, -t / 1.5) * error
    _, low, high = mean_interval(np.array(values)[:, None])
    assert (low[0], high[0]) == pytest.approx(expected)
    assert high[0] - mean > mean - low[0]  # the noise is skewed upwards, and so is what is not known


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 12])
def test_intervals_move_and_stretch_with_the_values(seeds: int) -> None:
    values = np.random.default_rng(seeds).standard_normal((seeds, 3))
    mean, low, high = mean_interval(values)
    assert (low < mean).all() and (mean < high).all()
    moved = mean_interval(5 + 0.01 * values)
    for ours, theirs in zip((mean, low, high), moved, strict=True):
        assert theirs == pytest.approx(5 + 0.01 * ours)


@pytest.mark.parametrize("seeds", [2, 3, 4, 10])
def test_seeds_that_agree_leave_no_doubt(seeds: int) -> None:
    assert [float(each[0]) for each in mean_interval(np.full((seeds, 1), 0.1))] == pytest.approx([0.1, 0.1, 0.1])


def test_one_seed_has_no_interval() -> None:
    mean, low, high = mean_interval(np.array([[0.5]]))
    assert mean[0] == 0.5 and math.isnan(low[0]) and math.isnan(high[0])


def test_no_interval_goes_beyond_what_an_accuracy_can_be() -> None:
    arm = summary("bald", [curve("bald", 0, [0.1, 0.5, 0.99]), curve("bald", 1, [0.6, 0.5, 0.9])], 60)
    assert arm.band[20].low == 0 and arm.final.high == 1
    errors = [Curve("bald", "map", seed, (20,), {"rmse": (height,)}) for seed, height in enumerate((1.0, 9.0))]
    assert summary("bald", errors, 20).final.low == 0 and summary("bald", errors, 20).final.high > 9
