"""What every posterior does alike: draws by their outputs, and modules called with other weights."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from activebdl.modes import evaluating


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities over the last axis, in float32 or better, whatever the network computes in."""
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(dim=-1)


class OutputDraws(ABC):
    """K functions that give a network's outputs; log-probabilities follow from them. O: outputs for one item."""

    @property
    @abstractmethod
    def count(self) -> int:
        """K."""

    @abstractmethod
    def outputs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, O]``, without gradients."""

    def log_probs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, C]``, in nats."""
        with torch.inference_mode():
            return log_softmax(self.outputs(x))


class WeightDraws(OutputDraws):
    """One module with K sets of weights.

    Args:
        module: It is never changed, nor is its mode.
        weights: For each draw, by name, the parameters and buffers that stand in for the module's own.
    """

    def __init__(self, module: nn.Module, weights: Iterable[Mapping[str, Tensor]]) -> None:
        own = _tensors(module)
        self.module = module
        self.weights = [{name: _laid_out_as(own[name], drawn) for name, drawn in draw.items()} for draw in weights]

    @property
    def count(self) -> int:
        """K."""
        return len(self.weights)

    def outputs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, O]``."""
        with evaluating(self.module), torch.inference_mode():
            return torch.stack([call_with(self.module, draw, x) for draw in self.weights], dim=1)


def call_with(module: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The module's output on ``x [B, ...]`` with other parameters and buffers in place of those named.

    One that stands in several places is replaced in all of them. torch's own way to do so, ``tie_weights``, leaves the
    replacement behind in a submodule that is used twice.
    """
    own = _tensors(module)
    replaced = {id(own[name]): value for name, value in weights.items()}
    everywhere = {
        f"{prefix}.{key}".lstrip("."): replaced[id(tensor)]
        for prefix, child in module.named_modules()
        for key, tensor in [*child._parameters.items(), *child._buffers.items()]
        if id(tensor) in replaced
    }
    return functional_call(module, everywhere, (x,), tie_weights=False)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _laid_out_as(own: Tensor, drawn: Tensor) -> Tensor:
    """The same numbers in the layout in memory that the module's own have: convolutions are twice as fast for it.

    Arithmetic keeps that of channels_last weights, but not where there is one channel, for then two layouts are alike.
    """
    return drawn if drawn.stride() == own.stride() else torch.empty_like(own, dtype=drawn.dtype).copy_(drawn)
