"""A posterior and all that it takes to look at items with it, here or in another process."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from activebdl.data.dataset import Normalise
from activebdl.data.inputs import Inputs
from activebdl.devices import Precision
from activebdl.posteriors import Draws, Posterior
from activebdl.posteriors._last_layer import feature_reader
from activebdl.progress import Advance
from activebdl.randomness import generator
from activebdl.scoring import Scorer, ignore, in_precision
from activebdl.targets import Predict
from activebdl.views import Views

CHOOSING = ("candidates", "score")
"""What draws are for when a strategy looks at them."""


@dataclass(frozen=True)
class Fitted:
    """What is believed after one round, without the data that it came from.

    Args:
        posterior: From the fit.
        predict: What is read from its draws.
        kind: Of the target, "classes" or "numbers".
        normalise: Turns stored inputs into what a network reads.
        example: The first item twice, as the network reads it.
        seed: Of the run.
        round: Randomness goes by it.
        chunk: Items at a time; None for what suits a device.
        views: From where items are looked at; None for as they are.
    """

    posterior: Posterior
    predict: Predict
    kind: str
    normalise: Normalise
    example: Tensor
    seed: int
    round: int
    chunk: int | None
    views: Views | None = None

    def draw(self, k: int, purpose: str) -> Draws:
        """draw: K functions from the posterior, the same wherever they are drawn."""
        rng = generator(self.seed, self.round, purpose)
        if self.views is not None and (self.views.scoring or purpose not in CHOOSING):
            return self.views.draw(self.posterior, k, rng)
        return self.posterior.draw(k, generator=rng)

    @cached_property
    def read_features(self) -> Callable[[Tensor], Tensor]:
        """What the last layer of the trained network reads; found when it is first needed."""
        return feature_reader(self.posterior, self.example)

    def scorer(
        self,
        draws: Draws,
        inputs: Inputs,
        device: torch.device,
        advance: Advance = ignore,
        *,
        precision: Precision = "float32",
        called: str = "item",
    ) -> Scorer:
        """These draws, ready to look at the inputs."""
        return Scorer(
            draws, inputs, self.normalise, device, self.chunk, advance,
            in_precision(precision, self.predict), lambda x: self.read_features(x), self.kind, called,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """Without what is found again where it is sent."""
        return {key: value for key, value in self.__dict__.items() if key != "read_features"}
