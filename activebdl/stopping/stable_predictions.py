"""Successive models say the same."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from activebdl.errors import UserError
from activebdl.rounds import Round
from activebdl.stopping import StoppingRule, stopping_rule


@stopping_rule("stable_predictions")
@dataclass(frozen=True)
class StablePredictions(StoppingRule):
    """Stops when the models of successive rounds predict the same classes, whatever the true ones.

    Stabilizing predictions of Bloodgood and Vijay-Shanker (2009): Cohen's kappa between the predictions of each model
    and of the one before it, on a stop set of items drawn from the pool once and never labelled for it, is averaged
    over the last rounds. Their cutoff of 0.99, three rounds and 2,000 items are the defaults. A lower cutoff stops
    earlier. Few draws of the posterior make predictions waver, and so the rule wait.

    Args:
        kappa: What the mean must reach, above 0 and at most 1.
        rounds: Agreements that it is taken over; the first is known after the second round.
    """

    kappa: float = 0.99
    rounds: int = 3
    needs_stop_set: ClassVar[bool] = True
    kind: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not 0 < self.kappa <= 1:
            raise UserError(f"kappa of stable predictions is above 0 and at most 1, not {self.kappa}.")
        if not self.rounds >= 1:
            raise UserError(f"The rounds of stable predictions are 1 or more, not {self.rounds}.")

    def reason(self, rounds: Sequence[Round]) -> str | None:
        """See `StoppingRule.reason`."""
        last = [round.watch["kappa"] for round in rounds[1:]][-self.rounds :]
        mean = math.fsum(last) / self.rounds
        if len(last) < self.rounds or mean < self.kappa:
            return None
        over = "" if self.rounds == 1 else f" on average over {self.rounds} rounds"
        return f"the predictions are stable: kappa is {mean:.4g}{over}, and {self.kappa:g} is enough"


def cohen_kappa(first: Tensor, second: Tensor) -> float:
    """Agreement of two models beyond chance (Cohen 1960): ``(observed - expected) / (1 - expected)``, 1 is perfect.

    Where both put all items in one and the same class it is 0 / 0: nothing tells agreement from chance, and 0 is given,
    so that a model that has learnt a single class is not taken for one that has learnt enough.

    Args:
        first: Predicted classes ``[n]``.
        second: Those of the other.
    """
    n, classes = len(first), int(torch.cat([first, second]).max()) + 1
    observed = n * int((first == second).sum())  # in whole numbers, times n squared
    expected = int((first.bincount(minlength=classes) * second.bincount(minlength=classes)).sum())
    return 0.0 if expected == n * n else (observed - expected) / (n * n - expected)
