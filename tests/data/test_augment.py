import math

import pytest
import torch
from torch import Tensor

from activebdl import Affine, UserError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def centre(images: Tensor) -> Tensor:
    """Centre of mass ``[B, 2]``, x and y, in shares of the side, from the middle."""
    weights = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    at = (torch.arange(images.shape[-1]) + 0.5) / images.shape[-1] - 0.5
    return torch.stack([(weights.sum(1) * at).sum(1), (weights.sum(2) * at).sum(1)], dim=1)


def dot(n: int, x: float = 0.0, y: float = 0.0) -> Tensor:
    at = (torch.arange(64) + 0.5) / 64 - 0.5
    blob = torch.exp(-((at - x)[None, :] ** 2 + (at - y)[:, None] ** 2) / 0.002)
    return blob.expand(n, 1, 64, 64).clone()


def test_nothing_changes_when_nothing_may() -> None:
    x = torch.rand(3, 1, 9, 9, generator=seeded())
    torch.testing.assert_close(Affine(0, 0, 0, 0)(x, seeded()), x, rtol=0, atol=1e-6)


def test_shifts_are_uniform_in_shares_of_the_side() -> None:
    moved = centre(Affine(0, 0.1, 0, 0)(dot(2000), seeded()))
    assert float(moved.abs().max()) < 0.1 + 1e-3
    assert float(moved.abs().max()) > 0.098
    torch.testing.assert_close(moved.std(0), torch.full((2,), 0.1 / math.sqrt(3)), rtol=0.05, atol=0)
    assert abs(float(torch.corrcoef(moved.T)[0, 1])) < 0.1


def test_a_rotation_keeps_the_distance_and_stays_within_its_degrees() -> None:
    turned = centre(Affine(30, 0, 0, 0)(dot(500, x=0.3), seeded()))
    torch.testing.assert_close(turned.norm(dim=1), torch.full((500,), 0.3), rtol=0.01, atol=0)
    degrees = torch.atan2(turned[:, 1], turned[:, 0]).rad2deg()
    assert 29 < float(degrees.abs().max()) < 30.5
    assert float(degrees.min()) < -25


def test_scales_act_on_each_axis_by_itself() -> None:
    scaled = centre(Affine(0, 0, 0.2, 0)(dot(500, x=0.2, y=0.2), seeded())) / 0.2
    assert 1 / 1.21 < float(scaled.min()) < 1 / 1.15
    assert 1 / 0.85 < float(scaled.max()) < 1 / 0.79
    assert float((scaled[:, 0] - scaled[:, 1]).abs().max()) > 0.2


def test_the_generator_decides_and_each_image_has_its_own_map() -> None:
    x = dot(4)
    assert torch.equal(Affine()(x, seeded(1)), Affine()(x, seeded(1)))
    assert not torch.equal(Affine()(x, seeded(1)), Affine()(x, seeded(2)))
    moved = Affine()(x, seeded(1))
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 4


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(UserError, match="needs images"):
        Affine()(torch.zeros(3, 64), seeded())
