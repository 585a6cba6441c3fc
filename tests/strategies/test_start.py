"""The first items: balanced, or by any strategy that needs no model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from activebdl import ActiveDataset, ActiveLearning, MCDropout, Training, UserError
from activebdl.build import build, resolved
from activebdl.spec import read_spec
from activebdl.strategies import strategies
from activebdl.strategies._start import make_start

Network = Callable[[], nn.Module]
MINE = """
from activebdl import joint_strategy
@joint_strategy("last_of_all", needs=())
def last(query):
    return query.unlabelled[-query.quantity:]
def plain(query):
    return query.unlabelled[:query.quantity]
"""


def first(dataset: ActiveDataset, network: Network, start: str, seed: int = 0) -> list[int]:
    method = MCDropout(Training(steps=2))
    options = {"counts": (6, 8), "posterior": method, "draws": 4, "test_draws": 2, "device": "cpu"}
    rounds = ActiveLearning(dataset, network, start=start, seed=seed, strategy="margin", **options)  # type: ignore[arg-type]
    return list(next(iter(rounds)).ids)


@pytest.mark.parametrize("start", ["k_means", "typiclust"])
def test_a_cluster_start_sees_every_cloud(network: Network, start: str) -> None:
    which = torch.arange(120) % 6
    corners = 1000 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    x = corners[which] + torch.randn(120, 2, generator=torch.Generator().manual_seed(1))
    dataset = ActiveDataset.from_arrays(x, which % 3, x, which % 3)
    ids = first(dataset, network, start)
    assert sorted(which[ids].tolist()) == [0, 1, 2, 3, 4, 5]
    assert ids == first(dataset, network, start)
    assert ids != first(dataset, network, "random")


def test_one_of_ones_own(
    dataset: ActiveDataset, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "typiclust" in strategies.names()  # all are there, and what comes now is forgotten after the test
    monkeypatch.setattr(strategies, "_known", {found.name: found for found in strategies.known()})
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    assert first(dataset, network, f"{file}:last") == [114, 115, 116, 117, 118, 119]
    with pytest.raises(UserError, match=r"plain' needs a model.* registered by @joint_strategy\(..., needs=\(\)\)"):
        make_start(f"{file}:plain", dataset)


def test_a_balanced_start_stays_so_when_somebody_abstains(dataset: ActiveDataset, network: Network) -> None:
    assert dataset.labels is not None
    labels = dataset.labels
    passed: list[int] = []

    def passes(_: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Does not label the first three of class 2."""
        said = labels[ids]
        for at in (said == 2).nonzero()[:, 0].tolist():
            if len(passed) < 3:
                passed.append(int(ids[at]))
                said[at] = -1
        return said

    method = MCDropout(Training(steps=2))
    options = {"counts": (12,), "posterior": method, "draws": 4, "test_draws": 2, "device": "cpu", "oracle": passes}
    only = next(iter(ActiveLearning(dataset, network, start="balanced", strategy="margin", **options)))  # type: ignore[arg-type]
    assert len(passed) == 3 and labels[list(only.ids)].bincount().tolist() == [4, 4, 4]


@pytest.mark.parametrize("start", ["bald", "power_bald", "per_cost_bald"])
def test_what_needs_a_model_cannot_start(dataset: ActiveDataset, start: str) -> None:
    with pytest.raises(UserError, match=f"start '{start}' needs a model.* balanced, k_means, random, typiclust"):
        make_start(start, dataset)


def test_a_wrong_start_of_a_spec_is_told_before_any_data_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> ActiveDataset:
        raise AssertionError("data was fetched")

    monkeypatch.setattr("activebdl.build.make_dataset", fetch)
    for start, message in (
        ("warm", "Unknown start 'warm'. Known: balanced, k_means, random, typiclust"),
        ("margin", "start 'margin' needs a model"),
        ({"name": "typiclust", "clusters": 3}, "'typiclust' takes no option 'clusters'; its options: components"),
        ({"name": "typiclust", "components": "few"}, "'components' of the strategy 'typiclust'"),
        ({"name": "balanced", "share": 2}, "The start 'balanced' takes no option 'share'"),
    ):
        with pytest.raises(UserError, match=message):
            build(read_spec("digits-small", {"start": start}))
    assert read_spec("digits-small", {"start": "typiclust"}).start.name == "typiclust"
    spec = read_spec("digits-small", {"start": {"name": "typiclust", "components": 7}})
    monkeypatch.undo()
    assert build(spec).starter.label == "typiclust(components=7)"
    written_out = resolved(spec)
    assert written_out.start.options == {"components": 7, "max_clusters": 500, "neighbours": 20}
    assert build(written_out).starter.label == "typiclust(components=7)"
