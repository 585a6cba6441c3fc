"""A pool that is looked at by several processes of Ray. The truth is what one process sees."""

import os
import signal
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from activebdl import Classes, Labelled, MCDropout, Normalise, Shards, Training, UserError, Views
from activebdl.data import MappedInputs
from activebdl.fitted import Fitted
from activebdl.strategies.bald import bald
from tests.clusters import CHUNK, alone, bald_by_all, fit_to_blobs, together
from tests.conftest import blobs

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def shards() -> Generator[Shards]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as each process has
    with Shards(2, "auto") as found:
        yield found
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit_to_blobs()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> MappedInputs:
    """5,000 points in a file, behind 100 others; two of the last cannot be."""
    points = blobs(5100, seed=1)[0].numpy()
    points[[5093, 5098]] = np.nan
    file = tmp_path_factory.mktemp("pool") / "pool.npy"
    np.save(file, points)
    return MappedInputs(np.load(file, mmap_mode="r")[100:])


def test_a_process_that_dies_in_the_middle_changes_no_score(
    shards: Shards, fitted: Fitted, pool: MappedInputs, tmp_path: Path
) -> None:
    ids = torch.randperm(4900, generator=torch.Generator().manual_seed(2))[:4803]
    expected = alone(fitted, pool).scores(ids, bald)
    seen: list[int] = []
    done_at_death: list[int] = []

    def advance(count: int) -> None:
        seen.append(count)
        if not done_at_death:
            os.kill(int(next(tmp_path.iterdir()).name), signal.SIGKILL)
            done_at_death.append(sum(seen))

    score = bald_by_all(2, tmp_path, os.getpid)
    found = together(fitted, pool, shards, advance=advance).scores(ids, score)
    assert torch.equal(found, expected)
    assert sum(seen) == 4803
    assert len(list(tmp_path.iterdir())) >= 2  # both had begun
    assert done_at_death[0] < 2400
    assert shards.received == 4 * 4803  # a float32 an item


def test_all_that_a_strategy_asks_for_is_the_same(shards: Shards, fitted: Fitted, pool: MappedInputs) -> None:
    ids = torch.arange(3, 780)
    one, many = alone(fitted, pool), together(fitted, pool, shards)
    assert torch.equal(many.predictions(ids), one.predictions(ids))
    assert torch.equal(many.features(ids), one.features(ids))
    assert torch.equal(many.scores(ids[:1], bald), one.scores(ids[:1], bald))
    fewer = together(fitted, pool, shards, k=4)  # as in a race's early heats
    assert torch.equal(fewer.predictions(ids), one.predictions(ids)[:, :4])


def test_views_are_the_same_wherever_they_are_looked_from(shards: Shards) -> None:
    images = torch.rand(300, 1, 12, 12, generator=torch.Generator().manual_seed(3))
    task = Classes(("a", "b", "c")).task(torch.arange(30) % 3)

    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(400, 3))

    labelled = Labelled(images[:30], torch.arange(30) % 3, task.likelihood)
    rng = torch.Generator().manual_seed(0)
    posterior = MCDropout(Training(steps=5)).fit(net, labelled, generator=rng)
    views = Views(3, scoring=True)
    fitted = Fitted(posterior, task.predict, "classes", Normalise(), images[:2], 7, 3, CHUNK, views)
    ids = torch.arange(30, 300)
    expected = alone(fitted, images).predictions(ids)
    assert not torch.allclose(alone(replace(fitted, views=None), images).predictions(ids), expected, atol=1e-3)
    assert torch.equal(together(fitted, images, shards).predictions(ids), expected)


def test_what_is_wrong_with_an_item_is_told_as_by_one_process(
    shards: Shards, fitted: Fitted, pool: MappedInputs
) -> None:
    ids = torch.arange(4000, 5000)
    with pytest.raises(UserError) as one:
        alone(fitted, pool).scores(ids, bald)
    with pytest.raises(UserError) as many:
        together(fitted, pool, shards).scores(ids, bald)
    assert str(many.value) == str(one.value)
    assert "item 4993" in str(many.value)
    with pytest.raises(UserError, match="a row per item"):
        together(fitted, pool, shards).reduce(ids[:300], lambda log_probs: log_probs[:1, 0, 0])


def test_other_inputs_are_looked_at_here(shards: Shards, fitted: Fitted) -> None:
    pool, others = blobs(50, seed=6)[0], blobs(20, seed=7)[0]
    scorer = replace(together(fitted, pool, Shards(1, "nowhere:1")), inputs=others)
    assert torch.equal(scorer.predictions(torch.arange(20)), alone(fitted, others).predictions(torch.arange(20)))


def test_shards_that_cannot_be() -> None:
    with pytest.raises(UserError, match="by 1 process or more, not by 0"):
        Shards(0)
    with pytest.raises(UserError, match="not 0 and 0"):
        Shards(2, cpus=0)
    with pytest.raises(UserError, match="not 1 and -1"):
        Shards(2, gpus=-1)
