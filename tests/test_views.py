"""Test-time augmentation: draws of the weights behind maps of the image, each the same function for every item."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from activebdl import ActiveDataset, ActiveLearning, Affine, MCDropout, Training, UserError, Views, load_model
from activebdl.files import MODEL
from activebdl.posteriors.ensemble import EnsemblePosterior
from activebdl.posteriors.map import MAP
from activebdl.posteriors.mc_dropout import DropoutPosterior
from activebdl.views import ViewedDraws


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Dropout2d(0.5),
        nn.Flatten(),
        nn.Linear(4 * 36, 8),
        nn.Dropout(0.5),
        nn.Linear(8, 3),
    )


def images(n: int) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=seeded(1))


def posterior() -> DropoutPosterior:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DropoutPosterior(net().eval().requires_grad_(False), images(2))


def drawn(views: Views, k: int, seed: int = 0) -> ViewedDraws:
    return views.draw(posterior(), k, seeded(seed))


def quarter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turns each image by 0, 90, 180 or 270 degrees."""
    turns = torch.randint(4, (len(x),), generator=generator).tolist()
    return torch.stack([image.rot90(turn, (1, 2)) for image, turn in zip(x, turns, strict=True)])


def test_each_view_is_one_map_of_all_items_and_its_draws_are_of_the_posterior() -> None:
    x = images(7)
    draws = drawn(Views(4, quarter), 10)
    seen: set[int] = set()
    log_probs = draws.log_probs(x)
    assert log_probs.shape == (7, 10, 3)
    for view, (own, _) in enumerate(draws.parts):
        # among the turns of all images at once there is one that explains every draw of this view
        turns = [
            turn
            for turn in range(4)
            if torch.allclose(own.log_probs(x.rot90(turn, (2, 3))), log_probs[:, view::4], atol=1e-5)
        ]
        assert len(turns) == 1
        seen.add(turns[0])
        assert view > 0 or turns == [0]  # the first is the image as it is
    assert len(seen) > 1


@pytest.mark.parametrize("k", [1, 3, 5, 11])
def test_the_first_draws_are_those_of_a_call_for_fewer(k: int) -> None:
    x, views = images(5), Views(4)
    assert drawn(views, k).count == k
    torch.testing.assert_close(drawn(views, k).outputs(x), drawn(views, 12).outputs(x)[:, :k], atol=1e-5, rtol=0)


def test_a_draw_says_the_same_of_an_item_whatever_is_beside_it() -> None:
    x, draws = images(9), drawn(Views(3), 6)
    parts = torch.cat([draws.log_probs(some) for some in (x[:1], x[1:2], x[2:])])
    torch.testing.assert_close(parts, draws.log_probs(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(draws.outputs(x).log_softmax(-1), draws.log_probs(x), atol=1e-5, rtol=0)
    assert not torch.allclose(drawn(Views(3), 6, seed=1).log_probs(x), draws.log_probs(x))


def test_many_views_average_the_map_away() -> None:
    """Where a dot is, as a network reads it: the mean over views is where it was, the spread that of the shifts."""

    class Where(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            at = (torch.arange(64.0) + 0.5) / 64 - 0.5
            return (x.sum(2) * at).sum(2) / x.sum((2, 3))

    class Alone:
        def draw(self, k: int, *, generator: torch.Generator) -> "Alone":
            self.count = k
            return self

        def outputs(self, x: Tensor) -> Tensor:
            return Where()(x)[:, None].expand(-1, self.count, -1)

        log_probs = outputs

    at = (torch.arange(64) + 0.5) / 64 - 0.5
    dot = torch.exp(-(at[None, :] ** 2 + at[:, None] ** 2) / 0.002)[None, None]
    views = Views(400, Affine(0, shift=0.1, scale=0, shear=0))
    moved = views.draw(Alone(), 400, seeded()).outputs(dot)[0, 1:, 0]
    assert abs(float(moved.mean())) < 3 * 0.1 / math.sqrt(3 * 400)
    assert float(moved.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.08)


def cycle(views: int | Views | None, seed: int = 0) -> ActiveLearning:
    x = images(60)
    y = (x[:, 0, :4].mean((1, 2)) > x[:, 0, 4:].mean((1, 2))).long()
    data = ActiveDataset.from_arrays(x, y, x[:20], y[:20], classes=["a", "b", "c"])
    training = Training(steps=20, batch_size=8)
    return ActiveLearning(
        data,
        net,
        counts=[6, 12],
        posterior=MCDropout(training),
        strategy="bald",
        draws=8,
        test_draws=8,
        views=views,
        seed=seed,
    )


def test_predictions_see_the_views_and_strategies_only_where_they_are_told_to() -> None:
    plain, predicting, scoring = (list(cycle(views)) for views in (None, 4, Views(4, scoring=True)))
    assert plain[1].ids == predicting[1].ids
    assert plain[1].metrics["nll"] != predicting[1].metrics["nll"]
    assert plain[1].scores != scoring[1].scores
    assert predicting[0].metrics == scoring[0].metrics


def test_views_disagree_where_draws_cannot() -> None:
    """Consistency under augmentation, of a plain network (Gao et al. 2020)."""
    x = images(40)
    data = ActiveDataset.from_arrays(x, torch.arange(40) % 3, x[:9], torch.arange(9) % 3)

    def chosen(views: Views | None) -> ActiveLearning:
        method = MAP(Training(steps=5, batch_size=8))
        return ActiveLearning(data, net, counts=[6, 9], posterior=method, strategy="bald", draws=6, views=views)

    for views in (None, Views(3)):
        with pytest.raises(UserError, match="never do"):
            chosen(views)
    rounds = list(chosen(Views(3, scoring=True)))
    assert all(score is not None and score > 0 for score in rounds[1].scores)


def test_a_saved_predictor_keeps_its_views(tmp_path: Path) -> None:
    run = cycle(3)
    rounds = list(run)
    run.predictor().save(tmp_path / MODEL)
    told = load_model(tmp_path).predict(images(60)[:20])
    test = run.dataset.test_labels.numpy()
    assert (told["label"] == test).mean() == pytest.approx(rounds[-1].metrics["accuracy"])
    bare = cycle(None)
    list(bare)
    assert (
        abs(
            bare.predictor().predict(images(3))["probabilities"] - run.predictor().predict(images(3))["probabilities"]
        ).max()
        > 0
    )


def test_an_ensemble_is_seen_whole_from_every_view() -> None:
    class Member:
        def __init__(self, number: int) -> None:
            self.number = number

        def draw(self, k: int, *, generator: torch.Generator) -> "Member":
            self.count = k
            return self

        def outputs(self, x: Tensor) -> Tensor:
            return torch.full((len(x), self.count, 1), float(self.number))

        log_probs = outputs

    ensemble = EnsemblePosterior([Member(number) for number in range(3)])  # pyright: ignore[reportArgumentType]
    found = Views(4).draw(ensemble, 12, seeded()).outputs(images(2))[0, :, 0]
    for view in range(4):
        assert sorted(found[view::4].tolist()) == [0, 1, 2]


def test_items_that_are_no_images_have_no_views() -> None:
    x, y = torch.rand(20, 5), torch.arange(20) % 2
    data = ActiveDataset.from_arrays(x, y, x, y)
    with pytest.raises(UserError, match="Views are of images"):
        ActiveLearning(data, lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(5, 2)), counts=[4], views=3)


def test_there_is_at_least_one_view() -> None:
    with pytest.raises(UserError, match="at least 1 view"):
        Views(0)
    assert Views.of(True) == Views() and Views.of(False) is None and Views.of(3) == Views(3)
