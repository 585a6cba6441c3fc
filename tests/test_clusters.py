"""A pool on a real cluster, which loses a node. The truth is what one process does."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from activebdl import ActiveDataset, ActiveLearning, MCDropout, Normalise, Shards, Training, UserError
from activebdl.fitted import Fitted
from activebdl.strategies.bald import bald
from tests.clusters import CHUNK, Nodes, alone, bald_by_all, fit_to_blobs, nodes, together
from tests.conftest import blobs, small_network

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Generator[Nodes]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as each process of the cluster has
    with nodes(2) as found:
        yield found
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit_to_blobs()


def node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def test_a_node_that_dies_in_the_middle_changes_no_score(cluster: Nodes, fitted: Fitted, tmp_path: Path) -> None:
    pool = blobs(5000, seed=1)[0]
    ids = torch.randperm(5000, generator=torch.Generator().manual_seed(2))[:4803]
    expected = alone(fitted, pool).scores(ids, bald)
    seen: list[int] = []
    done_at_death: list[int] = []

    def advance(count: int) -> None:
        seen.append(count)
        if not done_at_death:
            cluster.kill(next(path.name for path in tmp_path.iterdir() if path.name in cluster.workers))
            cluster.add()
            done_at_death.append(sum(seen))

    with Shards(3) as shards:
        found = together(fitted, pool, shards, advance=advance).scores(ids, bald_by_all(3, tmp_path, node))
    assert torch.equal(found, expected)
    assert sum(seen) == 4803
    assert done_at_death[0] < 2400 and len(list(tmp_path.iterdir())) >= 3  # all nodes had begun


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("bald", {"scoring": "race", "draws": 40}), ("badge", {}), ("epig", {}), ("batchbald", {"candidates": 300})],
    ids=["race", "features", "targets", "predictions"],
)
def test_a_run_in_shards_is_the_same_run(cluster: Nodes, strategy: str, options: dict[str, object]) -> None:
    x, y = blobs(1100)
    dataset = ActiveDataset.from_arrays(x[:1000], y[:1000], x[1000:], y[1000:], normalise=Normalise())

    def run(shards: Shards | None) -> list[tuple[object, ...]]:
        cycle = ActiveLearning(
            dataset, small_network, counts=[10, 15, 20], posterior=MCDropout(Training(steps=30)),
            strategy=strategy, chunk=CHUNK, shards=shards, **options,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        return [(round.ids, round.scores, round.metrics) for round in cycle]

    assert run(Shards(2)) == run(None)


def test_a_run_goes_on_with_other_shards(cluster: Nodes, tmp_path: Path) -> None:
    x, y = blobs(400)
    dataset = ActiveDataset.from_arrays(x[:300], y[:300], x[300:], y[300:], normalise=Normalise())

    def cycle(shards: int | None, journal: Path | None) -> ActiveLearning:
        method = MCDropout(Training(steps=30))
        return ActiveLearning(
            dataset, small_network, counts=[10, 15, 20], posterior=method, shards=shards, journal=journal, chunk=CHUNK
        )

    for round in cycle(2, tmp_path / "journal.sqlite"):
        if round.number == 1:
            break
    assert [r.ids for r in cycle(1, tmp_path / "journal.sqlite")] == [r.ids for r in cycle(None, None)]


def test_items_that_no_process_survives_are_named(cluster: Nodes, fitted: Fitted) -> None:
    def deadly(log_probs: Tensor) -> Tensor:
        os._exit(1)

    with (
        Shards(2) as shards,
        pytest.raises(UserError, match="3 processes died, .* as they looked at items 20 to 35"),
    ):
        together(fitted, blobs(100, seed=8)[0], shards).reduce(torch.arange(20, 36), deadly)


def test_a_cluster_that_is_too_small_says_so(cluster: Nodes, fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activebdl.cluster._PATIENCE", 2.0)
    with (
        Shards(2, gpus=0.5) as shards,
        pytest.raises(UserError, match="has 1 CPUs and 0.5 GPUs"),
    ):
        together(fitted, blobs(100, seed=8)[0], shards).scores(torch.arange(36), bald)
