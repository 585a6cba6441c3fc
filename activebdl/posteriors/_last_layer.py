"""A network as features, and one linear layer that reads them.

B: items of a batch, K: draws, O: outputs of the network for one item, D: features, E: D, and 1 more for the bias.
"""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from activebdl.devices import float64
from activebdl.errors import UserError
from activebdl.modes import evaluating
from activebdl.posteriors._layers import last_layer
from activebdl.posteriors._shared import OutputDraws


@dataclass(frozen=True)
class LastLayer:
    """A network, seen as features and a linear layer that reads them.

    Args:
        module: The whole network. It is never changed, nor is its mode.
        name: The layer's name in it.
        mean: ``theta* [O, E]``, float64: the layer's weight, and its bias as the last column.
        bias: Whether it has one.
    """

    module: nn.Module
    name: str
    mean: Tensor
    bias: bool

    @staticmethod
    def of(module: nn.Module, example: Tensor) -> "LastLayer":
        """Finds the last layer.

        Raises:
            UserError: The output is not that of a linear layer called once, on one row of features an item.
        """
        name = last_layer(module, example)
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        bias = [] if layer.bias is None else [layer.bias[:, None]]  # pyright: ignore[reportUnnecessaryComparison]
        mean = float64(torch.cat([layer.weight, *bias], dim=1).detach())
        head = LastLayer(module, name, mean, bias=bool(bias))
        calls, outputs = head.run(example)
        once = len(calls) == 1 and calls[0].shape == (len(example), layer.in_features)
        linear = F.linear(calls[0], layer.weight, layer.bias).detach() if once else outputs
        if not once or not torch.allclose(linear, outputs, rtol=1e-3, equal_nan=True):
            raise UserError(
                f"The last layer '{name}' of {type(module).__name__} must be called once, on one row of features for "
                "each item, and its output must be the network's."
            )
        return head

    @staticmethod
    def find(module: nn.Module, example: Tensor) -> "LastLayer | None":
        """As `of`, and None where there is no such layer."""
        try:
            return LastLayer.of(module, example)
        except UserError:
            return None

    def run(self, x: Tensor, *, dropping: bool = False) -> tuple[list[Tensor], Tensor]:
        """What the layer reads at each of its calls, and the network's output; with dropout on demand."""
        read: list[Tensor] = []

        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            read.append(args[0] if args else kwargs["input"])

        handle = self.module.get_submodule(self.name).register_forward_pre_hook(hook, with_kwargs=True)
        try:
            with evaluating(self.module), _dropping(self.module, dropping), torch.no_grad():
                output = self.module(x)
        finally:
            handle.remove()
        return read, output

    def features(self, x: Tensor, *, dropping: bool = False) -> Tensor:
        """``[B, ...] -> [B, D]``; with dropout on demand, which obeys torch's global generators."""
        return self.run(x, dropping=dropping)[0][0]


@dataclass(frozen=True)
class HeadDraws(OutputDraws):
    """K last layers over the same features.

    Args:
        head: The trained network.
        heads: ``[K, O, E]``: weight, and bias as the last column where the layer has one.
    """

    head: LastLayer
    heads: Tensor

    @staticmethod
    def of(head: LastLayer, weights: Sequence[Mapping[str, Tensor]]) -> "HeadDraws":
        """The draws that these weights of the last layer, by their names in the whole network, make."""
        prefix = f"{head.name}." if head.name else ""
        parts = ("weight", "bias") if head.bias else ("weight",)
        drawn = [[draw[f"{prefix}{part}"] for part in parts] for draw in weights]
        return HeadDraws(head, torch.stack([torch.cat([w, *(b[:, None] for b in bias)], dim=1) for w, *bias in drawn]))

    @property
    def count(self) -> int:
        """K."""
        return len(self.heads)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer reads, ``[B, ...] -> [B, D]``: the same for all draws."""
        return self.head.features(x)

    def outputs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, O]``: the features once, and one matrix product for all heads."""
        with torch.inference_mode():
            features = self.features(x)
            if features.dtype != torch.float64:
                features = features.float()
            heads = self.heads.to(features).flatten(0, 1)  # [K O, E]
            weight, bias = (heads[:, :-1], heads[:, -1]) if self.head.bias else (heads, None)
            return F.linear(features, weight, bias).unflatten(1, self.heads.shape[:2])


def feature_reader(posterior: object, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Gives what the last layer of a posterior's network reads, ``[B, ...] -> [B, D]``; of an ensemble, of each member.

    Raises:
        UserError: It has no ``module`` and no ``members``, or that ends in no linear layer.
    """
    members: Sequence[Any] = getattr(posterior, "members", [posterior])
    modules = [member.module for member in members if isinstance(getattr(member, "module", None), nn.Module)]
    if len(modules) < len(members):
        raise UserError(f"{type(posterior).__name__} has no module, whose features a strategy could look at.")
    heads = [LastLayer.of(module, example) for module in modules]
    return lambda x: torch.cat([head.features(x) for head in heads], dim=1)


def check_features(method: object, module: nn.Module, example: Tensor) -> None:
    """Refuses what `feature_reader` would refuse once it is fitted, before any label is asked for.

    Args:
        method: The inference method.
        module: A fresh network.
        example: A normalised batch that it can read, two items, on its device.

    Raises:
        UserError: The method says that its posterior has no module, or the network ends in no linear layer.
    """
    if not getattr(method, "has_features", True):
        raise UserError(f"{type(method).__name__} has no module, whose features a strategy could look at.")
    LastLayer.of(module, example)


def drops(module: nn.Module) -> bool:
    """Whether it has nn.Dropout modules that drop something."""
    return any(isinstance(child, _DropoutNd) and child.p > 0 for child in module.modules())


@contextlib.contextmanager
def _dropping(module: nn.Module, on: bool) -> Generator[None]:
    """Puts the dropout modules alone in train mode for a while, within `evaluating`."""
    found = [child for child in module.modules() if on and isinstance(child, _DropoutNd)]
    try:
        for child in found:
            child.training = True
        yield
    finally:
        for child in found:
            child.training = False
