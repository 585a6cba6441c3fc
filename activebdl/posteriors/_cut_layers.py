"""A layer with only the rows and columns that one draw of MC-dropout keeps."""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activebdl.posteriors._masks import Site

_MANY_CHANNELS = 128  # above this many, picking channels is as fast as multiplying by ones and zeros

Role = Literal["cut", "fold", "gather", "mask"]
"""What becomes of a dropout whose mask is known.

cut: the layer before it computes only what lives, the layer behind it reads only that;
fold: the mask is multiplied into the columns of the layer behind it;
gather: the live channels are taken out of its input, the convolution behind it reads only those;
mask: its input is multiplied by the mask.
"""


@dataclass(frozen=True)
class Dropped:
    """One dropout of the graph, after it has sunk.

    Args:
        site: Of the mask as drawn, where the dropout stood in the module.
        repeat: How many units each entry of the mask stands for, since a flattening was passed.
        role: See `Role`.
        before: The layer that computes its input, when the role is "cut".
        after: The layer that reads its output, unless the role is "mask".
    """

    site: Site
    repeat: int
    role: Role
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Weights:
    """The live rows and columns of one layer, for one draw; dropout's scale is in them."""

    weight: Tensor
    bias: Tensor | None


def cut(
    layer: nn.Module, rows: Tensor | None, columns: tuple[Dropped, Tensor] | None, layout: torch.memory_format
) -> Weights:
    """The weights of a layer for one draw: live rows, and live columns times dropout's scale."""
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    weight, bias = layer.weight, layer.bias
    if rows is not None:
        weight = weight.index_select(0, rows)
        bias = None if bias is None else bias.index_select(0, rows)
    if columns is not None:
        dropped, keep = columns
        if dropped.role == "fold":
            keep = keep.repeat_interleave(dropped.repeat).view(-1, *([1] * (weight.dim() - 2)))
            weight = weight * (keep.to(weight.dtype) * dropped.site.scale)
        else:
            kept = live(keep.repeat_interleave(dropped.repeat), dropped.repeat)
            weight = weight.index_select(1, kept) * (dropped.site.scale if bool(keep.any()) else 0.0)
    if weight.dim() == 4:
        # contiguous would leave weights of one channel as they are, and the layer would take them for the other layout
        weight = weight.clone(memory_format=layout)
    return Weights(weight, bias)


def live(keep: Tensor, at_least: int = 1) -> Tensor:
    """Positions that are kept. When none is, the first ones, whose weights become zero: no layer likes to be empty."""
    kept = keep.flatten().nonzero().flatten()
    return kept if len(kept) else torch.arange(at_least, device=keep.device)


def apply(layer: nn.Module, x: Tensor, weights: Weights) -> Tensor:
    """The layer on ``x``, with other weights."""
    if isinstance(layer, nn.Linear):
        return linear(x, weights.weight, weights.bias)
    convolve = getattr(layer, "_conv_forward")  # noqa: B009 - the public call would use the layer's own weights
    return cast(Tensor, convolve(x, weights.weight, weights.bias))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x weight^T + bias``, by oneDNN where it can: MKL's product runs at half the rate on processors of AMD."""
    plain = x.is_cpu and x.dtype == weight.dtype == torch.float32 and x.dim() == 2 and len(x) > 0
    beyond_it = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    if plain and not beyond_it and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
    return F.linear(x, weight, bias)


def take_channels(x: Tensor, wanted: Tensor) -> Tensor:
    """Some channels of ``x [B, channels, ...]``, in the layout of ``x``."""
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return x.index_select(1, wanted)
    rows = x.permute(0, 2, 3, 1)
    if x.is_cpu and x.shape[1] <= _MANY_CHANNELS:
        # a product of finite numbers with ones and zeros is exact, and three times as fast as picking one by one
        chosen = torch.eye(x.shape[1], dtype=x.dtype).index_select(0, wanted)
        taken = linear(rows.reshape(-1, x.shape[1]), chosen, None).view(*rows.shape[:3], len(wanted))
    else:
        taken = rows.index_select(3, wanted)
    return taken.permute(0, 3, 1, 2)
