"""How good the predictions on a test set are. T: test items, K: draws, C: classes."""

from typing import Any

import torch
from torch import Tensor

from activebdl import metrics, regression
from activebdl.data.dataset import ActiveDataset
from activebdl.regression import Moments
from activebdl.scoring import Scorer, predictive
from activebdl.targets import Numbers, Target


def evaluate(scorer: Scorer, dataset: ActiveDataset) -> dict[str, Any]:
    """The metrics of the test set that the scorer looks at, the confusion and the reliability of classes."""
    everything, labels = torch.arange(len(dataset.test)), dataset.test_labels
    if isinstance(dataset.target, Numbers):
        return {"metrics": quality(scorer, everything, labels, dataset.target), "confusion": [], "reliability": {}}
    log_probs = scorer.reduce(everything, predictive)  # [T, C]
    names = ("edges", "confidence", "accuracy", "count")
    bins = metrics.reliability(log_probs, labels)
    return {
        "metrics": metrics.evaluate(log_probs, labels),
        "confusion": metrics.confusion(log_probs, labels).tolist(),
        "reliability": {name: values.tolist() for name, values in zip(names, bins, strict=True)},
    }


def quality(scorer: Scorer, ids: Tensor, labels: Tensor, target: Target) -> dict[str, float]:
    """The metrics alone, of any items that the scorer can look at and whose labels are known."""
    if isinstance(target, Numbers):
        return regression.evaluate(Moments.of(scorer.predictions(ids)), labels)
    return metrics.evaluate(scorer.reduce(ids, predictive), labels)
