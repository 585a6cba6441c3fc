"""What the cycle learns from: a pool of inputs without labels, and a labelled test set that touches no choice.

Inputs are kept as they are stored (uint8 for images) and normalised chunk by chunk on the device. Those that are larger
than memory stay where they are, see `activebdl.data.inputs`.
N: pool items, T: test items, B: items of a chunk, C: classes.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from activebdl.annotations import Label
from activebdl.data.inputs import Inputs, Key, MappedInputs, StreamedInputs, as_tensor, check_axes, chunks, single
from activebdl.errors import UserError
from activebdl.likelihoods import Likelihood
from activebdl.targets import Classes, Numbers, Target

Array = Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Normalise:
    """Turns stored inputs into what a network reads: ``(x / scale - mean) / std`` in float32.

    Args:
        scale: What the stored values are divided by; 255 for uint8 images.
        mean: Subtracted after that. A tuple has one value per channel.
        std: Divided by after that. A tuple has one value per channel.
    """

    scale: float = 1.0
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """Normalises a chunk ``[B, ...]``; a float64 input stays float64."""
        if not x.is_floating_point():
            x = x.float()
        mean, std = self._per_channel(self.mean, x), self._per_channel(self.std, x)
        # One multiplication and one addition: on a CPU the division would cost more than the copy.
        return x * (1.0 / (self.scale * std)) + (-mean / std)

    @staticmethod
    def _per_channel(value: float | tuple[float, ...], x: Tensor) -> Any:
        if isinstance(value, tuple):
            return torch.tensor(value, dtype=x.dtype, device=x.device).view(-1, *([1] * (x.dim() - 2)))
        return value


@dataclass(frozen=True)
class ActiveDataset:
    """A pool, a test set, and what a label is.

    Args:
        name: How the data set is called in reports and in MLflow.
        pool: N inputs. An item's id is its index here, for ever.
        labels: ``[N]``, those that the data set's own oracle gives, int64 for classes and float for numbers; None when
            only the user's oracle knows.
        test: T inputs, never used to choose anything.
        test_labels: ``[T]``.
        target: `Classes` or `Numbers`.
        normalise: Turns stored inputs into what a network reads.
        costs: What the label of each pool item costs, ``[N]`` float64, positive, in the user's own unit; None where
            items do not differ, or nobody says.
        target_inputs: Inputs, as stored, that predictions will be wanted for, where the pool is not like them; for
            strategies that ask for what tells most about those, such as EPIG. None takes the pool for them.
    """

    name: str
    pool: Inputs
    labels: Tensor | None
    test: Inputs
    test_labels: Tensor
    target: Target
    normalise: Normalise = field(default_factory=Normalise)
    costs: Tensor | None = None
    target_inputs: Inputs | None = None

    def __post_init__(self) -> None:
        if len(self.pool) == 0 or len(self.test) == 0:
            raise UserError(f"The data set '{self.name}' needs at least one pool item and one test item.")
        if self.labels is not None:
            _check_labels(self.labels, len(self.pool), self.target, "pool")
        _check_labels(self.test_labels, len(self.test), self.target, "test")
        if self.costs is not None:
            object.__setattr__(self, "costs", _costs(self.costs, len(self.pool)))
        _check_like(self.test, self.pool, "test")
        if self.target_inputs is not None:
            if len(self.target_inputs) == 0:
                raise UserError("target_inputs has no items; leave it out, and the pool stands for them.")
            _check_like(self.target_inputs, self.pool, "target")
        for inputs, side in ((self.pool, "pool"), (self.test, "test"), (self.target_inputs, "target")):
            if isinstance(inputs, Tensor):
                _check_finite(inputs, side)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; none where labels are numbers."""
        return self.target.names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one item, without the batch axis."""
        return tuple(self.pool[torch.tensor([0])].shape[1:])

    @staticmethod
    def from_arrays(
        pool: Array | str | Path,
        labels: Array | None,
        test: Array | str | Path,
        test_labels: Array,
        *,
        name: str = "custom",
        classes: Sequence[str] | None = None,
        numbers: Numbers | None = None,
        normalise: Normalise | None = None,
        costs: Array | None = None,
        target_inputs: Array | str | Path | None = None,
    ) -> "ActiveDataset":
        """A data set of the user's own tensors or arrays.

        Inputs may be larger than memory: the path of a ``.npy`` file, or what ``np.load("pool.npy", mmap_mode="r")``
        gives. Such a file is read chunk by chunk; NaN and infinity in it are told when they are met, not here.

        Args:
            pool: ``[N, ...]``; uint8 is normalised by 1/255 unless ``normalise`` says otherwise.
            labels: ``[N]`` integers from 0, or numbers, or None when an oracle of yours gives them.
            test: ``[T, ...]``.
            test_labels: ``[T]`` of the same.
            name: How it is called in reports.
            classes: Names; "0", "1", ... when not given.
            numbers: When labels are numbers, ``Numbers()`` or one that knows more of their noise.
            normalise: How stored inputs become what a network reads.
            costs: ``[N]`` positive numbers, what a label of each item costs; see "per_cost_" in `activebdl.strategies`.
            target_inputs: ``[M, ...]`` inputs that predictions will be wanted for, where the pool is not like them.

        Raises:
            UserError: What cannot be, such as labels that are too few, NaN in memory, or a file without an array.
        """
        x, t = _inputs(pool), _inputs(test)
        target = None if classes is None and numbers is None else _target(classes, numbers)
        column = _floats if isinstance(target, Numbers) else _integers
        y = None if labels is None else column(labels, "labels")
        test_y = column(test_labels, "test_labels")
        costs = None if costs is None else _floats(costs, "costs")
        if target is None:
            highest = max(int(v.max()) for v in (y, test_y) if v is not None and len(v))
            target = Classes(tuple(str(c) for c in range(highest + 1)))
        wanted = None if target_inputs is None else _inputs(target_inputs)
        return ActiveDataset(name, x, y, t, test_y, target, normalise or _unit_range(x), costs, wanted)

    @staticmethod
    def from_datasets(
        pool: TorchDataset[Any],
        test: TorchDataset[Any],
        *,
        classes: Sequence[str] | None = None,
        numbers: Numbers | None = None,
        name: str = "custom",
        labels: Array | None = None,
        normalise: Normalise | None = None,
        costs: Array | None = None,
        workers: int = 0,
        input: Key | None = None,
        label: Key | None = None,
    ) -> "ActiveDataset":
        """A data set of map-style torch ``Dataset`` objects, whose inputs are streamed and never held whole.

        Items may be tuples or dicts, so Hugging Face's ``datasets.Dataset`` is one of these too: ``from_datasets(pool,
        test, input="image", label="label", classes=test.features["label"].names, labels=np.array(pool["label"]))``.

        Args:
            pool: ``pool[i]`` is an input, a tuple that starts with one, or a dict that has one; see
                `activebdl.data.StreamedInputs` for what an input may be.
            test: ``test[i]`` is ``(input, label)``, or a dict that has both.
            classes: Names of the C classes, or
            numbers: when labels are numbers, ``Numbers()`` or one that knows more of their noise.
            name: How it is called in reports.
            labels: ``[N]`` for the data set's own oracle; None when an oracle of yours gives them.
            normalise: How stored inputs become what a network reads; uint8 is normalised by 1/255 when not given.
            costs: ``[N]`` positive numbers, what a label of each item costs; see "per_cost_" in `activebdl.strategies`.
            workers: Processes that read ahead.
            input: The key of the input, where items are dicts, or its place in a tuple.
            label: The key of the label in a test item, or its place in a tuple.

        Raises:
            UserError: What cannot be, such as a label that is none or an item that cannot be read.
        """
        target = _target(classes, numbers)
        column = _floats if isinstance(target, Numbers) else _integers
        pool_inputs, test_inputs = StreamedInputs(pool, workers, input), StreamedInputs(test, workers, input)
        test_labels = _read_labels(test_inputs, label, target)
        y = None if labels is None else column(labels, "labels")
        if normalise is None:
            normalise = _unit_range(pool_inputs) if len(pool_inputs) else Normalise()
        costs = None if costs is None else _floats(costs, "costs")
        return ActiveDataset(name, pool_inputs, y, test_inputs, test_labels, target, normalise, costs)


@dataclass(frozen=True)
class Unlabelled:
    """Items of the pool that have no label.

    Args:
        inputs: The pool, as it is stored.
        ids: Of those without a label, on the CPU.
    """

    inputs: Inputs
    ids: Tensor

    def batches(self, size: int, count: int, generator: torch.Generator) -> Generator[Tensor]:
        """So many stacks ``[size, ...]`` of them at random, as stored, where one may come twice; none of no items."""
        if len(self.ids) == 0:
            return chunks(self.inputs, self.ids, size)
        return chunks(self.inputs, self.ids[torch.randint(len(self.ids), (size * count,), generator=generator)], size)


@dataclass(frozen=True)
class Labelled:
    """The labelled items that a network is fitted to, small enough to lie on the device whole.

    Args:
        inputs: ``[n, ...]`` as stored, on the device.
        labels: ``[n]`` int64 for classes, float in standard units for numbers (see `activebdl.targets`), on the device.
        likelihood: How the network's outputs tell of them.
        normalise: Turns stored inputs into what a network reads.
        unlabelled: The rest of the pool, for training that looks at it; None where there is none.
    """

    inputs: Tensor
    labels: Tensor
    likelihood: Likelihood
    normalise: Normalise = field(default_factory=Normalise)
    unlabelled: Unlabelled | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def example(self) -> Tensor:
        """The first item twice, normalised, for networks that cannot read one alone: ``[2, ...]``."""
        return self.normalise(self.inputs[:1].repeat_interleave(2, dim=0))

    @property
    def device(self) -> torch.device:
        """Where the inputs lie, and where the network is to be trained."""
        return self.inputs.device


def _inputs(x: Array | str | Path) -> Inputs:
    if isinstance(x, str | Path):
        return MappedInputs.open(x)
    if isinstance(x, np.memmap) and getattr(x, "_mmap", None) is not None:  # not a copy of one, which is in memory
        return MappedInputs(x)
    tensor = _tensor(x, "inputs")
    check_axes(tensor.shape)
    return single(tensor)


def _unit_range(inputs: Inputs) -> Normalise:
    """uint8, which images are, from 0 to 1, and all else as it is."""
    stored = inputs.dtype if isinstance(inputs, Tensor) else inputs[torch.tensor([0])].dtype
    return Normalise(scale=255.0) if stored == torch.uint8 else Normalise()


def _target(classes: Sequence[str] | None, numbers: Numbers | None) -> Target:
    """What a label is, from two ways to say it."""
    if (classes is None) == (numbers is None):
        raise UserError("Say what a label is: either classes=[...], their names, or numbers=Numbers().")
    if classes is not None:
        return Classes(tuple(str(name) for name in classes))
    if not isinstance(numbers, Numbers):
        raise UserError(f"numbers= takes Numbers(), and not {numbers!r}.")
    return numbers


def _read_labels(data: StreamedInputs, key: Key | None, target: Target) -> Tensor:
    """The labels of a map-style data set whose items are ``(input, label)``, or dicts that have both."""
    labels: list[Label] = []
    for i in range(len(data)):
        given = data.entry(i, key, 1, "label")
        try:
            labels.append(target.label(given))
        except UserError as error:
            raise UserError(f"The test label of item {i} is {given!r}; {error}") from None
        if labels[-1] is None:
            raise UserError(f"The test label of item {i} is missing.")
    return torch.tensor(labels, dtype=target.dtype)


def _tensor(given: object, what: str) -> Tensor:
    try:
        return as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what} must be a tensor or an array of numbers: {error}.") from None


def _integers(y: Array, what: str) -> Tensor:
    tensor = _tensor(y, what)
    if tensor.is_floating_point() or tensor.dim() != 1:
        raise UserError(
            f"{what} must be one integer per item, not {tensor.dtype} of shape {tuple(tensor.shape)}; "
            "where they are numbers and not classes, say numbers=Numbers()."
        )
    return tensor.long()


def _floats(y: Array, what: str) -> Tensor:
    tensor = _tensor(y, what)
    if tensor.is_complex() or tensor.dim() != 1:
        raise UserError(f"{what} must be one number per item, not {tensor.dtype} of shape {tuple(tensor.shape)}.")
    return tensor.double()


def _check_labels(labels: Tensor, count: int, target: Target, side: str) -> None:
    if labels.shape != (count,):
        raise UserError(f"The {side} set has {count} items but labels of shape {tuple(labels.shape)}.")
    if labels.is_floating_point() != target.dtype.is_floating_point:
        raise UserError(f"The {side} labels are {labels.dtype}, and labels of {target.kind} are {target.dtype}.")
    wrong = ~torch.isfinite(labels)
    if isinstance(target, Classes):
        wrong = (labels < 0) | (labels >= target.width)
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        what = f"run from 0 to {target.width - 1}" if isinstance(target, Classes) else "are finite numbers"
        raise UserError(f"The {side} label of item {at} is {labels[at].item()}; labels {what}.")


def _costs(costs: Tensor, count: int) -> Tensor:
    """In float64; refused when they are not one positive finite number for each of ``count`` items."""
    costs = _floats(costs, "costs")
    rule = f"Costs are positive finite numbers, one for each of the {count} pool items"
    if len(costs) != count:
        raise UserError(f"{rule}, and {len(costs)} were given.")
    wrong = ~(torch.isfinite(costs) & (costs > 0))
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        raise UserError(f"{rule}, and that of item {at} is {costs[at].item()}.")
    return costs


def _check_like(inputs: Inputs, pool: Inputs, side: str) -> None:
    """Whether a network that reads the pool's items, and their normalisation, will do for these."""
    one, of_pool = (each[torch.tensor([0])] for each in (inputs, pool))
    if one.shape != of_pool.shape:
        shapes = (tuple(each.shape[1:]) for each in (one, of_pool))
        raise UserError("An item of the {} set has the shape {}, and one of the pool {}.".format(side, *shapes))
    kinds = {one.dtype, of_pool.dtype}
    if torch.uint8 in kinds and any(kind.is_floating_point for kind in kinds):
        raise UserError(
            f"The {side} items are {one.dtype} and the pool's {of_pool.dtype}: all are normalised alike, so store all "
            "alike, as images from 0 to 255 or from 0 to 1."
        )


def _check_finite(inputs: Tensor, side: str) -> None:
    if not inputs.is_floating_point():
        return
    bad = ~torch.isfinite(inputs).flatten(1).all(1)
    if bool(bad.any()):
        raise UserError(f"The {side} input of item {int(bad.nonzero()[0])} holds NaN or infinity; mend or drop it.")
