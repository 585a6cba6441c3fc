"""Racing: draws of the posterior are spent where they can still change the choice.

Most of a pool is clearly not the best after a few draws. So all items are seen by a few, those ahead by more, and only
those in front by all K (successive halving; Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization"):

    ActiveLearning(..., draws=100, scoring="race")
    ActiveLearning(..., draws=100, scoring=Race(heats=((8, 0.2), (32, 0.015))))

A heat sees the first of the K draws. Whoever is chosen has been seen by all of them, and its score is that of the full
count. What may be missed is an item that fell behind in an early heat by bad luck: `benchmarks/race.py` measures how
often.

Joint strategies look at items together; they see all draws. Nothing is gained where draws share most of their work, as
those of a small ensemble do, or of Laplace behind a large network; and the softrank rule, which ranks scores of few
draws beside those of all, keeps less of its choice than the others do.

N: items, Q: items chosen, K: draws.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from activebdl.devices import Precision, check_precision
from activebdl.errors import UserError
from activebdl.scoring import Scorer

Choose = Callable[[Tensor, int], Tensor]
"""``f(scores [N], Q) -> positions [Q]``, best first; the same for the same scores."""

_RIGHT = (
    "A race has heats of draws that rise from 1 and shares that fall from below 1, such as ((8, 0.2), (32, 0.015)), "
    "not {}."
)


@dataclass(frozen=True)
class Race:
    """Heats before the last, in which all K draws are seen.

    Args:
        heats: Of each, the draws that an item is seen by, and the share of all items that goes on to the next; the
            draws rise and the shares fall. Heats of K draws or more are left out, and without any all items are seen by
            all draws.
        precision: Of the numbers that layers multiply in these heats. bfloat16 is faster on processors that have it,
            and slow on others; the last heat, whose scores choose, is in float32 whatever this is.

    Raises:
        UserError: Heats that cannot be, or another precision.
    """

    heats: tuple[tuple[int, float], ...] = ((8, 0.2), (32, 0.015))
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        try:
            heats = tuple((operator.index(draws), float(share)) for draws, share in self.heats)
        except (TypeError, ValueError):
            raise UserError(_RIGHT.format(self.heats)) from None
        object.__setattr__(self, "heats", heats)  # plain numbers, for a journal names them
        draws, shares = [draws for draws, _ in heats], [share for _, share in heats]
        rising = all(a < b for a, b in zip([0, *draws], draws, strict=False))
        falling = all(a > b > 0 for a, b in zip([1, *shares], shares, strict=False))
        if not (rising and falling):
            raise UserError(_RIGHT.format(self.heats))
        check_precision(self.precision, of="a race's heats")

    def before(self, k: int) -> tuple[tuple[int, float], ...]:
        """The heats of fewer than K draws."""
        return tuple((draws, share) for draws, share in self.heats if draws < k)

    def told(self, k: int) -> str:
        """In words, for K draws, as a run's first line has it."""
        draws = [draws for draws, _ in self.before(k)] + [k]
        shares = ["all"] + [f"the first {100 * share:.3g} %" for _, share in self.before(k)]
        *parts, last = (f"{count} draws for {share}" for count, share in zip(draws, shares, strict=True))
        rough = " in bfloat16" if self.precision == "bfloat16" else ""
        return ", ".join([*(part + rough for part in parts), last])


def make_race(scoring: object) -> Race:
    """What is meant by "full", "race", or a `Race`.

    Raises:
        UserError: It is none of them.
    """
    if isinstance(scoring, Race):
        return scoring
    if scoring == "full":
        return Race(heats=())
    if scoring == "race":
        return Race()
    raise UserError(f"Scoring is 'full' or 'race', or a Race, not {scoring!r}.")


@dataclass(frozen=True)
class Heat:
    """Some draws, and the share of all items that goes on after they were seen."""

    scorer: Scorer
    share: float


def race(
    heats: Sequence[Heat], full: Scorer, ids: Tensor, score: Callable[[Scorer, Tensor], Tensor], choose: Choose, q: int
) -> tuple[Tensor, Tensor, int]:
    """Chooses Q of the items.

    Args:
        heats: Before the last.
        full: All K draws.
        ids: Of the items, ``[N]``.
        score: ``f(scorer, ids [n]) -> scores [n]``.
        choose: How scores become a choice. It sees all items, those left behind with the score that they had then.
        q: Q.

    Returns:
        Positions ``[Q]`` in the ids, the scores ``[N]``, each of all draws that saw the item, and the number of
        samples, of one item by one draw.
    """
    scores = torch.zeros(len(ids), dtype=torch.double)
    seen = torch.zeros(len(ids), dtype=torch.long)
    samples = 0

    def look(scorer: Scorer, positions: Tensor) -> None:
        nonlocal samples
        behind = positions[seen[positions] < scorer.draws.count].sort().values
        if len(behind):
            scores[behind] = score(scorer, ids[behind])
            seen[behind] = scorer.draws.count
            samples += len(behind) * scorer.draws.count

    ahead = torch.arange(len(ids))
    for heat in heats:
        look(heat.scorer, ahead)
        ahead = choose(scores, max(q, math.ceil(heat.share * len(ids))))
    look(full, ahead)
    while bool((seen[(chosen := choose(scores, q))] < full.draws.count).any()):
        look(full, chosen)
    return chosen, scores, samples
