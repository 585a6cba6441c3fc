"""Which cluster is meant, and what may not be asked of one; no cluster is needed for it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from activebdl import load
from activebdl._cli import cluster_for
from activebdl.cluster import Cluster, Room, differing, versions
from activebdl.errors import UserError
from activebdl.files import MODEL
from activebdl.journal_reading import read_about
from activebdl.run_folders import JOURNAL
from activebdl.runs import NO_TRACKING
from activebdl.spec import Named
from activebdl.sweep import compare, executor_for
from activebdl.sweep._children import Begun, Finished, Kept, Task, Told
from activebdl.sweep._driver import Driver
from activebdl.sweep._on_ray import _events  # pyright: ignore[reportPrivateUsage]
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


def test_what_a_comparison_cannot_have_is_told_before_anything_is_begun(tmp_path: Path) -> None:
    executor = executor_for(None, Cluster("nowhere:1"))
    people = tiny(["random"]).model_copy(update={"oracle": Named(name="files")})
    with pytest.raises(UserError, match="The oracle 'files' works on this machine, and tasks of Ray may be on others"):
        compare(people, tmp_path / "people", executor=executor)
    with pytest.raises(UserError, match="Shards are for one run"):
        compare(tiny(["random"]).model_copy(update={"shards": 2}), tmp_path / "shards")
    assert list(tmp_path.iterdir()) == []


def test_what_a_child_elsewhere_has_is_kept_before_it_is_told_and_an_old_model_is_not(tmp_path: Path) -> None:
    spec = tiny(["random"]).model_copy(update={"strategy": Named(name="random"), "keep_model": False})
    (tmp_path / "there").mkdir()
    events = list(_events(Task(spec, tmp_path / "there")))
    assert [type(event) for event in events] == [Kept, Begun, *[Kept, Told] * 3, Kept, Finished]
    begun, kept = events[1], tmp_path / JOURNAL
    assert isinstance(begun, Begun) and isinstance(events[0], Kept)
    kept.write_bytes(events[0].files[JOURNAL])
    assert read_about(kept)["uid"] == begun.uid  # so that a child that begins again elsewhere is the same to MLflow
    task = Task(spec, tmp_path / "here")
    task.folder.mkdir()
    (task.folder / MODEL).write_text("of fewer labels")
    with Driver([task], load("digits"), NO_TRACKING, None) as driver:
        driver.take(0, events[0])
    assert not (task.folder / MODEL).exists() and (task.folder / JOURNAL).exists()


def test_a_cluster_without_room_is_given_time_from_when_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[Any] = [{"Alive": True, "Resources": {"CPU": 1.0}}]
    clock = [0.0]
    monkeypatch.setattr("activebdl.cluster.time.monotonic", lambda: clock[0])
    room = Room(SimpleNamespace(nodes=lambda: nodes), Cluster("auto"))
    room.check()
    clock[0], gone = 5000.0, nodes.pop()  # hours of work, in which nobody asked
    room.check()
    clock[0] += 100
    room.check()
    nodes.append(gone)
    room.check()
    nodes.clear()
    room.check()
    clock[0] += 200
    with pytest.raises(UserError, match="No machine of the Ray cluster has 1 CPUs"):
        room.check()


def test_no_run_at_a_time_is_refused() -> None:
    with pytest.raises(UserError, match="1 or more, not 0"):
        executor_for(0, Cluster())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nobody"])
def test_a_cluster_that_does_not_answer_is_told_at_once(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=f"No Ray cluster can be joined at '{address}'"), Cluster(address).joined():
        pass
