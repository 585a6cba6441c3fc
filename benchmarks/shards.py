"""A pool of a million in shards, on a cluster of several nodes on this machine, one of which is killed.

    python benchmarks/shards.py FOLDER [--items 1000000] [--draws 5]

FOLDER gets a file of so many images of random bytes, 1 x 28 x 28 uint8, unless it is there already: 0.8 GB for a
million. BALD of every image by K draws of MC-dropout on the BatchBALD CNN: by this process alone, by two nodes of 1 CPU
each, and by two of which one is killed when a third of the images is done, with another that comes in its place. The
scores must be equal, bit for bit; the script fails where they are not.

The nodes have the cores of one machine: this shows what shards cost, and not how they scale.
"""

import argparse
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import memory, written
from torch import Tensor

from activebdl import Classes, Labelled, MCDropout, Normalise, Shards, Training
from activebdl._pool_actor import pack
from activebdl.data import MappedInputs
from activebdl.fitted import Fitted
from activebdl.networks import make_network
from activebdl.scoring import Scorer
from activebdl.strategies.bald import bald

SHAPE = (1, 28, 28)
CPU = torch.device("cpu")
STORE = 2**28

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the nodes keep to the loopback address
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


class Cluster:
    """Ray's head, which has 1 CPU, and other nodes of 1 CPU."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster as Nodes

        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE}
        self.nodes: Any = Nodes(initialize_head=True, head_node_args=head)
        ray.init(address=self.nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        self.mortal: Any = None
        self.add()

    def add(self) -> None:
        self.mortal = self.nodes.add_node(num_cpus=1, object_store_memory=STORE)

    def replace(self) -> None:
        """Kills a node; another comes in its place."""
        self.nodes.remove_node(self.mortal, allow_graceful=False)
        self.add()


class Watch:
    """Of each process that looks at the pool the most resident memory, in GiB, and the seconds of CPU so far."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    text = status.read_text()
                    times = status.with_name("stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue  # it has ended
                peak = re.search(r"VmHWM:\s+(\d+) kB", text)
                if text.startswith("Name:\tray::PoolActor") and peak:
                    self.peaks[status.parent.name] = int(peak[1]) / 2**20
                    self.cpu[status.parent.name] = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
            time.sleep(0.5)


def fit(inputs: MappedInputs) -> Fitted:
    """A posterior, of made-up labels."""
    normalise, labels = Normalise(255.0, 0.5, 0.3), torch.arange(20) % 10
    task = Classes(tuple("0123456789")).task(labels)
    labelled = Labelled(inputs[torch.arange(20)], labels, task.likelihood, normalise)
    rng = torch.Generator().manual_seed(0)
    posterior = MCDropout(Training(steps=20)).fit(make_network("batchbald_cnn", SHAPE, 10), labelled, generator=rng)
    return Fitted(posterior, task.predict, "classes", normalise, labelled.example, 0, 0, None)


def timed(what: str, scorer: Scorer, count: int, received: Callable[[], int], watch: Watch) -> Tensor:
    """Scores all images, and prints a line of the table."""
    watch.peaks.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of what comes
    before, begin = received(), time.perf_counter()
    busy = time.process_time() + sum(watch.cpu.values())
    scores = scorer.scores(torch.arange(count), bald)
    seconds = time.perf_counter() - begin
    busy = time.process_time() + sum(watch.cpu.values()) - busy
    came = f"{(received() - before) / 2**20:.1f}"
    actors = " ".join(f"{peak:.2f}" for peak in watch.peaks.values())
    line = f"{what:<24}{seconds:>9.1f}{busy:>9.1f}{count * scorer.draws.count / busy:>14,.0f}{came:>11}"
    print(f"{line}{memory('VmHWM'):>13.2f}   {actors}", flush=True)
    return scores


def main() -> None:
    """One process, two nodes, two nodes of which one dies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count, k = arguments.items, arguments.draws
    inputs = MappedInputs(np.load(written(arguments.folder, count), mmap_mode="r"))
    fitted, watch = fit(inputs), Watch()
    print(f"the posterior, packed: {len(pack(fitted, 'the posterior')):,} bytes")
    head = f"{'':<24}{'seconds':>9}{'of CPU':>9}{'samples/CPU s':>14}{'came, MiB':>11}{'driver, GiB':>13}"
    print(f"{head}   processes, GiB", flush=True)
    alone = fitted.scorer(fitted.draw(k, "score"), inputs, CPU)
    alone.scores(torch.arange(1024), bald)  # what is made once is there before the clock starts
    expected = timed("one process", alone, count, lambda: 0, watch)
    begin = time.perf_counter()
    cluster = Cluster()
    print(f"a cluster of two nodes, begun in {time.perf_counter() - begin:.1f} s")
    with Shards(2) as shards:
        together = replace(alone, elsewhere=shards.sight(fitted, inputs, k, "score", "float32"))
        begin = time.perf_counter()
        together.scores(torch.arange(1), bald)
        print(f"the first answer, with the processes begun, after {time.perf_counter() - begin:.1f} s")
        begin = time.perf_counter()
        for _ in range(20):
            together.scores(torch.arange(1), bald)
        print(f"an answer after that: {50 * (time.perf_counter() - begin):.1f} ms", flush=True)
        found = timed("two nodes", together, count, lambda: shards.received, watch)
        assert torch.equal(found, expected)
        done = 0

        def advance(some: int) -> None:
            nonlocal done
            if done < count / 3 <= done + some:
                cluster.replace()
            done += some

        found = timed("two, one killed", replace(together, on_items=advance), count, lambda: shards.received, watch)
        assert torch.equal(found, expected) and done == count
    print("all scores are equal, bit for bit")


if __name__ == "__main__":
    main()
