"""The data set's labels with mistakes: one simulated annotator.

A true class c is answered with class a with probability ``confusion[c][a]``, a number with Gaussian noise added to it.
What is said of an item depends on the seed, the annotator's name and the item's id alone, so it is the same whatever
else is asked, in whatever order: after a stop, and for two strategies with one seed.
"""

import csv
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from torch import Tensor

from activebdl.annotations import ABSTAIN, Annotation, Label
from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError
from activebdl.oracles import Oracle, Request, oracle
from activebdl.oracles.dataset import true_labels
from activebdl.randomness import generator, uniforms
from activebdl.targets import Classes

Matrix = list[list[float]]
_RATE = 0.1
_STANDARD_NORMAL = NormalDist()


@oracle("noisy")
def noisy(
    dataset: ActiveDataset,
    *,
    rate: float | None = None,
    confusion: Matrix | str | Path | None = None,
    noise: float | None = None,
    abstain: float | list[float] = 0.0,
    cost: float | list[float] | None = None,
    annotator: str = "noisy",
    seed: int = 0,
) -> Oracle:
    """Looks the label up in the data set, and is wrong at times.

    Args:
        dataset: It must have labels.
        rate: The probability of another class, each of the others as likely; .1 where neither this nor ``confusion``
            is given.
        confusion: In place of the rate, ``[C][C]`` the probability of each answer (column) given the true class (row);
            or the path of a CSV file that has it, without a header.
        noise: Where labels are numbers, the standard deviation of what is added to them.
        abstain: The probability of no answer; of classes, one for each true class may be given.
        cost: Of an answer or an abstention: one number, or one for each true class; None takes the data set's costs.
            The price told beforehand is the highest of the classes', for the true one is nobody's to know.
        annotator: The name in the journal. Annotators of other names make other mistakes.
        seed: The run's.

    Raises:
        UserError: No labels, or an option that cannot be.
    """
    labels = true_labels(dataset)
    n_classes = len(dataset.classes)
    silence = per_class(abstain, n_classes, "abstain", highest=1.0)
    cost_of, price_of = costs(dataset, labels, cost)
    if isinstance(dataset.target, Classes):
        if noise is not None:
            raise UserError("The oracle 'noisy' has 'noise' for numbers; of classes give 'rate' or 'confusion'.")
        matrix = _uniform_errors(rate, n_classes) if confusion is None else read_confusion(confusion, n_classes)
        if confusion is not None and rate is not None:
            raise UserError("The oracle 'noisy' takes 'rate' or 'confusion', not both.")
        answer = class_answers(labels, matrix, silence, annotator, seed)
    else:
        if rate is not None or confusion is not None:
            raise UserError("The labels are numbers, which have no 'rate' or 'confusion' of errors; give 'noise'.")
        answer = _number_answers(labels, _deviation(noise), silence[0], annotator, seed)
    return SimulatedAnnotator(annotator, answer, cost_of, price_of)


class SimulatedAnnotator:
    """An oracle that answers each item by a function of its id, at once.

    Args:
        name: The annotator's name in the journal.
        answer: ``f(id) -> label``, or ABSTAIN.
        cost: ``f(id)``, what the answer or the abstention costs.
        price: ``f(id)``, the most it may cost.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[int], Label],
        cost: Callable[[int], float],
        price: Callable[[int], float],
    ) -> None:
        self.name = name
        self._answer, self._cost, self._price = answer, cost, price
        self._asked: dict[str, tuple[int, ...]] = {}

    def submit(self, request: Request) -> str:
        """See `activebdl.oracles.Oracle.submit`."""
        self._asked[request.key] = request.ids
        return request.key

    def poll(self, ticket: str) -> Sequence[Annotation]:
        """All answers, every time the same."""
        return [Annotation(id, self._answer(id), self.name, self._cost(id)) for id in self._asked[ticket]]

    def price(self, ids: Sequence[int]) -> Sequence[float]:
        """The most that the answer to each item may cost."""
        return [self._price(id) for id in ids]


def class_answers(
    labels: Tensor, confusion: Matrix, abstain: Sequence[float], annotator: str, seed: int
) -> Callable[[int], Label]:
    """``f(id) -> class or ABSTAIN``, by the confusion matrix ``[C][C]`` and each class's probability to abstain."""
    bounds = [list(accumulate(row)) for row in confusion]
    last = [max(c for c, p in enumerate(row) if p > 0) for row in confusion]  # where rounding leaves the sum below 1

    def answer(id: int) -> Label:
        silent, which = uniforms(seed, f"answer of {annotator}", id, 2)
        true = int(labels[id])
        return ABSTAIN if silent < abstain[true] else min(bisect_right(bounds[true], which), last[true])

    return answer


def _number_answers(labels: Tensor, noise: float, abstain: float, annotator: str, seed: int) -> Callable[[int], Label]:
    def answer(id: int) -> Label:
        silent, how_far = uniforms(seed, f"answer of {annotator}", id, 2)
        return ABSTAIN if silent < abstain else float(labels[id]) + noise * _STANDARD_NORMAL.inv_cdf(how_far)

    return answer


