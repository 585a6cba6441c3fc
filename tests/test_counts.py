"""The numbers of labels at which a run fits and is measured."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activebdl import UserError, label_counts


@given(st.integers(1, 50), st.integers(0, 500), st.integers(1, 60), st.floats(0, 1))
def test_label_counts_rise_from_the_initial_size_to_the_budget(
    initial: int, more: int, query: int, growth: float
) -> None:
    counts = label_counts(initial, initial + more, query, growth)
    assert counts[0] == initial
    assert counts[-1] == initial + more
    steps = [b - a for a, b in itertools.pairwise(counts)]
    assert all(step >= query for step in steps[:-1])
    assert all(step >= 1 for step in steps)


def test_label_counts_of_gal_2017() -> None:
    assert label_counts(20, 1000, 10) == tuple(range(20, 1001, 10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, 1), "initial size is 0"),
        ((20, 10, 5), "budget of 10 labels is below the initial size of 20"),
        ((20, 100, 0), "query size is 0"),
        ((20, 100, 10, -0.1), "a number that is not negative"),
    ],
)
def test_label_counts_refuse_what_does_not_fit(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        label_counts(*arguments)
