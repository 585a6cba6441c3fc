import io
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from activebdl import MAP, ActiveDataset, MCDropout, Training, UserError
from activebdl.uncertainty import (
    Separation,
    Surface,
    draw_separation,
    draw_surfaces,
    separation,
    separation_table,
    strange_images,
    surface,
    two_moons,
)

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


@pytest.fixture
def images() -> ActiveDataset:
    """A bright bar, upright or lying: a network that knows both has never seen noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (80,), generator=generator)
    pictures = torch.zeros(80, 1, 8, 8, dtype=torch.uint8)
    at = torch.randint(1, 7, (80,), generator=generator)
    for picture, label, where in zip(pictures, labels, at, strict=True):
        picture[0, :, where] = 255 if label == 0 else 0
        if label == 1:
            picture[0, where, :] = 255
    return ActiveDataset.from_arrays(pictures[:60], labels[:60], pictures[60:], labels[60:], name="bars")


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2))


def told(data: ActiveDataset, **options: Any) -> Separation:
    assert isinstance(data.test, Tensor)
    strange = {"same": data.test, **strange_images(data.test, {})}
    return separation("mc_dropout", MCDropout(QUICK), network, data, strange, labels=40, **options)


def test_the_same_images_cannot_be_told_apart(images: ActiveDataset) -> None:
    found = told(images)
    assert found.accuracy > 0.9
    assert found.auroc["same"] == (0.5, 0.5)
    for by_entropy, by_bald in found.scores.values():
        assert len(by_entropy) == len(by_bald) == 20
        assert (by_bald <= by_entropy + 1e-6).all()


def test_auroc_is_the_share_of_pairs_in_the_right_order(images: ActiveDataset) -> None:
    found = told(images, images=15)
    for which in (0, 1):
        known, noise = found.scores["known"][which], found.scores["noise"][which]
        pairs = (noise[:, None] > known).double() + 0.5 * (noise[:, None] == known).double()
        assert abs(found.auroc["noise"][which] - float(pairs.mean())) < 1e-9


def test_strange_images_are_strange() -> None:
    digits = torch.arange(2 * 16, dtype=torch.uint8).reshape(2, 1, 4, 4)
    strange = strange_images(digits, {"others": digits + 1})
    assert torch.equal(strange["others"], digits + 1)
    assert torch.equal(strange["turned by 90 degrees"][:, :, 0], digits[:, :, :, -1])
    assert strange["noise"].shape == digits.shape
    assert strange["noise"].float().std() > 50


def test_the_table_and_the_picture_have_a_row_for_each(images: ActiveDataset) -> None:
    found = told(images)
    lines = separation_table([found, found]).splitlines()
    assert len(lines) == 3
    assert "noise (entropy / BALD)" in lines[0]
    assert "0.500 / 0.500" in lines[1]
    picture = matplotlib.image.imread(io.BytesIO(draw_separation([found, found])))
    assert picture.shape[0] > 300


def test_more_labels_than_there_are_is_a_mistake(images: ActiveDataset) -> None:
    with pytest.raises(UserError, match="61 labels are wanted, and the data set 'bars' has 60"):
        separation("map", MAP(QUICK), network, images, {}, labels=61)
