"""Whether one strategy is better than another, by runs of both with the same seeds.

Wilcoxon's signed-rank test of the paired differences (Wilcoxon 1945; Demsar 2006 on why it suits learners), Holm's
correction (Holm 1979) where several are compared, the matched-pairs rank-biserial correlation as the size of the effect
(Kerby 2014), and how many seeds it would take.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from activebdl.report.intervals import Array

SIGNIFICANT = 0.05
POWER = 0.8
MOST_SEEDS = 1000
"""An estimate beyond it is told as "more than"."""

_ENUMERATED = 13  # differences with ties, up to which all signs are gone through


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; differences of zero are left out.

    It is exact up to 50 differences, and with ties up to 13; beyond, a normal approximation.
    """
    from scipy.stats import PermutationMethod, wilcoxon

    d = _without_zeros(differences)
    if len(d) == 0:
        return 1.0
    tied = len(np.unique(np.abs(d))) < len(d)
    method: Any = "asymptotic" if tied or len(d) > 50 else "exact"
    if tied and len(d) <= _ENUMERATED:
        method = PermutationMethod(n_resamples=2**_ENUMERATED)
    result: Any = wilcoxon(d, method=method)
    return float(result.pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: reject those of at most alpha, and all errors together stay below alpha."""
    adjusted, running = [1.0] * len(ps), 0.0
    for step, at in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        running = max(running, (len(ps) - step) * ps[at])
        adjusted[at] = min(1.0, running)
    return adjusted


def leads_from(differences: Sequence[Sequence[float]], comparisons: int = 1) -> int | None:
    """From which place on, to the last, every difference is in favour beyond chance.

    The places are tested from the last one backwards, each at .05 / comparisons, until one does not tell: in an order
    that is fixed beforehand no further correction is needed (Maurer, Hothorn, Lehmacher 1995).

    Args:
        differences: At each place, those of the pairs.
        comparisons: How many arms answer the same question.

    Returns:
        The place; None where the last one does not tell.
    """
    found = None
    for place in reversed(range(len(differences))):
        d = differences[place]
        ahead = float(np.mean(d)) > 0 and rank_biserial(d) > 0  # one pair can turn the mean alone
        if not ahead or wilcoxon_p(d) > SIGNIFICANT / max(1, comparisons):
            break
        found = place
    return found


def rank_biserial(differences: Sequence[float]) -> float:
    """The share of rank sums in favour less that against: 1 when every pair is in favour, 0 when they balance."""
    from scipy.stats import rankdata

    d = _without_zeros(differences)
    if len(d) == 0:
        return 0.0
    ranks = rankdata(np.abs(d))
    return float((ranks * np.sign(d)).sum() / ranks.sum())


def fewest_seeds(comparisons: int = 1) -> int:
    """Pairs below which the exact two-sided test cannot reach .05 after Holm, whatever they show: p >= 2 / 2^n."""
    return 1 + math.ceil(math.log2(max(1, comparisons) / SIGNIFICANT))


def seeds_needed(differences: Sequence[float], comparisons: int = 1) -> int | None:
    """Pairs for a power of .8, if the differences are as large, and scatter as much, as these.

        n = pi / 3 * ((z_{1 - alpha / 2} + z_{.8}) / d)^2 + z_{1 - alpha / 2}^2 / 2

    where d is their mean over their standard deviation, alpha = .05 / comparisons (Holm's first and hardest step),
    pi / 3 what ranks cost against means when the noise is normal, and the last term what it costs not to know the
    deviation (Guenther 1981). It is a rough figure: d of a few seeds is itself uncertain.

    Returns:
        At least `fewest_seeds`; None for more than `MOST_SEEDS`, or where one pair or no difference says nothing.
    """
    from scipy.stats import norm

    fewest, d = fewest_seeds(comparisons), np.asarray(differences, dtype=float)
    if len(d) < 2 or not d.any():
        return None
    spread, mean = float(d.std(ddof=1)), abs(float(d.mean()))
    if spread <= 1e-12 * mean:
        return fewest
    if mean <= 1e-12 * spread:
        return None
    z = float(norm.ppf(1 - SIGNIFICANT / max(1, comparisons) / 2))
    needed = math.ceil(math.pi / 3 * ((z + float(norm.ppf(POWER))) * spread / mean) ** 2 + z**2 / 2)
    return None if needed > MOST_SEEDS else max(fewest, needed)


def _without_zeros(differences: Sequence[float]) -> Array:
    d = np.round(np.asarray(differences, dtype=float), 12)  # 0.3 - 0.1 and 0.2 are a tie
    return d[d != 0]
