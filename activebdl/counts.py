"""The label counts of a run: where it fits, and is measured."""

import itertools
import math
from collections.abc import Sequence

from activebdl.errors import UserError


def label_counts(initial: int, budget: int, query_size: int, growth: float = 0.0) -> tuple[int, ...]:
    """The numbers of labels at which a run fits and is measured, from ``initial`` to ``budget``.

    Args:
        initial: Labels before the first fit.
        budget: Labels at the end.
        query_size: Items asked for at a time, at least.
        growth: When above 0, a later query is as large as this share of the labels there are: while labels are few
            each query matters, and later ones may be larger at little loss.

    Raises:
        UserError: The numbers do not fit together.
    """
    if initial < 1:
        raise UserError(f"The first fit needs labels: the initial size is {initial} and must be at least 1.")
    if query_size < 1:
        raise UserError(f"The query size is {query_size}; at least 1 item must be asked for at a time.")
    if budget < initial:
        raise UserError(f"The budget of {budget} labels is below the initial size of {initial}.")
    if not 0 <= growth < math.inf:
        raise UserError(f"The growth of the query is {growth}; it must be a number that is not negative.")
    counts = [initial]
    while counts[-1] < budget:
        counts.append(min(budget, counts[-1] + max(query_size, round(growth * counts[-1]))))
    return tuple(counts)


def check_counts(counts: Sequence[int], pool_size: int, validation: int = 0) -> None:
    """Refuses counts that are not ascending from 1 or more, go beyond the pool, or leave nothing to train on.

    Args:
        counts: Labels at the end of each round.
        pool_size: Items that can have one.
        validation: Of these labels, those that are held out.

    Raises:
        UserError: With the number that is wrong.
    """
    if not counts or counts[0] < 1 or any(b <= a for a, b in itertools.pairwise(counts)):
        raise UserError(f"The label counts must rise from at least 1, and are {list(counts)}.")
    if counts[-1] > pool_size:
        raise UserError(f"The budget of {counts[-1]} labels is above the pool, which has {pool_size} items.")
    if counts[0] <= validation:
        raise UserError(
            f"The {validation} validation labels count among the {counts[0]} of the first round, so that none is left "
            f"to train on; begin with more than {validation} labels."
        )
