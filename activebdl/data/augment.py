"""Augmentation of training batches, on the device, each image with its own transformation."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from activebdl.errors import UserError


class Augmentation(Protocol):
    """Random changes to a batch that leave its labels right."""

    def __call__(self, x: Tensor, generator: torch.Generator, /) -> Tensor:
        """Changes ``x [B, ...]``, each item by itself."""
        ...


@dataclass(frozen=True)
class Affine:
    """Random affine maps: what handwriting and handling do to a digit, and no label changes by it.

    Args:
        rotation: Degrees, uniform in [-rotation, rotation].
        shift: Share of the image's side, uniform in [-shift, shift] on each axis.
        scale: Uniform factor in [1 - scale, 1 + scale] on each axis.
        shear: Uniform in [-shear, shear], as the tangent of the angle.
    """

    rotation: float = 12.0
    shift: float = 0.07
    scale: float = 0.10
    shear: float = 0.15

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Transforms float images ``[B, channels, H, W]``; what comes in from outside repeats the border."""
        if x.dim() != 4:
            raise UserError(f"Affine augmentation needs images [B, channels, H, W], not inputs of shape {[*x.shape]}.")
        maps = self.sample(len(x), generator).to(x.device, x.dtype)
        grid = F.affine_grid(maps, list(x.shape), align_corners=False)
        if x.device.type == "mps":  # which knows no border padding; clamped to the outermost pixels, none is needed
            inside = 1 - 1 / torch.tensor([x.shape[3], x.shape[2]], dtype=x.dtype, device=x.device)
            return F.grid_sample(x, torch.minimum(torch.maximum(grid, -inside), inside), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Maps ``[count, 2, 3]`` from output to input coordinates, both in [-1, 1]."""
        u = torch.rand(count, 6, generator=generator) * 2 - 1
        angle = u[:, 0] * (self.rotation * torch.pi / 180)
        scale_x, scale_y = 1 + self.scale * u[:, 1], 1 + self.scale * u[:, 2]
        shear = self.shear * u[:, 3]
        cos, sin = angle.cos(), angle.sin()
        # rotation @ shear @ scaling, then the shift (the image's side is 2 in these coordinates)
        top = torch.stack([cos * scale_x, (cos * shear - sin) * scale_y, 2 * self.shift * u[:, 4]], dim=1)
        bottom = torch.stack([sin * scale_x, (sin * shear + cos) * scale_y, 2 * self.shift * u[:, 5]], dim=1)
        return torch.stack([top, bottom], dim=1)


AUGMENTATIONS: dict[str, type[Any]] = {"affine": Affine}
"""By name, as in YAML."""
