"""Which cluster is meant, and what may not be asked of one; no cluster is needed for it."""

from pathlib import Path

import pytest

from activebdl._cli import cluster_for
from activebdl.cluster import Cluster, differing, versions
from activebdl.errors import UserError
from activebdl.spec import Named
from activebdl.sweep import executor_for
from activebdl.sweep._children import Task
from tests.comparisons import tiny


def test_options_of_the_command_line_name_a_cluster_and_are_named_again() -> None:
    assert cluster_for(None, None, None) is None
    assert cluster_for("auto", None, None) == Cluster("auto", cpus=1, gpus=0)
    assert cluster_for("10.0.0.1:6379", 2, 0.25) == Cluster("10.0.0.1:6379", cpus=2, gpus=0.25)
    assert Cluster("auto").as_options == " --ray auto"
    assert Cluster("10.0.0.1:6379", 2, 0.25).as_options == " --ray 10.0.0.1:6379 --cpus 2 --gpus 0.25"


@pytest.mark.parametrize(("cpus", "gpus"), [(2.0, None), (None, 0.5)])
def test_what_processes_have_is_asked_of_a_cluster_alone(cpus: float | None, gpus: float | None) -> None:
    with pytest.raises(UserError, match="say where it is, --ray ADDRESS"):
        cluster_for(None, cpus, gpus)


def test_a_machine_with_other_versions_is_named_by_them() -> None:
    assert differing(versions()) is None
    assert "has torch 1.0 and not" in str(differing(versions() | {"torch": "1.0"}))


@pytest.mark.parametrize(
    ("change", "what"), [({"oracle": Named(name="files")}, "the oracle 'files'"), ({"shards": 2}, "shards")]
)
def test_tasks_are_refused_what_only_the_driver_has(change: dict[str, object], what: str, tmp_path: Path) -> None:
    executor = executor_for(None, Cluster("nowhere:1"))
    assert executor is not None
    with pytest.raises(UserError, match=f"cannot have {what}"):
        executor.run([Task(tiny(["random"]).model_copy(update=change), tmp_path)], lambda number, event: None)


def test_no_run_at_a_time_is_refused() -> None:
    with pytest.raises(UserError, match="1 or more, not 0"):
        executor_for(0, Cluster())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nobody"])
def test_a_cluster_that_does_not_answer_is_told_at_once(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=f"No Ray cluster can be joined at '{address}'"), Cluster(address).joined():
        pass
