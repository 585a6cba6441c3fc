"""How good the predictions are: accuracy, NLL, ECE, Brier; and how good a whole learning curve is.

T: test items, C: classes. NLL in nats.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def accuracy(log_probs: Tensor, labels: Tensor) -> float:
    """Share of items whose most probable class is right. ``log_probs [T, C]``, ``labels [T]``."""
    return float((log_probs.argmax(dim=1) == labels).double().mean())


def nll(log_probs: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the labels, in nats. ``log_probs [T, C]``, ``labels [T]``."""
    return float(-log_probs.double().gather(1, labels[:, None]).mean())


def brier(log_probs: Tensor, labels: Tensor) -> float:
    """Mean squared distance of the probabilities from the one-hot label (Brier 1950): 0 is perfect, 2 the worst."""
    difference = log_probs.double().exp()
    difference[torch.arange(len(labels)), labels] -= 1
    return float(difference.square().sum(dim=1).mean())


def ece(log_probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Naeini et al. 2015): mean gap of confidence and accuracy over equal-width bins."""
    _, confidence, correct, count = reliability(log_probs, labels, bins)
    return float(((confidence - correct).abs() * count).sum() / count.sum())


def reliability(log_probs: Tensor, labels: Tensor, bins: int = 15) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a reliability diagram shows.

    Returns:
        Lower bin edges, mean confidence, accuracy, and count of each bin, ``[bins]`` each; zeros where a bin is empty.
    """
    top, predicted = log_probs.double().exp().max(dim=1)
    at = (top * bins).long().clamp(0, bins - 1)
    count = torch.zeros(bins, dtype=torch.double).index_add_(0, at, torch.ones_like(top))
    confidence = torch.zeros_like(count).index_add_(0, at, top) / count.clamp_min(1)
    correct = torch.zeros_like(count).index_add_(0, at, (predicted == labels).double()) / count.clamp_min(1)
    return torch.arange(bins, dtype=torch.double) / bins, confidence, correct, count


def confusion(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Counts ``[C true, C predicted]``."""
    classes = log_probs.shape[1]
    flat = labels * classes + log_probs.argmax(dim=1)
    return torch.bincount(flat, minlength=classes * classes).view(classes, classes)


def evaluate(log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """All four metrics of predictions ``[T, C]`` by name."""
    return {
        "accuracy": accuracy(log_probs, labels),
        "nll": nll(log_probs, labels),
        "ece": ece(log_probs, labels),
        "brier": brier(log_probs, labels),
    }


def area_under_curve(labels: Sequence[int], values: Sequence[float]) -> float:
    """Mean height of a learning curve between its first and last count (trapezoids over the number of labels)."""
    if len(labels) == 1:
        return float(values[0])
    x, y = torch.tensor(labels, dtype=torch.double), torch.tensor(values, dtype=torch.double)
    return float(torch.trapezoid(y, x) / (x[-1] - x[0]))


def labels_to_accuracy(labels: Sequence[int], accuracies: Sequence[float], target: float) -> int | None:
    """The first count at which the target is reached; None when it never is, which is a value, not an error."""
    return next((n for n, value in zip(labels, accuracies, strict=True) if value >= target), None)
