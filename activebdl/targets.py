"""What a label is: one of some classes, or a number; and what a network learns of it.

    Classes(("cat", "dog"))    labels 0 and 1; draws give log-probabilities [B, K, C]
    Numbers()                  labels are floats; draws give moments [B, K, 2], mean and variance in the target's units

n: labels, B: items of a batch, K: draws, C: classes.
"""

import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from activebdl.annotations import Label, as_float
from activebdl.devices import float64
from activebdl.errors import UserError
from activebdl.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood

Predict = Callable[[Any, Tensor], Tensor]
"""``f(draws, x [B, ...]) -> [B, K, C]`` log-probabilities, or ``[B, K, 2]`` mean and variance."""


def log_probs(draws: Any, x: Tensor) -> Tensor:
    """What draws say of ``x [B, ...]`` when labels are classes: ``[B, K, C]``."""
    return draws.log_probs(x)


@dataclass(frozen=True)
class Task:
    """What a network is to learn, in units that suit it.

    Args:
        labels: ``[n]``, as the likelihood takes them.
        likelihood: How the network's outputs tell of them.
        predict: What draws of a network that learned them say, in the target's own units again.
    """

    labels: Tensor
    likelihood: Likelihood
    predict: Predict


class Target(Protocol):
    """What a label is."""

    @property
    def kind(self) -> str:
        """What the labels are called: "classes" or "numbers"."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes; none of numbers."""
        ...

    @property
    def width(self) -> int:
        """O, the outputs that a network needs for it."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of many labels in a tensor."""
        ...

    @property
    def abstention(self) -> float:
        """What stands for None in an array of labels: -1 or NaN."""
        ...

    def label(self, given: object) -> Label:
        """An answer as a label; None for one who abstains.

        Raises:
            UserError: It cannot be one; the sentence says what could.
        """
        ...

    def task(self, labels: Tensor) -> Task:
        """What a network is to learn from ``labels [n]``."""
        ...

    def example(self, items: int, draws: int) -> Tensor:
        """Made-up predictions, to try things on: ``[items, draws, ...]``."""
        ...


@dataclass(frozen=True)
class Classes:
    """One of C classes; label c, an integer, means ``names[c]``, and -1 abstains.

    Args:
        names: C of them.
    """

    names: tuple[str, ...]
    kind = "classes"
    dtype = torch.long
    abstention = -1

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise UserError(f"A data set needs at least two classes to tell apart, and has {len(self.names)}.")
        again = [name for name, times in Counter(self.names).items() if times > 1]
        if again:
            raise UserError(f"Each class has a name of its own, and '{again[0]}' is the name of two.")

    @property
    def width(self) -> int:
        """C."""
        return len(self.names)

    def label(self, given: object) -> Label:
        """See `Target.label`."""
        if given is None:
            return None
        try:
            label = operator.index(given)  # pyright: ignore[reportArgumentType]
        except TypeError:
            label = self.width
        if not -1 <= label < self.width:
            raise UserError(f"labels run from 0 to {self.width - 1}, and -1 abstains.")
        return None if label == -1 else label

    def task(self, labels: Tensor) -> Task:
        """The labels as they are."""
        return Task(labels, Categorical(self.width), log_probs)

    def example(self, items: int, draws: int) -> Tensor:
        """Log-probabilities."""
        return torch.randn(items, draws, self.width, generator=torch.Generator().manual_seed(0)).log_softmax(-1)


@dataclass(frozen=True)
class _Rescaled:
    """Moments of networks that learned in standard units, in the target's own: `Predict` of numbers.

    Args:
        likelihood: How outputs tell of them.
        mean: Of the labels that were learned.
        sd: Of these.
    """

    likelihood: Gaussian | HeteroscedasticGaussian
    mean: float
    sd: float

    def __call__(self, draws: Any, x: Tensor) -> Tensor:
        if not hasattr(draws, "outputs"):
            raise UserError(f"{type(draws).__name__} has no outputs(x), which numbers are predicted from.")
        with torch.inference_mode():  # in float64, in which a spread of 1 around 1e9 is kept
            means, variances = map(float64, self.likelihood.moments(draws.outputs(x)))
            return torch.stack([means * self.sd + self.mean, variances * self.sd**2], dim=-1)


@dataclass(frozen=True)
class Numbers:
    """A number, with noise around what can be known of it; NaN abstains.

    Networks learn it in standard units, those of the labels there are: their mean is 0 and their deviation 1.

    Args:
        noise: Standard deviation of the noise in the target's units, where it is known and the same everywhere. Then
            networks have one output; None has them learn it for each input, as a second one.
        beta: Of the beta-NLL with which the noise is learned; see `activebdl.likelihoods.HeteroscedasticGaussian`.
    """

    noise: float | None = None
    beta: float = 0.5
    kind = "numbers"
    dtype = torch.double
    abstention = math.nan

    def __post_init__(self) -> None:
        if self.noise is not None and not (isinstance(self.noise, int | float) and 0 < self.noise < math.inf):
            raise UserError(f"The noise of numbers is a standard deviation above 0, or None, and not {self.noise!r}.")
        self._likelihood(1.0)  # refuses a beta that cannot be

    @property
    def names(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def width(self) -> int:
        """1, or 2 where the noise is learned."""
        return self._likelihood(1.0).width

    def label(self, given: object) -> Label:
        """See `Target.label`."""
        if given is None:
            return None
        number = as_float(given)
        if number is None or math.isinf(number):
            raise UserError("labels are finite numbers, and NaN abstains.")
        return None if math.isnan(number) else number

    def task(self, labels: Tensor) -> Task:
        """The labels in standard units; moments come back in the target's own."""
        labels = labels.double()
        mean = float(labels.mean())
        # Equal labels have no spread, though rounding may show one.
        sd = 1.0 if bool((labels == labels[0]).all()) else float(labels.std(correction=0))
        likelihood = self._likelihood(sd)
        return Task(((labels - mean) / sd).float(), likelihood, _Rescaled(likelihood, mean, sd))

    def example(self, items: int, draws: int) -> Tensor:
        """Means and variances."""
        return torch.rand(items, draws, 2, generator=torch.Generator().manual_seed(0)) + 0.1

    def _likelihood(self, sd: float) -> Gaussian | HeteroscedasticGaussian:
        return HeteroscedasticGaussian(self.beta) if self.noise is None else Gaussian(self.noise / sd)
