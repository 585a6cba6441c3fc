"""Stopping rules: when no more labels are worth asking for. One file each; this page holds what they share.

A rule is a frozen dataclass with one verb, `StoppingRule.reason`, which is asked at the end of every round:

    ActiveLearning(..., stop=StablePredictions() | CostLimit(300))

It sees the rounds so far and nothing else, and keeps nothing to itself: so a resumed run stops where an uninterrupted
one does. A run that no rule stops ends with the last of its counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar, cast

from activebdl.errors import UserError, told
from activebdl.registry import Registry
from activebdl.rounds import Round

__all__ = ["AllOf", "AnyOf", "StoppingRule", "make_stop", "stopping_rule", "stopping_rules", "why"]


@dataclass(frozen=True)
class StoppingRule:
    """When to stop; the base of all rules, those of the user too. ``a | b`` is either, ``a & b`` both.

    Attributes:
        needs_validation: Whether it reads ``validation`` of a round, so that there must be validation items.
        needs_stop_set: Whether it reads ``watch`` of a round, so that the stop set is to be looked at.
        needs_costs: Whether it has nothing to go by where annotations cost nothing.
        kind: What labels it is for: "classes", "numbers" or "any".
    """

    needs_validation: ClassVar[bool] = False
    needs_stop_set: ClassVar[bool] = False
    needs_costs: ClassVar[bool] = False
    kind: ClassVar[str] = "any"

    def reason(self, rounds: Sequence[Round]) -> str | None:
        """Why to stop after the last of these rounds, in a few words; None to go on.

        Args:
            rounds: All that are done, one at least. What they say of the test set is left out: ``metrics``,
                ``confusion`` and ``reliability`` are empty, for the test set touches no choice.
        """
        raise NotImplementedError

    def check(self, validation: int) -> None:
        """Refuses, before any label is asked for, a number of validation items with which it can never stop."""

    @property
    def parts(self) -> "tuple[StoppingRule, ...]":
        """The rules that it is made of: itself, when it is no composition."""
        return (self,)

    def __or__(self, other: "StoppingRule") -> "AnyOf":
        """Stops when either does."""
        return AnyOf((self, other))

    def __and__(self, other: "StoppingRule") -> "AllOf":
        """Stops when both do."""
        return AllOf((self, other))


R = TypeVar("R", bound=type[StoppingRule])


def _adopt(name: str, found: object) -> type[StoppingRule]:
    if not (isinstance(found, type) and issubclass(found, StoppingRule)):
        raise UserError(
            f"The stopping rule '{name}' must be a frozen dataclass that inherits from activebdl.StoppingRule and has "
            "a method reason(rounds)."
        )
    return found


stopping_rules: Registry[type[StoppingRule]] = Registry("stopping rule", "activebdl.stopping", _adopt)


def stopping_rule(name: str) -> Callable[[R], R]:
    """Registers a stopping rule, a frozen dataclass."""
    return stopping_rules.decorator(name, lambda rule: rule)


@dataclass(frozen=True)
class _Composition(StoppingRule):
    rules: tuple[StoppingRule, ...]

    def __post_init__(self) -> None:
        """Takes any sequence of rules."""
        given: object = self.rules
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise UserError(f"{type(self).__name__} takes a list of one or more stopping rules, not {given!r}.")
        for rule in cast(Sequence[object], given):
            if not isinstance(rule, StoppingRule):
                raise UserError(f"{type(self).__name__} takes stopping rules, such as CostLimit(300), not {rule!r}.")
        object.__setattr__(self, "rules", tuple(self.rules))

    @property
    def parts(self) -> tuple[StoppingRule, ...]:
        """Of all its rules."""
        return tuple(part for rule in self.rules for part in rule.parts)


@stopping_rule("any_of")
@dataclass(frozen=True)
class AnyOf(_Composition):
    """Stops as soon as one of its rules does.

    Args:
        rules: One or more; the first that has a reason gives it.
    """

    def reason(self, rounds: Sequence[Round]) -> str | None:
        """See `StoppingRule.reason`."""
        return next((reason for rule in self.rules if (reason := why(rule, rounds)) is not None), None)

    def __str__(self) -> str:
        return " or ".join(map(str, self.rules))


@stopping_rule("all_of")
@dataclass(frozen=True)
class AllOf(_Composition):
    """Stops when all of its rules do, in the same round.

    Args:
        rules: One or more.
    """

    def reason(self, rounds: Sequence[Round]) -> str | None:
        """See `StoppingRule.reason`."""
        reasons = [why(rule, rounds) for rule in self.rules]
        return None if None in reasons else "; and ".join(reason for reason in reasons if reason is not None)

    def __str__(self) -> str:
        return " and ".join(f"({rule})" if isinstance(rule, AnyOf) else str(rule) for rule in self.rules)


def make_stop(given: object) -> StoppingRule | None:
    """The rule that is meant: a rule, a sequence of which any will do, or None.

    Raises:
        UserError: It is none of these.
    """
    if given is None or given == () or given == []:
        return None
    if isinstance(given, StoppingRule):
        return given
    if isinstance(given, Sequence) and not isinstance(given, str):
        return AnyOf(tuple(cast(Sequence[StoppingRule], given)))
    raise UserError(f"stop takes a stopping rule, such as CostLimit(300), or a list of them, not {given!r}.")


def why(rule: StoppingRule, rounds: Sequence[Round]) -> str | None:
    """The rule's reason to stop after the last of these rounds; None to go on.

    Raises:
        UserError: The rule raises, or gives something else than words or None.
    """
    seen = [replace(round, metrics={}, confusion=[], reliability={}) for round in rounds]
    name = type(rule).__name__
    try:
        reason: object = rule.reason(seen)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"The stopping rule '{name}' failed: {told(error)}.") from error
    if not (reason is None or (isinstance(reason, str) and reason.strip())):
        raise UserError(f"The stopping rule '{name}' must say in words why to stop, or None; it gave {reason!r}.")
    return reason
