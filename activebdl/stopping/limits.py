"""Budgets: what a run may take in labels, in cost, in time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from activebdl.errors import UserError
from activebdl.rounds import Round
from activebdl.stopping import StoppingRule, stopping_rule


@stopping_rule("labels")
@dataclass(frozen=True)
class LabelLimit(StoppingRule):
    """Stops when there are so many labels.

    For compositions: a run by itself ends with the last of its counts.

    Args:
        limit: Labels, those of validation items included.
    """

    limit: int

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not self.limit >= 1:
            raise UserError(f"The limit of labels is 1 or more, not {self.limit}.")

    def reason(self, rounds: Sequence[Round]) -> str | None:
        """See `StoppingRule.reason`."""
        labels = rounds[-1].n_labels
        return f"there are {labels:,} labels, of {self.limit:,} that were wanted" if labels >= self.limit else None


@stopping_rule("cost")
@dataclass(frozen=True)
class CostLimit(StoppingRule):
    """Stops when the annotations have cost so much in all.

    A round that has begun is finished, so that the limit may be exceeded by what one query costs, and what is asked in
    place of items that the oracle abstains from. A run's ``max_cost`` is never exceeded.

    Args:
        limit: In the unit of the annotations' costs. All count: abstentions, and those of validation items too.
    """

    limit: float
    needs_costs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not 0 < self.limit < math.inf:
            raise UserError(f"The limit of cost is a number above 0, not {self.limit}.")

    def reason(self, rounds: Sequence[Round]) -> str | None:
        """See `StoppingRule.reason`."""
        cost = rounds[-1].cost
        return f"the annotations have cost {cost:g}, and the limit is {self.limit:g}" if cost >= self.limit else None


@stopping_rule("wall_time")
@dataclass(frozen=True)
class WallTime(StoppingRule):
    """Stops when the rounds have taken so many minutes in all.

    Counted is what the rounds record: choosing, the annotators' own seconds, fitting, testing. So a resumed run counts
    what was spent before, and not the pause between. A round that has begun is finished.

    Args:
        minutes: Of all rounds.
    """

    minutes: float

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not 0 < self.minutes < math.inf:
            raise UserError(f"The wall time is a number of minutes above 0, not {self.minutes}.")

    def reason(self, rounds: Sequence[Round]) -> str | None:
        """See `StoppingRule.reason`."""
        spent = math.fsum(seconds for round in rounds for seconds in round.seconds.values()) / 60
        return f"the rounds took {spent:.3g} minutes, of {self.minutes:g}" if spent >= self.minutes else None
