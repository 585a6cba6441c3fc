"""Good enough on labelled items that no network was trained on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

from activebdl.errors import UserError
from activebdl.rounds import Round
from activebdl.stopping import StoppingRule, stopping_rule


@stopping_rule("validation_accuracy")
@dataclass(frozen=True)
class ValidationAccuracy(StoppingRule):
    """Stops when the accuracy on the validation items reaches a target.

    Their labels count in the budget. On few items an accuracy is a guess: of 100 items a model that is right in 95 %
    has 97 or more right in one case of four. With ``confidence`` it is the lower end of the one-sided interval of
    Wilson (1927) that must reach the target. That holds for one look; a run looks in every round, and is less sure.

    Args:
        target: Accuracy, above 0 and at most 1.
        confidence: Of the interval, from 0.5 to below 1, such as 0.95; None takes the accuracy as it is.
    """

    target: float
    confidence: float | None = None
    needs_validation: ClassVar[bool] = True
    kind: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not 0 < self.target <= 1:
            raise UserError(f"The target of the validation accuracy is above 0 and at most 1, not {self.target}.")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise UserError(f"The confidence of the validation accuracy is from 0.5 to below 1, not {self.confidence}.")

    def check(self, validation: int) -> None:
        """See `StoppingRule.check`."""
        best = self._reached(1.0, validation)
        if best < self.target:
            raise UserError(
                f"{validation} validation items cannot show an accuracy of {self.target:g} with confidence "
                f"{self.confidence:g}: were all of them right, the bound would be {best:.4g}; take more of them."
            )

    def reason(self, rounds: Sequence[Round]) -> str | None:
        """See `StoppingRule.reason`."""
        accuracy, size = rounds[-1].validation["accuracy"], int(rounds[-1].validation["size"])
        reached = self._reached(accuracy, size)
        if reached < self.target:
            return None
        sure = f", at least {100 * reached:.4g} % with confidence {self.confidence:g}" if self.confidence else ""
        return f"{100 * accuracy:.4g} % of {size:,} validation items are right{sure}; the target is {self.target:g}"

    def _reached(self, accuracy: float, size: int) -> float:
        return accuracy if self.confidence is None else wilson_lower(accuracy, size, self.confidence)


def wilson_lower(share: float, size: int, confidence: float) -> float:
    """The lower end of the one-sided score interval of a share (Wilson 1927), without continuity correction.

    Args:
        share: Of successes.
        size: Trials.
        confidence: That the true share is not below it.
    """
    z = NormalDist().inv_cdf(confidence)
    centre = share + z * z / (2 * size)
    return (centre - z * math.sqrt(share * (1 - share) / size + (z / (2 * size)) ** 2)) / (1 + z * z / size)
