"""A cluster of Ray on this machine, of several nodes, which can lose one; and a posterior to look at a pool with."""

import contextlib
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from activebdl import Classes, Labelled, MCDropout, Normalise, Shards, Training
from activebdl.data.inputs import Inputs
from activebdl.fitted import Fitted
from activebdl.progress import Advance
from activebdl.scoring import Scorer, ignore
from activebdl.strategies.bald import bald
from tests.conftest import blobs, small_network

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # it keeps to the loopback address
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@dataclass
class Nodes:
    """A head, and workers that may die, of 1 CPU each."""

    ray: Any
    cluster: Any
    workers: dict[str, Any]  # by the id that Ray's own processes have for them

    def add(self) -> str:
        node = self.cluster.add_node(num_cpus=1, object_store_memory=2**27)
        self.workers[node.node_id] = node
        return node.node_id

    def kill(self, id: str) -> None:
        """At once, whatever it does."""
        self.cluster.remove_node(self.workers.pop(id), allow_graceful=False)


@contextlib.contextmanager
def nodes(workers: int) -> Generator[Nodes]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        found = Nodes(ray, cluster, {})
        for _ in range(workers):
            found.add()
        yield found
    finally:
        ray.shutdown()
        cluster.shutdown()


CPU = torch.device("cpu")
CHUNK = 16


def fit_to_blobs() -> Fitted:
    x, y = blobs(30)
    task = Classes(("a", "b", "c")).task(y)
    rng = torch.Generator().manual_seed(0)
    posterior = MCDropout(Training(steps=30)).fit(small_network, Labelled(x, y, task.likelihood), generator=rng)
    return Fitted(posterior, task.predict, "classes", Normalise(), x[:2], 7, 3, CHUNK)


def alone(fitted: Fitted, inputs: Inputs, k: int = 10) -> Scorer:
    return fitted.scorer(fitted.draw(k, "score"), inputs, CPU)


def together(fitted: Fitted, inputs: Inputs, shards: Shards, k: int = 10, advance: Advance = ignore) -> Scorer:
    sight = shards.sight(fitted, inputs, k, "score", "float32")
    return replace(alone(fitted, inputs, k), elsewhere=sight, on_items=advance)


def bald_by_all(count: int, folder: Path, who: Callable[[], object]) -> Callable[[Tensor], Tensor]:
    """BALD, and a file in the folder for each who looks; nobody comes further before so many have begun."""

    def look(log_probs: Tensor) -> Tensor:
        (folder / str(who())).touch()
        while len(list(folder.iterdir())) < count:
            time.sleep(0.01)
        return bald(log_probs)

    return look
