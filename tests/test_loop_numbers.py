"""The cycle where labels are numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import (
    ABSTAIN,
    ActiveDataset,
    ActiveLearning,
    BayesByBackprop,
    Ensemble,
    Laplace,
    MCDropout,
    Moments,
    Numbers,
    Round,
    Training,
    UserError,
)
from activebdl.posteriors import InferenceMethod
from activebdl.strategies import strategy_names

TRAINING = Training(steps=250, batch_size=16, learning_rate=0.02)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2))


def wave(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A sine wave of height 100 around 500."""
    x = 4 * torch.rand(n, 1, generator=torch.Generator().manual_seed(seed)) - 2
    return x, 500 + 100 * (2 * x[:, 0]).sin()


@pytest.fixture
def dataset() -> ActiveDataset:
    (x, y), (tx, ty) = wave(100), wave(200, seed=1)
    return ActiveDataset.from_arrays(x, y, tx, ty, numbers=Numbers(), name="wave")


def cycle(dataset: ActiveDataset, **options: Any) -> ActiveLearning:
    options = {
        "counts": (4, 8, 40), "posterior": MCDropout(TRAINING), "strategy": "gaussian_bald",
        "draws": 8, "test_draws": 8, "device": "cpu",
    } | options  # fmt: skip
    return ActiveLearning(dataset, network, **options)


def timeless(rounds: list[Round]) -> list[Round]:
    return [replace(round, seconds={}, written_ms=0) for round in rounds]


@pytest.mark.parametrize(
    "method",
    [MCDropout(TRAINING), BayesByBackprop(TRAINING), Ensemble(members=3, training=TRAINING), Laplace(TRAINING)],
)
def test_it_learns(dataset: ActiveDataset, method: InferenceMethod) -> None:
    # The power rule, for the best of a line are neighbours of each other.
    rounds = list(cycle(dataset, posterior=method, strategy="power_epistemic_variance", counts=(4, 16, 28, 40)))
    assert set(rounds[-1].metrics) == {"rmse", "nll", "coverage_50", "coverage_90", "coverage_95"}
    assert rounds[-1].metrics["rmse"] < 35  # always the mean is 70 off
    assert rounds[-1].metrics["rmse"] < rounds[0].metrics["rmse"]
    assert rounds[-1].confusion == [] and rounds[-1].reliability == {}
    assert dataset.labels is not None
    for round in rounds:
        assert list(round.labels) == dataset.labels[list(round.ids)].tolist()


def test_it_asks_where_nothing_is_known(dataset: ActiveDataset) -> None:
    """Labels on the left alone: the next ones are asked for on the right."""
    x = torch.cat([torch.linspace(-2, -1, 50), torch.linspace(1, 3, 10)])[:, None]
    data = ActiveDataset.from_arrays(x, x[:, 0], x, x[:, 0], numbers=Numbers())

    def leftmost(query: Any) -> Tensor:
        return query.unlabelled[: query.quantity]

    loop = cycle(data, counts=(20, 24), strategy="epistemic_variance", posterior=Ensemble(members=5, training=TRAINING))
    loop.starter = replace(loop.starter, joint=leftmost)
    *_, last = loop
    assert min(last.ids) >= 50


def test_a_resumed_run_is_the_same_run(dataset: ActiveDataset, tmp_path: Path) -> None:
    whole = list(cycle(dataset))
    path = tmp_path / "journal.sqlite"
    next(iter(cycle(dataset, journal=path)))
    assert timeless(list(cycle(dataset, journal=path))) == timeless(whole)


def test_items_that_nobody_can_measure_are_replaced(dataset: ActiveDataset, tmp_path: Path) -> None:
    asked: list[int] = []

    def oracle(items: Tensor, ids: Tensor) -> list[float | None]:
        first = len(asked) == 0
        asked.extend(ids.tolist())
        return [ABSTAIN if first and i == 0 else float(item) for i, item in enumerate(items[:, 0])]

    rounds = list(cycle(dataset, oracle=oracle, counts=(4, 8), journal=tmp_path / "j.sqlite"))
    assert [round.n_labels for round in rounds] == [4, 8] and len(asked) == 9
    assert asked[0] not in [id for round in rounds for id in round.ids]


def test_a_score_of_ones_own_takes_moments(dataset: ActiveDataset) -> None:
    seen: list[Moments] = []

    def doubt(moments: Moments) -> Tensor:
        seen.append(moments)
        return moments.total

    rounds = list(cycle(dataset, strategy=doubt, counts=(4, 8)))
    assert all(isinstance(moments, Moments) for moments in seen)
    scores = [score for score in rounds[1].scores if score is not None]
    assert scores == sorted(scores, reverse=True) and max(scores) > 100  # in squares of the target's units


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"strategy": "bald"},
            "'bald' is for classes, and the labels of 'wave' are numbers; take one of epistemic_var.*k_centre",
        ),
        ({"start": "balanced"}, "A balanced start needs classes"),
        ({"oracle": lambda items: [float("inf")] * len(items)}, "labels are finite numbers"),
        ({"oracle": lambda items: ["a"] * len(items)}, "labels are numbers"),
    ],
)
def test_mistakes_are_told(dataset: ActiveDataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(cycle(dataset, **options))


def test_a_network_of_one_output_is_told_what_is_missing(dataset: ActiveDataset) -> None:
    with pytest.raises(
        UserError, match=r"outputs of shape \(2, 2\).*for numbers mean and log variance.*It gave \(2, 1\)"
    ):
        ActiveLearning(dataset, lambda: nn.Linear(1, 1), counts=(4,), strategy="random", device="cpu")


def test_scores_of_numbers_are_not_for_classes() -> None:
    assert "gaussian_bald" in strategy_names() and "power_gaussian_bald" in strategy_names("numbers")
    assert "gaussian_bald" not in strategy_names("classes") and "bald" not in strategy_names("numbers")
    assert "random" in strategy_names("classes") and "random" in strategy_names("numbers")
