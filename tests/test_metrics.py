import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from activebdl import metrics


def log(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.double).log()


def test_closed_forms() -> None:
    predictions = log([0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.4, 0.1])
    labels = torch.tensor([0, 2, 1])
    assert metrics.accuracy(predictions, labels) == pytest.approx(2 / 3)
    assert metrics.nll(predictions, labels) == pytest.approx(-(math.log(0.7) + math.log(0.6) + math.log(0.4)) / 3)
    brier = (0.3**2 + 0.2**2 + 0.1**2) + (0.1**2 + 0.3**2 + 0.4**2) + (0.5**2 + 0.6**2 + 0.1**2)
    assert metrics.brier(predictions, labels) == pytest.approx(brier / 3)
    assert metrics.confusion(predictions, labels).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_brier_leaves_its_input_alone() -> None:
    predictions = log([0.7, 0.3])
    metrics.brier(predictions, torch.tensor([0]))
    assert torch.equal(predictions, log([0.7, 0.3]))


def test_calibration_error_is_the_gap_weighted_by_count() -> None:
    # Ten items at confidence .85, of which six are right; five at .65, of which all are right.
    predictions = log(*[[0.85, 0.15]] * 10, *[[0.65, 0.35]] * 5)
    labels = torch.tensor([0] * 6 + [1] * 4 + [0] * 5)
    assert metrics.ece(predictions, labels) == pytest.approx((10 * 0.25 + 5 * 0.35) / 15)


def test_sure_and_right_everywhere_is_perfect() -> None:
    predictions = log([1.0, 0.0], [0.0, 1.0])
    labels = torch.tensor([0, 1])
    assert metrics.evaluate(predictions, labels) == {"accuracy": 1.0, "nll": 0.0, "ece": 0.0, "brier": 0.0}


@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 1000))
def test_reliability_loses_no_item_and_confusion_agrees_with_accuracy(n: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randn(n, classes, generator=generator, dtype=torch.double).log_softmax(1)
    labels = torch.randint(classes, (n,), generator=generator)
    edges, confidence, correct, count = metrics.reliability(predictions, labels)
    assert int(count.sum()) == n
    inside = count > 0
    assert bool((confidence >= edges - 1e-12)[inside].all())
    assert bool((confidence <= edges + 1 / 15 + 1e-12)[inside].all())
    assert float((correct * count).sum()) / n == pytest.approx(metrics.accuracy(predictions, labels))
    table = metrics.confusion(predictions, labels)
    assert int(table.trace()) / n == pytest.approx(metrics.accuracy(predictions, labels))
    assert table.sum(1).tolist() == labels.bincount(minlength=classes).tolist()


def test_area_under_a_line_and_under_uneven_steps() -> None:
    assert metrics.area_under_curve([0, 10], [0.0, 1.0]) == 0.5
    assert metrics.area_under_curve([0, 10, 40], [0.0, 1.0, 1.0]) == pytest.approx((5 + 30) / 40)
    assert metrics.area_under_curve([20], [0.7]) == 0.7


def test_labels_to_accuracy_may_be_never() -> None:
    counts, heights = [20, 40, 60], [0.5, 0.9, 0.8]
    assert metrics.labels_to_accuracy(counts, heights, 0.9) == 40
    assert metrics.labels_to_accuracy(counts, heights, 0.91) is None
