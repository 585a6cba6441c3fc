import io
from typing import Any

import numpy as np
import pytest

from activebdl.metrics import reliability
from activebdl.pictures import asked_grid, confusion_matrix, reliability_diagram


def read(png: bytes) -> Any:
    from matplotlib.image import imread

    return imread(io.BytesIO(png), format="png")[:, :, :3]


def ink(png: bytes) -> float:
    """The share of the picture that is not white."""
    return float((read(png) < 0.95).any(axis=2).mean())


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (7, 3), (25, 1)])
def test_a_grid_shows_each_image_in_its_own_range(count: int, channels: int) -> None:
    images = np.zeros((count, channels, 8, 8), dtype=np.uint8)
    images[:, :, 2:6, 2:6] = 16  # digits have 16 as their brightest
    picture = read(asked_grid(images, ["7"] * count, "asked"))
    black, white = (picture < 0.02).all(axis=2).mean(), (picture > 0.98).all(axis=2).mean()
    assert black > 0.05
    assert white > 0.2


def test_a_large_grid_is_cut_and_says_so() -> None:
    images = np.random.default_rng(0).random((300, 1, 8, 8))
    captions = ["1"] * 300
    cut = asked_grid(images, captions, "asked", most=20)
    assert read(cut).shape[0] < read(asked_grid(images[:60], captions, "asked")).shape[0]


def test_a_grid_of_one_image_has_room_for_its_title() -> None:
    picture = read(asked_grid(np.ones((1, 1, 8, 8)), ["7"], "asked for, up to 10,000 labels"))
    title = picture[:30]
    assert (title < 0.5).any()
    assert (title[:, :5] > 0.95).all()
    assert (title[:, -5:] > 0.95).all()


def test_errors_colour_the_confusion_matrix_and_right_answers_do_not() -> None:
    right = confusion_matrix([[90, 0], [0, 80]], ["a", "b"], "title")
    wrong = confusion_matrix([[90, 0], [40, 40]], ["a", "b"], "title")

    def orange(png: bytes) -> float:
        picture = read(png)
        return float(((picture[:, :, 0] - picture[:, :, 2]) > 0.3).mean())

    assert orange(right) == 0
    assert orange(wrong) > 0.05


def test_an_empty_class_and_long_names_are_no_trouble() -> None:
    names = ["t-shirt", "ankle boot", "bag"]
    assert ink(confusion_matrix([[0, 0, 0], [0, 5, 1], [0, 0, 9]], names, "title")) > 0.01


def test_a_reliability_diagram_shows_only_bins_with_items() -> None:
    import torch

    log_probs = torch.tensor([[0.85, 0.15], [0.65, 0.35], [0.95, 0.05]]).log()
    edges, confidence, accuracy, count = (v.tolist() for v in reliability(log_probs, torch.tensor([0, 1, 0])))
    bins = {"edges": edges, "confidence": confidence, "accuracy": accuracy, "count": count}
    png = reliability_diagram(bins, 0.1, "title")
    assert 0.01 < ink(png) < 0.5


def test_a_thousand_classes_and_long_names_make_a_picture_of_ordinary_size() -> None:
    many = read(confusion_matrix(np.eye(1000, dtype=int).tolist(), [str(c) for c in range(1000)], "many"))
    long = read(confusion_matrix([[5, 1], [0, 6]], ["a" * 300, "b"], "long"))
    assert many.shape[:2] == (1080, 1080) and long.shape[:2] == (480, 480)
