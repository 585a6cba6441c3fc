import io

import matplotlib.image
import numpy as np
import pytest

from activebdl import MAP, MCDropout, Training
from activebdl.uncertainty.moons import Surface, draw_surfaces, surface, two_moons

QUICK = Training(steps=300, learning_rate=1e-2)


def test_the_moons_are_centred_and_reach_into_each_other() -> None:
    moons = two_moons(400)
    assert moons.inputs.mean(0).abs().max() < 0.1
    first, second = (moons.inputs[moons.labels == c] for c in (0, 1))
    assert len(first) == len(second) == 200
    # each moon's horn lies inside the other's hollow, so no straight line parts them
    assert first[:, 0].max() > second[:, 0].median() - 0.1
    assert second[:, 0].min() < first[:, 0].median() + 0.1


@pytest.fixture(scope="module")
def surfaces() -> list[Surface]:
    return [surface("map", MAP(QUICK), draws=5), surface("mc_dropout", MCDropout(QUICK), draws=20)]


def test_a_surface_is_right_where_the_moons_are(surfaces: list[Surface]) -> None:
    moons = two_moons()
    for found in surfaces:
        side = len(found.near)
        at = ((moons.inputs + 2) / 4 * (side - 1)).round().long()
        told = found.near[at[:, 1], at[:, 0]] > 0.5  # [row is y, column is x]
        assert (told == moons.labels.bool()).float().mean() > 0.9


def test_the_plain_network_never_disagrees_and_dropout_does(surfaces: list[Surface]) -> None:
    plain, dropout = surfaces
    assert plain.disagreement.abs().max() < 1e-6
    assert 0.05 < dropout.disagreement.max() <= np.log(2) + 1e-6
    assert dropout.disagreement.min() >= 0


def test_the_picture_has_a_column_for_each(surfaces: list[Surface]) -> None:
    one, two = (matplotlib.image.imread(io.BytesIO(draw_surfaces(s))) for s in (surfaces[:1], surfaces))
    assert two.shape[1] > one.shape[1] + 200
    assert two.std() > 0.1
