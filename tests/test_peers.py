"""What others compute too, where their library is installed: `pip install torch-uncertainty`.

Not its variation ratio, which counts votes against the mode of the mean; ours, like Gal's, against the modal vote.
"""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from activebdl.metrics import evaluate
from activebdl.scoring import predictive
from activebdl.strategies.bald import bald
from activebdl.strategies.max_entropy import max_entropy


@pytest.fixture(scope="module")
def peer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch_uncertainty.metrics")


@pytest.fixture(scope="module")
def log_probs() -> Tensor:
    """``[300, 7, 5]``"""
    return (3 * torch.randn(300, 7, 5, generator=torch.Generator().manual_seed(0))).log_softmax(-1)


@pytest.mark.parametrize(("ours", "theirs"), [(bald, "MutualInformation"), (max_entropy, "Entropy")])
def test_scores_are_those_of_torch_uncertainty(peer: Any, log_probs: Tensor, ours: Any, theirs: str) -> None:
    metric = getattr(peer, theirs)(reduction="none")
    metric.update(log_probs.exp().mean(1) if theirs == "Entropy" else log_probs.exp())
    torch.testing.assert_close(ours(log_probs).float(), metric.compute().flatten(), rtol=1e-4, atol=1e-5)


def test_metrics_are_those_of_torch_uncertainty(peer: Any, log_probs: Tensor) -> None:
    mean = predictive(log_probs)
    labels = torch.distributions.Categorical(logits=mean).sample()
    told = evaluate(mean, labels)
    theirs = {
        "brier": peer.BrierScore(num_classes=5),
        "nll": peer.CategoricalNLL(),
        "ece": peer.CalibrationError(task="multiclass", num_classes=5, num_bins=15, norm="l1"),
    }
    for name, metric in theirs.items():
        metric.update(mean.exp(), labels)
        assert told[name] == pytest.approx(float(metric.compute()), abs=1e-5), name
