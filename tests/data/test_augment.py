import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from activebdl import Affine, Elastic, Handwriting, UserError
from activebdl.data.augment import _dilated  # pyright: ignore[reportPrivateUsage]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def centre(images: Tensor) -> Tensor:
    """Centre of mass ``[B, 2]``, x and y, in shares of the side, from the middle."""
    weights = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    at = (torch.arange(images.shape[-1]) + 0.5) / images.shape[-1] - 0.5
    return torch.stack([(weights.sum(1) * at).sum(1), (weights.sum(2) * at).sum(1)], dim=1)


def centre_of(images: Tensor) -> Tensor:
    """As `centre`, in pixels, of images of any sides."""
    weights = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    across, down = (torch.arange(side) + 0.5 - side / 2 for side in (images.shape[3], images.shape[2]))
    return torch.stack([(weights.sum(1) * across).sum(1), (weights.sum(2) * down).sum(1)], dim=1)


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


def test_a_rotation_is_one_on_images_that_are_no_squares_too() -> None:
    square = dot(500, x=0.3)
    bar = torch.cat([square, torch.zeros(500, 1, 64, 32)], 3)[:, :, :, :96].roll(16, 3)  # the same dot, on 64 x 96
    turned = centre(Affine(30, 0, 0, 0)(square, seeded())) * 64
    wide = centre_of(Affine(30, 0, 0, 0)(bar, seeded()))
    torch.testing.assert_close(wide, turned, rtol=0, atol=0.2)


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


def test_flips_mirror_their_share_of_the_images() -> None:
    x = dot(2000, x=0.3, y=0.1)
    flipped = Affine(0, 0, 0, 0, flip=0.25)(x, seeded())
    left = centre(flipped)[:, 0] < 0
    assert abs(float(left.float().mean()) - 0.25) < 3 * math.sqrt(0.25 * 0.75 / 2000)
    torch.testing.assert_close(flipped[left], x[: int(left.sum())].flip(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(flipped[~left], x[: int((~left).sum())], rtol=0, atol=1e-5)


def test_a_field_displaces_by_its_deviation_on_both_axes_and_smoothly() -> None:
    x = torch.zeros(4000, 1, 33, 33)
    still = Elastic(0, 0, 0, 0, bend=0).grid(x, seeded())
    field = (Elastic(0, 0, 0, 0, bend=0.02, points=5).grid(x, seeded()) - still) / 2  # in shares of the side
    at_points = field[:, ::8, ::8]  # 5 points of the grid, 8 pixels apart: the field is what was drawn there
    assert float((at_points.std(0) / 0.02 - 1).abs().max()) < 0.06
    assert float(at_points.mean(0).abs().max()) < 4 * 0.02 / math.sqrt(4000)
    neighbours = torch.stack([at_points[:, :-1].flatten(), at_points[:, 1:].flatten()])
    assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 0.02  # points know nothing of each other
    step = (field[:, :, 1:] - field[:, :, :-1]).std()
    assert float(step) < 0.25 * 0.02  # and what lies between them is smooth


def test_a_field_without_bend_is_the_affine_map_alone() -> None:
    x = torch.rand(3, 1, 9, 9, generator=seeded())
    torch.testing.assert_close(Elastic(bend=0)(x, seeded(1)), Affine()(x, seeded(1)))
    assert float((Elastic(bend=0.05)(x, seeded(1)) - Affine()(x, seeded(1))).abs().max()) > 0.05


def test_strokes_grow_and_shrink_between_erosion_and_dilation() -> None:
    x = torch.zeros(2000, 1, 9, 9)
    x[:, :, 3:6] = 0.8  # a stroke of three rows: one when it is eroded, five when it is dilated
    pens = Handwriting(0, 0, 0, 0, bend=0, stroke=0.6)(x, seeded())[:, 0, :, 4]
    growth, loss = pens[:, 2] / 0.8, 1 - pens[:, 3] / 0.8  # of a row beside the stroke, and of its outermost row
    torch.testing.assert_close(pens[:, 4], torch.full((2000,), 0.8))
    assert float(growth.min()) > -1e-5 and float(loss.min()) > -1e-5
    assert float(torch.minimum(growth, loss).max()) < 1e-5  # one pen or the other
    share = growth - loss
    assert 0.59 < float(share.max()) < 0.6001 and -0.6001 < float(share.min()) < -0.59
    assert float(share.std()) == pytest.approx(1.2 / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 5, 9), (1, 1, 1, 2)])
def test_dilation_is_the_largest_of_nine(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=seeded())
    assert torch.equal(_dilated(x), F.max_pool2d(x, 3, stride=1, padding=1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.5},
        {"bend": -0.1},
        {"bend": math.nan},
        {"points": 1},
        {"stroke": 2},
        {"rotation": math.nan},
        {"shift": -1},
        {"scale": 1},
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Handwriting(**wrong)  # pyright: ignore[reportArgumentType]
