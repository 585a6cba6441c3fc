"""A comparison on a real cluster, which loses a node. The truth is what one process does."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from activebdl.cluster import Cluster
from activebdl.spec import Comparison, Named, RunSpec, read_spec
from activebdl.sweep import compare
from activebdl.sweep._children import Begun, Event, Executor, Kept, Task, Tell, Told
from activebdl.sweep._on_ray import OnRay
from tests.clusters import Nodes, nodes
from tests.comparisons import asked, told

pytestmark = pytest.mark.slow


class Listening:
    """An executor that hears all events, and kills a node when two children are at work."""

    def __init__(self, executor: Executor, cluster: Nodes) -> None:
        self.executor, self.cluster = executor, cluster
        self.begun: dict[int, list[int]] = {}  # rounds that each child had done, whenever it began
        self.at_work: set[int] = set()
        self.killed = False

    width, speaks = 2, False

    def check(self, spec: RunSpec) -> None:
        self.executor.check(spec)

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        def hear(number: int, event: Event) -> None:
            tell(number, event)
            if isinstance(event, Begun):
                self.begun.setdefault(number, []).append(event.done)
            elif isinstance(event, Told):
                self.at_work.add(number)
            elif not isinstance(event, Kept):
                self.at_work.discard(number)
            if len(self.at_work) == 2 and not self.killed:
                self.killed = True
                self.cluster.kill(next(iter(self.cluster.workers)))

        self.executor.run(tasks, hear)


def test_a_comparison_outlives_a_node(tmp_path: Path) -> None:
    spec = read_spec("digits-small", {"posterior.training.steps": 600, "draws": 5, "test_draws": 5})
    spec = spec.model_copy(
        update={"compare": Comparison(strategies=(Named(name="bald"), Named(name="random")), seeds=(0, 1))}
    )
    with nodes(1) as cluster:
        executor = Listening(OnRay(Cluster()), cluster)
        there = compare(spec, tmp_path / "there", executor=executor)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here = compare(spec, tmp_path / "here")
    torch.set_num_threads(threads)
    assert told(there) == told(here)
    assert asked(tmp_path / "there") == asked(tmp_path / "here")
    assert executor.killed
    (again,) = [done for done in executor.begun.values() if len(done) > 1]  # one child was on the node
    assert again[0] == 0 and again[1] >= 1  # and went on from its journal
