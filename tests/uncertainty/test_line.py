import io
from dataclasses import replace

import matplotlib.image
import pytest
import torch

from activebdl import MCDropout
from activebdl.posteriors.ensemble import Ensemble
from activebdl.uncertainty.line import TRAINING, Band, band, draw_bands, points

QUICK = replace(TRAINING, steps=600)


@pytest.fixture(scope="module")
def bands() -> list[Band]:
    return [band("mc_dropout", MCDropout(QUICK), draws=30), band("ensemble", Ensemble(3, training=QUICK), draws=3)]


def test_the_points_lie_on_the_line() -> None:
    x, y = points()
    assert (len(x), float(x[0]), float(y[-1])) == (10, pytest.approx(1.1), pytest.approx(33.9))


def test_it_is_narrow_where_there_is_data_and_wide_where_there_is_none(bands: list[Band]) -> None:
    for told in bands:
        inside = (told.x > 1.1) & (told.x < 11.3)
        sd = told.moments.epistemic.sqrt()
        assert sd[-1] > 2 * sd[inside].mean()
        assert (told.moments.predicted - 3 * told.x)[inside].abs().max() < 4


def test_the_picture_shows_every_posterior(bands: list[Band]) -> None:
    one, two = (matplotlib.image.imread(io.BytesIO(draw_bands(some))) for some in (bands[:1], bands))
    assert two.shape[1] == 2 * one.shape[1]
    assert torch.from_numpy(two).std() > 0.1
