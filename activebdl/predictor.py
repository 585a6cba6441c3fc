"""What a run has learned, to be used: predictions, and how sure they are.

    predictor = activebdl.load_model("runs/NAME")
    told = predictor.predict(images)                  # as the data set has them, not normalised
    told["probabilities"], told["mutual_information"]

B: items, K: draws, C: classes. Entropies are in nats.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activebdl import portable
from activebdl.data.dataset import Array
from activebdl.data.inputs import as_tensor, single
from activebdl.devices import choose_device
from activebdl.errors import UserError, told
from activebdl.files import MODEL
from activebdl.fitted import Fitted
from activebdl.posteriors import Draws
from activebdl.regression import Moments
from activebdl.scoring import entropy, predictive
from activebdl.targets import Target

Column = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Predictor:
    """A posterior with the draws that its run's test set was predicted with, so that it says of an item what was said.

    Args:
        fitted: The posterior, and how to look at items with it.
        draws: K.
        n_labels: The labels that there were, those of validation items included.
        target: What a label is.
        example: The first items of the pool, as stored ``[n, ...]``: what an item looks like.
        device: Where the network lies.
    """

    fitted: Fitted
    draws: int
    n_labels: int
    target: Target
    example: Tensor
    device: torch.device

    def predict(self, x: Array) -> dict[str, Column]:
        """What is believed of items.

        Args:
            x: ``[B, ...]``, raw, as the data set has them.

        Returns:
            Of classes: "probabilities" ``[B, C]``, "label" ``[B]``, the most probable class from 0 on, "confidence",
            its probability, "entropy" of the probabilities, and "mutual_information" of label and weights, the part of
            it that more labels take away; with `views`, of label and weights and view. Of numbers: "mean", "sd", and
            the parts of the variance ``sd ** 2``,
            "aleatoric" and "epistemic"; the latter is what more labels take away.

        Raises:
            UserError: The items have another shape than those of the data set, or are stored otherwise.
        """
        inputs = self._inputs(x)
        scorer = self.fitted.scorer(self._drawn, inputs, self.device)
        everything = torch.arange(len(inputs))
        if self.target.kind == "numbers":
            return _of_numbers(scorer.reduce(everything, _moments))
        return _of_classes(scorer.reduce(everything, _doubts))

    def save(self, path: str | Path) -> None:
        """Writes it to a file, the user's own network with it; see `load_model`."""
        portable.save(self, Path(path))

    def _inputs(self, x: Array) -> Tensor:
        wanted = tuple(self.example.shape[1:])
        inputs = single(as_tensor(x))
        if tuple(inputs.shape[1:]) != wanted or inputs.dim() == 0 or len(inputs) == 0:
            right = f"Items have the shape {list(wanted)}, so one or more of them {['B', *wanted]}"
            raise UserError(f"{right}; got {[*inputs.shape]}.")
        if self.example.dtype == torch.uint8 and bool((inputs.double().frac() != 0).any()):
            raise UserError(
                "Items are given as the data set stores them, in whole numbers from 0 to 255, and not scaled."
            )
        return inputs

    @cached_property
    def _drawn(self) -> Draws:
        return self.fitted.draw(self.draws, "test")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_drawn"}


def load_model(path: str | Path, device: str = "auto") -> Predictor:
    """The model of a finished run, or one that `Predictor.save` has written.

    A model is a pickle, and may hold any code: load what you trust.

    Args:
        path: The run's folder, or the file.
        device: "auto", "cpu", "cuda", "mps", ...

    Raises:
        UserError: There is no model, or it cannot be read here.
    """
    path = Path(path)
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"There is no model at '{file}'; a run writes it when it ends, unless keep_model is off.")
    place = choose_device(device)
    try:
        found: object = portable.load(file, place)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"The model '{file}' cannot be read here: {told(error)}.") from error
    if not isinstance(found, Predictor):
        raise UserError(f"'{file}' holds no model of ours, but a {type(found).__name__}.")
    return replace(found, device=place)


def _doubts(log_probs: Tensor) -> Tensor:
    """The predictive and the mean entropy of the draws: ``[B, K, C] -> [B, C + 1]``."""
    return torch.cat([predictive(log_probs), entropy(log_probs).mean(dim=1, keepdim=True)], dim=1)


def _of_classes(doubts: Tensor) -> dict[str, Column]:
    log_probs, within = doubts[:, :-1], doubts[:, -1].double()
    probabilities, total = log_probs.double().exp(), entropy(log_probs.double())
    return {
        "probabilities": probabilities.numpy(),
        "label": log_probs.argmax(dim=1).numpy(),
        "confidence": probabilities.amax(dim=1).numpy(),
        "entropy": total.numpy(),
        "mutual_information": (total - within).clamp_min(0).numpy(),  # rounding may go below 0
    }


def _moments(predictions: Tensor) -> Tensor:
    """Mean, aleatoric and epistemic variance: ``[B, K, 2] -> [B, 3]``."""
    moments = Moments.of(predictions)
    return torch.stack([moments.predicted, moments.aleatoric, moments.epistemic], dim=1)


def _of_numbers(moments: Tensor) -> dict[str, Column]:
    mean, aleatoric, epistemic = moments.double().unbind(dim=1)
    return {
        "mean": mean.numpy(),
        "sd": (aleatoric + epistemic).sqrt().numpy(),
        "aleatoric": aleatoric.numpy(),
        "epistemic": epistemic.numpy(),
    }
