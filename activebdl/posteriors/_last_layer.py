"""A network as features, and one linear layer that reads them.

B: items of a batch, O: outputs of the network for one item, D: features, E: D, and 1 more for the bias.
"""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from activebdl.errors import UserError
from activebdl.posteriors._layers import last_layer
from activebdl.posteriors._shared import evaluating


def float64(x: Tensor) -> Tensor:
    """The same numbers in float64, on the CPU where the device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


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
