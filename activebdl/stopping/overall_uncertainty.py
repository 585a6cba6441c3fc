"""The model is sure of nearly everything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from activebdl.errors import UserError
from activebdl.rounds import Round
from activebdl.stopping import StoppingRule, stopping_rule


@stopping_rule("overall_uncertainty")
@dataclass(frozen=True)
class OverallUncertainty(StoppingRule):
    """Stops when the model is sure of most items.

    That is when its mean uncertainty on the stop set falls below a limit. Zhu, Wang and Hovy (2008) average the
    entropy over all items that are unlabelled. A stop set that stays the same is cheaper, and its mean falls because
    the model is surer, not because the unsure items have been labelled.

    Args:
        below: Of classes, mean entropy of the posterior predictive in nats, between 0 and ln C; of numbers, mean
            standard deviation of the predictive, noise included, in units of the target.
    """

    below: float
    needs_stop_set: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not 0 < self.below < math.inf:
            raise UserError(f"The overall uncertainty is to fall below a number above 0, not {self.below}.")

    def reason(self, rounds: Sequence[Round]) -> str | None:
        """See `StoppingRule.reason`."""
        mean = rounds[-1].watch["uncertainty"]
        return f"the mean uncertainty is {mean:.4g}, below {self.below:g}" if mean < self.below else None
