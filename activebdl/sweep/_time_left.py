"""How far all children of a comparison are together, and when they will be done."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from activebdl.build import make_method
from activebdl.progress import overall_bar
from activebdl.rounds import Round
from activebdl.sweep._children import Task


class TimeLeft:
    """One bar of the rounds of all children; a context.

    Late rounds take longer, so seconds are counted by optimiser steps, of each strategy with each posterior by itself
    as soon as it has finished a round.

    Args:
        tasks: The children.
        width: How many run at a time.
    """

    def __init__(self, tasks: Sequence[Task], width: int) -> None:
        self._steps = [_steps(task) for task in tasks]  # of each round, by child
        self._kinds = [(str(task.spec.strategy), str(task.spec.posterior)) for task in tasks]
        self._left = [sum(steps) for steps in self._steps]
        self._next = [0] * len(tasks)  # the round of each that comes
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # seconds and steps of the rounds that were told
        self._width = width
        self._bar: Any = None

    def __enter__(self) -> Self:
        self._bar = overall_bar(sum(len(steps) for steps in self._steps))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def take(self, number: int, round: Round) -> None:
        """A round is done; there are more than were to be where money was short, and is not any more."""
        steps = self._steps[number][round.number] if round.number < len(self._steps[number]) else 0
        seconds, sum_of_steps = self._seen.get(self._kinds[number], (0.0, 0))
        self._seen[self._kinds[number]] = seconds + sum(round.seconds.values()), sum_of_steps + steps
        self._left[number] -= steps
        self._next[number] = round.number + 1
        self._show(1)

    def end(self, number: int) -> None:
        """A child has ended, whether all its rounds are done or not."""
        missing = max(0, len(self._steps[number]) - self._next[number])
        self._next[number], self._left[number] = len(self._steps[number]), 0
        self._show(missing)

    def seconds(self) -> float | None:
        """What is left, in seconds; None where nothing tells.

        The children share the work, but one of them alone cannot be done by several.
        """
        if not self._seen:
            return None
        overall = sum(seconds for seconds, _ in self._seen.values()) / sum(steps for _, steps in self._seen.values())
        rates = {kind: seconds / steps for kind, (seconds, steps) in self._seen.items()}
        each = [left * rates.get(kind, overall) for left, kind in zip(self._left, self._kinds, strict=True)]
        return max(sum(each) / self._width, *each)

    def _show(self, rounds: int) -> None:
        left = self.seconds()
        if left is not None:
            self._bar.set_postfix_str(f"{self._bar.format_interval(left)} left", refresh=False)
        self._bar.update(rounds)


def _steps(task: Task) -> list[int]:
    """Optimiser steps of each round: they tell how rounds differ."""
    method = make_method(task.spec.posterior)
    return [max(1, method.steps(count)) for count in task.spec.label_counts()]
