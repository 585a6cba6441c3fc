"""The pictures: what is drawn in them, and that nothing the numbers can be breaks them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from activebdl.pictures import png, svg
from activebdl.report import plot
from activebdl.report.plots import (
    asked_by_class,
    calibration,
    learning_curves,
    styles,
    time_per_phase,
    win_matrix,
    wins,
)
from activebdl.report.published import published
from tests.report.made import curve, of_numbers

ENDING_APART = [
    replace(curve("bald", 0, [0.5, 0.9], (20, 40)), stopped=True),
    replace(curve("bald", 1, [0.6, 0.8, 0.9]), stopped=True),
    curve("random", 0, [0.5, 0.6, 0.7, 0.98], (20, 40, 60, 80)),
]
THREE = [
    curve(name, seed, [0.5, h + 0.01 * seed, h + 0.1]) for name, h in (("a", 0.8), ("b", 0.6)) for seed in range(3)
]


def lines(figure: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].get_lines()}


def test_curves_that_end_apart_are_drawn_to_their_ends() -> None:
    drawn = lines(learning_curves(ENDING_APART, "title"))
    assert drawn["bald (2 seeds), 85.00 % at 40"] == [20, 40]
    assert drawn["random, 98.00 % at 80"] == [20, 40, 60, 80]


def test_the_best_comes_first_in_the_legend_and_has_its_interval_around_it() -> None:
    figure = learning_curves(THREE, "title")
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["a (3 seeds), 90.00 % at the end", "b (3 seeds), 70.00 % at the end"]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    middle = band[band[:, 0] == 40][:, 1]
    half = 4.302652729911275 / math.sqrt(3)  # Student's, 2 degrees of freedom; the deviation is one point
    assert (middle.min(), middle.max()) == pytest.approx((81 - half, 81 + half))


def test_published_curves_are_drawn_as_far_as_ours_go() -> None:
    drawn = lines(learning_curves(THREE, "title", published()[:1]))
    assert drawn[published()[0].label] == [20, 30, 40, 50, 60]


@pytest.mark.parametrize("accuracy", [[0.1, 0.2, 0.3], [0.9, 0.99, 0.999], [0.5, 1.0, 1.0], [0.7, 0.7, 0.7]])
def test_the_plot_is_a_picture_whatever_the_heights(accuracy: list[float]) -> None:
    picture = plot([curve("bald", 0, accuracy), curve("bald", 1, accuracy)], "title")
    assert picture.startswith(b"\x89PNG")
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (1152, 720)


def test_who_is_ahead_is_counted_over_seeds_and_counts() -> None:
    curves = [
        curve("a", 0, [0.5, 0.6, 0.7]), curve("a", 1, [0.5, 0.6, 0.7]), curve("a", 2, [0.5, 0.9, 0.9]),
        curve("b", 0, [0.5, 0.5, 0.7]), curve("b", 1, [0.5, 0.7, 0.8]), curve("c", 9, [0.5, 0.5, 0.5]),
    ]  # fmt: skip
    shares = wins(curves)  # ahead, level; behind, behind: 1.5 of 4
    assert (shares[0, 1], shares[1, 0]) == (1.5 / 4, 2.5 / 4)
    assert np.isnan(shares[2]).all() and np.isnan(np.diag(shares)).all()
    errors = [of_numbers("a", 0, [9, 1, 1]), of_numbers("b", 0, [9, 2, 2])]
    assert wins(errors)[0, 1] == 1
    assert png(win_matrix(curves, "title")).startswith(b"\x89PNG")


def test_the_other_pictures_are_pictures_of_classes_and_of_numbers() -> None:
    shares = np.full((4, 3), np.nan)
    shares[0] = [1, 0, 0]
    numbers = [of_numbers("a", seed, [3, 2, 1]) for seed in range(3)]
    figures = [
        asked_by_class({"a": shares, "b": shares}, (40, 60, 80, 100), ("x", "y", "z"), "title"),
        calibration(THREE, "title"), calibration(numbers, "title"), learning_curves(numbers, "title"),
        time_per_phase({"a": {"fit": 200.0, "ask": 1.0}, "b": {"fit": 3.0}}, "title"),
    ]  # fmt: skip
    for figure in figures:
        assert png(figure).startswith(b"\x89PNG")
    text, again = (svg(learning_curves(numbers, "title")) for _ in range(2))
    assert text.startswith(b"<?xml") and text == again


def test_what_was_asked_has_the_names_of_the_classes_beside_it() -> None:
    names = ["T-shirt/top", "a name that is much too long for its place"]
    figure = asked_by_class({"bald": np.full((2, 2), 0.5)}, (40, 60), names, "title")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["T-shirt/top", "a name that..."]


def test_every_arm_looks_different_and_random_is_grey() -> None:
    labels = ["random", *(f"s{i}" for i in range(20))]
    looks = styles(labels)
    assert looks["random"]["color"] == "#7f7f7f"
    assert len({tuple(look.values()) for look in looks.values()}) == 21
