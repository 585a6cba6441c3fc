"""Augmentation of training batches, on the device, each image with its own transformation."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from activebdl.errors import UserError


class Augmentation(Protocol):
    """Random changes to a batch that leave its labels right.

    In training and pretraining it is given stored values; behind `activebdl.views.Views` normalised ones, and all items
    of a batch as the channels of one image, so that there it must be a map of where pixels come from.
    """

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
        flip: Probability with which left and right change places; not for digits.

    Raises:
        UserError: A number that cannot be; or, when it is called, the items are no images.
    """

    rotation: float = 12.0
    shift: float = 0.07
    scale: float = 0.10
    shear: float = 0.15
    flip: float = 0.0

    def __post_init__(self) -> None:
        sizes = (self.rotation, self.shift, self.scale, self.shear)
        if not all(0 <= size < math.inf for size in sizes) or self.scale >= 1:
            raise UserError(f"rotation, shift, scale and shear are 0 or more, and scale below 1; they are {sizes}.")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip is a probability, from 0 to 1, and is {self.flip}.")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Transforms float images ``[B, channels, H, W]``; what comes in from outside repeats the border."""
        if x.dim() != 4:
            raise UserError(f"This augmentation needs images [B, channels, H, W], not inputs of shape {[*x.shape]}.")
        grid = self.grid(x, generator)
        if x.device.type == "mps":  # which knows no border padding; clamped to the outermost pixels, none is needed
            inside = 1 - 1 / torch.tensor([x.shape[3], x.shape[2]], dtype=x.dtype, device=x.device)
            return F.grid_sample(x, torch.minimum(torch.maximum(grid, -inside), inside), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    def grid(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Where each output pixel comes from, ``[B, H, W, 2]``: x and y, from -1 to 1 over the image."""
        maps = self.sample(len(x), generator)
        wide = x.shape[3] / x.shape[2]  # each axis runs from -1 to 1, however long it is
        maps[:, :, :2] *= torch.tensor([[1.0, 1 / wide], [wide, 1.0]])
        maps = maps.to(x.device, x.dtype)
        return F.affine_grid(maps, list(x.shape), align_corners=False)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Maps ``[count, 2, 3]`` from output to input coordinates, of square images and both in [-1, 1]."""
        u = torch.rand(count, 6, generator=generator) * 2 - 1
        angle = u[:, 0] * (self.rotation * torch.pi / 180)
        scale_x, scale_y = 1 + self.scale * u[:, 1], 1 + self.scale * u[:, 2]
        shear = self.shear * u[:, 3]
        cos, sin = angle.cos(), angle.sin()
        # rotation @ shear @ scaling, then the shift (the image's side is 2 in these coordinates)
        top = torch.stack([cos * scale_x, (cos * shear - sin) * scale_y, 2 * self.shift * u[:, 4]], dim=1)
        bottom = torch.stack([sin * scale_x, (sin * shear + cos) * scale_y, 2 * self.shift * u[:, 5]], dim=1)
        maps = torch.stack([top, bottom], dim=1)
        if self.flip > 0:  # no draw where none is wanted, so that the maps of a seed are those without this option
            maps[:, 0] *= torch.where(torch.rand(count, generator=generator) < self.flip, -1.0, 1.0)[:, None]
        return maps


@dataclass(frozen=True)
class Elastic(Affine):
    """Affine maps, and lines that bend: each image is also warped by a smooth field of its own.

    The field is Gaussian at the points of a coarse grid, and bicubic between them (after Simard, Steinkraus and Platt
    2003, "Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis").

    Args:
        bend: Standard deviation of the displacement at a point of the grid, on each axis, as a share of the side.
        points: Of the grid, along each side: fewer bend whole strokes, more make them tremble.

    Raises:
        UserError: As for `Affine`; or ``bend`` is negative, or there are fewer than 2 points.
    """

    bend: float = 0.03
    points: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.bend < math.inf or self.points < 2:
            raise UserError(f"bend is 0 or more and points 2 or more, not {self.bend} and {self.points}.")

    def grid(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """As `Affine.grid`, with the field added."""
        affine = super().grid(x, generator)
        coarse = 2 * self.bend * torch.randn(len(x), 2, self.points, self.points, generator=generator)
        field = F.interpolate(coarse.to(x.device, x.dtype), size=x.shape[2:], mode="bicubic", align_corners=True)
        return affine + field.movedim(1, 3)


@dataclass(frozen=True)
class Handwriting(Elastic):
    """Elastic maps, and strokes that grow thicker or thinner, as by another pen; for bright strokes on a dark ground.

    An image is mixed with what a 3 x 3 maximum (dilation) or minimum (erosion) makes of it. The maps go further than
    those of `Affine` do by default: as far as was best on digits.

    Args:
        stroke: Highest share of either, uniform in [-stroke, stroke]; above 0 is thicker.

    Raises:
        UserError: As for `Elastic`; or ``stroke`` is no share.
    """

    rotation: float = 15.0
    shift: float = 0.10
    scale: float = 0.15
    shear: float = 0.20
    stroke: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stroke <= 1:
            raise UserError(f"stroke is a share, from 0 to 1, and is {self.stroke}.")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """As `Affine`, and then the strokes."""
        x = super().__call__(x, generator)
        share = (torch.rand(len(x), 1, 1, 1, generator=generator) * 2 - 1).to(x.device, x.dtype) * self.stroke
        sign = torch.where(share > 0, 1.0, -1.0).to(x.dtype)
        return torch.lerp(x, sign * _dilated(sign * x), share.abs())


def _dilated(x: Tensor) -> Tensor:
    """The 3 x 3 maximum around each pixel; row by row and then column by column, ten times as fast as max_pool2d."""
    for dim in (2, 3):
        most = x.shape[dim] - 1
        before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, most)], dim)
        after = torch.cat([x.narrow(dim, 1, most), x.narrow(dim, most, 1)], dim)
        x = torch.maximum(x, torch.maximum(before, after))
    return x


def strong() -> Elastic:
    """Further than images are changed in training: what the pool itself must be recognised through."""
    return Elastic(rotation=20, shift=0.1, scale=0.2, shear=0.25)


AUGMENTATIONS: dict[str, type[Any]] = {"affine": Affine, "elastic": Elastic, "handwriting": Handwriting}
"""By name, as in YAML."""
