"""What the cycle learns from: a pool of inputs without labels, and a labelled test set that touches no choice.

Inputs are kept as they are stored (uint8 for images) and normalised chunk by chunk on the device.
N: pool items, T: test items, B: items of a chunk, C: classes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from activebdl.errors import UserError
from activebdl.likelihoods import Likelihood
from activebdl.targets import Classes, Label, Numbers, Target


class Inputs(Protocol):
    """Items that are taken by id: a tensor is one, and so is `StreamedInputs`."""

    def __len__(self) -> int: ...
    def __getitem__(self, ids: Tensor, /) -> Tensor: ...


class StreamedInputs:
    """The inputs of a map-style torch ``Dataset``, read item by item, so that it may be larger than memory.

    Args:
        source: ``source[i]`` gives a tensor or array, or a tuple whose first entry is one.
        workers: Processes that read ahead while a chunk is worked on; 0 reads in this process.
    """

    def __init__(self, source: TorchDataset[Any], workers: int = 0) -> None:
        if not hasattr(source, "__len__"):
            raise UserError("A pool needs a map-style Dataset, one with __len__ and __getitem__.")
        self.source = source
        self.workers = workers

    def __len__(self) -> int:
        return len(cast(Sequence[Any], self.source))

    def item(self, id: int) -> Tensor:
        """The input with that id, without its label."""
        found = self.source[id]
        found = found[0] if isinstance(found, tuple | list) else found
        return _single(torch.as_tensor(found))

    def __getitem__(self, ids: Tensor, /) -> Tensor:
        return torch.stack([self.item(int(i)) for i in ids])

    def stream(self, ids: Tensor, size: int) -> Iterator[Tensor]:
        """The items with these ids, in this order, in stacks of ``size``."""
        reader = _ItemsByPosition(self, ids)
        return iter(DataLoader(reader, batch_size=size, num_workers=self.workers, collate_fn=torch.stack))


class _ItemsByPosition(TorchDataset[Tensor]):
    def __init__(self, inputs: StreamedInputs, ids: Tensor) -> None:
        self.inputs, self.ids = inputs, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Tensor:
        return self.inputs.item(int(self.ids[position]))


def chunks(inputs: Inputs, ids: Tensor, size: int) -> Iterator[Tensor]:
    """The items with these ids, in this order, in stacks ``[<=size, ...]``."""
    if isinstance(inputs, StreamedInputs):
        return inputs.stream(ids, size)
    return (inputs[ids[start : start + size]] for start in range(0, len(ids), size))


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
        if self.target_inputs is not None:
            _check_targets(self.target_inputs, self.input_shape)
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

    @property
    def costs_digest(self) -> str | None:
        """Tells one list of costs from another."""
        return None if self.costs is None else hashlib.blake2b(self.costs.numpy().tobytes(), digest_size=8).hexdigest()

    @staticmethod
    def from_arrays(
        pool: Tensor | np.ndarray[Any, Any],
        labels: Tensor | np.ndarray[Any, Any] | None,
        test: Tensor | np.ndarray[Any, Any],
        test_labels: Tensor | np.ndarray[Any, Any],
        *,
        name: str = "custom",
        classes: Sequence[str] | None = None,
        numbers: Numbers | None = None,
        normalise: Normalise | None = None,
        costs: Tensor | np.ndarray[Any, Any] | None = None,
        target_inputs: Tensor | np.ndarray[Any, Any] | None = None,
    ) -> "ActiveDataset":
        """A data set of the user's own tensors or arrays.

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
        """
        x, t = _inputs(pool), _inputs(test)
        target = None if classes is None and numbers is None else _target(classes, numbers)
        column = _floats if isinstance(target, Numbers) else _integers
        y = None if labels is None else column(labels, "labels")
        test_y = column(test_labels, "test_labels")
        if normalise is None:
            normalise = Normalise(scale=255.0) if x.dtype == torch.uint8 else Normalise()
        costs = None if costs is None else _floats(costs, "costs")
        if target is None:
            highest = max(int(v.max()) for v in (y, test_y) if v is not None and len(v))
            target = Classes(tuple(str(c) for c in range(highest + 1)))
        wanted = None if target_inputs is None else _inputs(target_inputs)
        return ActiveDataset(name, x, y, t, test_y, target, normalise, costs, wanted)

    @staticmethod
    def from_datasets(
        pool: TorchDataset[Any],
        test: TorchDataset[Any],
        *,
        classes: Sequence[str] | None = None,
        numbers: Numbers | None = None,
        name: str = "custom",
        labels: Tensor | np.ndarray[Any, Any] | None = None,
        normalise: Normalise | None = None,
        costs: Tensor | np.ndarray[Any, Any] | None = None,
        workers: int = 0,
    ) -> "ActiveDataset":
        """A data set of map-style torch ``Dataset`` objects, whose inputs are streamed and never held whole.

        Args:
            pool: ``pool[i]`` is an input, or a tuple that starts with one.
            test: ``test[i]`` is ``(input, label)``.
            classes: Names of the C classes, or
            numbers: when labels are numbers, ``Numbers()`` or one that knows more of their noise.
            name: How it is called in reports.
            labels: ``[N]`` for the data set's own oracle; None when an oracle of yours gives them.
            normalise: How stored inputs become what a network reads; unchanged when not given.
            costs: ``[N]`` positive numbers, what a label of each item costs; see "per_cost_" in `activebdl.strategies`.
            workers: Processes that read ahead.
        """
        target = _target(classes, numbers)
        column = _floats if isinstance(target, Numbers) else _integers
        test_labels = _read_labels(test, target)
        y = None if labels is None else column(labels, "labels")
        pool_inputs, test_inputs = StreamedInputs(pool, workers), StreamedInputs(test, workers)
        normalise = normalise or Normalise()
        costs = None if costs is None else _floats(costs, "costs")
        return ActiveDataset(name, pool_inputs, y, test_inputs, test_labels, target, normalise, costs)


@dataclass(frozen=True)
class Labelled:
    """The labelled items that a network is fitted to, small enough to lie on the device whole.

    Args:
        inputs: ``[n, ...]`` as stored, on the device.
        labels: ``[n]`` int64 for classes, float in standard units for numbers (see `activebdl.targets`), on the device.
        likelihood: How the network's outputs tell of them.
        normalise: Turns stored inputs into what a network reads.
    """

    inputs: Tensor
    labels: Tensor
    likelihood: Likelihood
    normalise: Normalise = field(default_factory=Normalise)

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


def _inputs(x: Tensor | np.ndarray[Any, Any]) -> Tensor:
    tensor = _tensor(x, "inputs")
    if tensor.dim() < 2:
        raise UserError(f"Inputs need at least two axes, items and features, not the shape {tuple(tensor.shape)}.")
    return _single(tensor)


def _target(classes: Sequence[str] | None, numbers: Numbers | None) -> Target:
    """What a label is, from two ways to say it."""
    if (classes is None) == (numbers is None):
        raise UserError("Say what a label is: either classes=[...], their names, or numbers=Numbers().")
    if classes is not None:
        return Classes(tuple(classes))
    if not isinstance(numbers, Numbers):
        raise UserError(f"numbers= takes Numbers(), and not {numbers!r}.")
    return numbers


def _read_labels(data: TorchDataset[Any], target: Target) -> Tensor:
    """The labels of a map-style data set whose items are ``(input, label)``."""
    labels: list[Label] = []
    for i in range(len(cast(Sequence[Any], data))):
        given = data[i][1]
        try:
            labels.append(target.label(given))
        except UserError as error:
            raise UserError(f"The test label of item {i} is {given!r}; {error}") from None
        if labels[-1] is None:
            raise UserError(f"The test label of item {i} is missing.")
    return torch.tensor(labels, dtype=target.dtype)


def _single(tensor: Tensor) -> Tensor:
    """float32 in place of numpy's float64 and of half precision: what networks are made of."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _tensor(given: object, what: str) -> Tensor:
    try:
        return torch.as_tensor(given).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what} must be a tensor or an array of numbers: {error}.") from None


def _integers(y: Tensor | np.ndarray[Any, Any], what: str) -> Tensor:
    tensor = _tensor(y, what)
    if tensor.is_floating_point() or tensor.dim() != 1:
        raise UserError(
            f"{what} must be one integer per item, not {tensor.dtype} of shape {tuple(tensor.shape)}; "
            "where they are numbers and not classes, say numbers=Numbers()."
        )
    return tensor.long()


def _floats(y: Tensor | np.ndarray[Any, Any], what: str) -> Tensor:
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


def _check_targets(inputs: Inputs, shape: tuple[int, ...]) -> None:
    if len(inputs) == 0:
        raise UserError("target_inputs has no items; leave it out, and the pool stands for them.")
    given = tuple(inputs[torch.tensor([0])].shape[1:])
    if given != shape:
        raise UserError(f"An item of target_inputs has the shape {given}, and one of the pool {shape}.")


def _check_finite(inputs: Tensor, side: str) -> None:
    if not inputs.is_floating_point():
        return
    bad = ~torch.isfinite(inputs).flatten(1).all(1)
    if bool(bad.any()):
        raise UserError(f"The {side} input of item {int(bad.nonzero()[0])} holds NaN or infinity; mend or drop it.")