def costs(
    dataset: ActiveDataset, labels: Tensor, cost: float | Sequence[float] | None
) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """What an item's answer costs, and the most it may cost; see `noisy`."""
    if cost is None:
        given = dataset.costs

        def own(id: int) -> float:
            return 0.0 if given is None else float(given[id])

        return own, own
    by_class = per_class(cost, len(dataset.classes), "cost")
    if not dataset.classes:
        return (lambda id: by_class[0]), (lambda id: by_class[0])
    return (lambda id: by_class[int(labels[id])]), (lambda id: max(by_class))


def read_confusion(given: Any, n_classes: int) -> Matrix:
    """A confusion matrix ``[C][C]``, checked, its rows made to sum to 1 to the last digit.

    Args:
        given: The matrix, or the path of a CSV file without a header.
        n_classes: C.

    Raises:
        UserError: It is none, and why.
    """
    rows = _read_csv(Path(given)) if isinstance(given, str | Path) else given
    try:
        matrix = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"A confusion matrix is {n_classes} rows of {n_classes} numbers each.") from None
    if matrix.shape != (n_classes, n_classes):
        shape = " x ".join(map(str, matrix.shape))
        raise UserError(
            f"The confusion matrix is {shape}, and must be {n_classes} x {n_classes}: a row for each true class, in it "
            "the probability of each answer."
        )
    for row, values in enumerate(matrix):
        if not (values >= 0).all():
            raise UserError(f"Row {row} of the confusion matrix has {values.min():g}; a probability is 0 or more.")
        if not abs(values.sum() - 1) < 1e-6:
            raise UserError(f"Row {row} of the confusion matrix sums to {values.sum():g}; it must sum to 1.")
    return (matrix / matrix.sum(axis=1, keepdims=True)).tolist()


def draw_confusions(annotators: int, n_classes: int, accuracy: float | Sequence[float], seed: int) -> list[Matrix]:
    """A confusion matrix ``[C][C]`` for each annotator; see the oracle `crowd`.

    Raises:
        UserError: No annotators, or accuracies that are no probabilities.
    """
    ends = [accuracy] * 2 if isinstance(accuracy, int | float) else accuracy
    if len(ends) != 2:
        raise UserError(
            f"The accuracy of annotators is one number, or the first one's and the last one's, not {accuracy}."
        )
    low, high = ends
    if annotators < 1:
        raise UserError(f"A crowd has 1 annotator or more, not {annotators}.")
    if not (0 <= low <= 1 and 0 <= high <= 1):
        raise UserError(f"The accuracy of annotators is from 0 to 1, not from {low} to {high}.")
    means = np.linspace(low, high, annotators) if annotators > 1 else np.array([(low + high) / 2])
    rng = np.random.default_rng(generator(seed, 0, "crowd").initial_seed())
    matrices: list[Matrix] = []
    for mean in means:
        spread = rng.uniform(-1, 1, n_classes)
        spread -= spread.mean()  # so that the mean over the classes is what was asked for
        right = mean + 0.5 * min(mean, 1 - mean) * spread / np.abs(spread).max()
        matrix = np.diag(right)
        for c in range(n_classes):
            matrix[c, np.arange(n_classes) != c] = (1 - right[c]) * rng.dirichlet([0.3] * (n_classes - 1))
        matrices.append(matrix.tolist())
    return matrices


def _read_csv(path: Path) -> Matrix:
    try:
        with path.expanduser().open(newline="") as file:
            return [[float(value) for value in row] for row in csv.reader(file) if row]
    except OSError as error:
        raise UserError(f"The confusion matrix '{path}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"The confusion matrix '{path}' is not numbers with commas between them: {error}.") from error


def _uniform_errors(rate: float | None, n_classes: int) -> Matrix:
    rate = _RATE if rate is None else rate
    if not 0 <= rate <= 1:
        raise UserError(f"The rate of errors is a probability, from 0 to 1, not {rate}.")
    return [[1 - rate if a == c else rate / (n_classes - 1) for a in range(n_classes)] for c in range(n_classes)]


def _deviation(noise: float | None) -> float:
    if noise is None or not 0 <= noise < math.inf:
        given = "" if noise is None else f", not {noise}"
        raise UserError(
            f"The labels are numbers: give 'noise', the standard deviation of the errors, such as noise=0.5{given}."
        )
    return noise


def per_class(given: float | Sequence[float], n_classes: int, name: str, *, highest: float = math.inf) -> list[float]:
    """One value for each class; for numbers, which have no classes, one.

    Raises:
        UserError: Too few or too many, or one below 0 or above the highest.
    """
    values = [float(given)] * max(n_classes, 1) if isinstance(given, int | float) else [float(v) for v in given]
    if len(values) != max(n_classes, 1):
        wanted = f"one number, or one for each of the {n_classes} classes" if n_classes else "one number"
        raise UserError(f"'{name}' is {wanted}, not {len(values)}.")
    for value in values:
        if not (0 <= value <= highest and value < math.inf):
            raise UserError(f"'{name}' is {'0 or more' if highest == math.inf else 'from 0 to 1'}, not {value}.")
    return values
