"""A stopping rule is tried before any label is asked for."""

from typing import Any

import torch

from activebdl import metrics, regression
from activebdl.errors import UserError
from activebdl.rounds import Round
from activebdl.stopping import StoppingRule, why


def check_stop(rule: StoppingRule, *, kind: str, validation: int, costless: bool) -> None:
    """Refuses a rule that cannot work in a run.

    Args:
        rule: It.
        kind: What the run's labels are, "classes" or "numbers".
        validation: Its validation items.
        costless: Whether its annotations are known to cost nothing.

    Raises:
        UserError: With what is missing.
    """
    for part in rule.parts:
        name = type(part).__name__
        if vars(part) and "__dataclass_fields__" not in vars(type(part)):
            raise UserError(
                f"The stopping rule '{name}' keeps something that is no field of a dataclass, so that runs cannot be "
                "told apart by it; write @dataclass(frozen=True) above it, and its settings as fields."
            )
        if part.kind not in (kind, "any"):
            raise UserError(f"The stopping rule '{name}' is for {part.kind}, and the labels are {kind}.")
        if part.needs_validation and not validation:
            raise UserError(
                f"The stopping rule '{name}' looks at validation items, and there are none; say how many labels go "
                "there: validation=100, for example."
            )
        if part.needs_costs and costless:
            raise UserError(
                f"The stopping rule '{name}' counts what annotations cost, and these cost nothing; give the data set "
                "costs=, take an oracle that tells them, or limit the labels."
            )
        part.check(validation)
        for count in (1, 2):
            why(part, [_made_up(number, part, kind, validation) for number in range(count)])


class _Any(dict[str, float]):
    """Has a number by every name: what an inference method tells of its fit is its own affair."""

    def __missing__(self, key: str) -> float:
        return 0.5


def _made_up(number: int, rule: StoppingRule, kind: str, validation: int) -> Round:
    """A round with all that the rule will find in a real one."""
    known: dict[str, Any] = {}
    if rule.needs_stop_set:
        known["watch"] = {"uncertainty": 0.5, **({"kappa": 0.5} if number and kind == "classes" else {})}
    if validation:
        one = torch.ones(1, 1)
        quality = (
            metrics.evaluate(one, torch.tensor([0]))
            if kind == "classes"
            else regression.evaluate(regression.Moments(one, one), torch.tensor([0.0]))
        )
        known["validation"] = dict.fromkeys(quality, 0.5) | {"size": float(validation)}
    return Round(
        number=number,
        n_labels=validation + number + 1,
        ids=(number,),
        labels=(0,),
        scores=(None,),
        metrics={},
        diagnostics=_Any(),
        seconds={"select": 0.1, "ask": 0.1, "fit": 0.1, "evaluate": 0.1},
        confusion=[],
        reliability={},
        written_ms=1,
        cost=number + 1.0,
        **known,
    )
