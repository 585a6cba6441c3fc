"""How good the predictions on a test set are. T: test items, K: draws, C: classes."""

from typing import Any

import torch

from activebdl import metrics, regression
from activebdl.data.dataset import ActiveDataset
from activebdl.regression import Moments
from activebdl.scoring import Scorer, predictive
from activebdl.targets import Numbers


def evaluate(scorer: Scorer, dataset: ActiveDataset) -> dict[str, Any]:
    """The metrics of the test set that the scorer looks at, the confusion and the reliability of classes."""
    everything, labels = torch.arange(len(dataset.test)), dataset.test_labels
    if isinstance(dataset.target, Numbers):
        moments = Moments.of(scorer.predictions(everything))
        return {"metrics": regression.evaluate(moments, labels), "confusion": [], "reliability": {}}
    log_probs = scorer.reduce(everything, predictive)  # [T, C]
    names = ("edges", "confidence", "accuracy", "count")
    bins = metrics.reliability(log_probs, labels)
    return {
        "metrics": metrics.evaluate(log_probs, labels),
        "confusion": metrics.confusion(log_probs, labels).tolist(),
        "reliability": {name: values.tolist() for name, values in zip(names, bins, strict=True)},
    }
