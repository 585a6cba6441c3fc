import io
from typing import Any

import matplotlib.image
import pytest
import torch
from torch import Tensor, nn

from activebdl import MAP, ActiveDataset, MCDropout, Training, UserError
from activebdl.uncertainty.digits import Separation, draw_separation, separation, separation_table, strange_images

QUICK = Training(steps=300, learning_rate=1e-2)


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
