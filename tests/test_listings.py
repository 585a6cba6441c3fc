"""What `activebdl list` tells, and that it needs no torch for it."""

import json
from pathlib import Path
from typing import Any

import pytest

from activebdl import catalogue
from activebdl.catalogue import rows_of
from activebdl.journal import Journal
from activebdl.listings import listings
from activebdl.run_folders import JOURNAL
from activebdl.runs import start
from activebdl.spec import read_spec
from tests.test_package import told


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a process that seems to have no torch."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(catalogue, "LOADED", set[str]())
    return tmp_path / "cache" / "activebdl"


def test_torch_is_needed_only_the_first_time(tmp_path: Path) -> None:
    start(read_spec("digits-small", {"posterior.training.steps": 2, "budget": 20}), tmp_path / "runs" / "a")
    list_all = ("from activebdl.cli import main; main()", "list", "--runs", str(tmp_path / "runs"))
    slow, slowly = told(*list_all)
    fast, at_once = told(*list_all)
    assert "torch" in slow and "torch" not in fast
    assert slowly == at_once and "bald" in at_once and "finished" in at_once


@pytest.mark.parametrize("kind", listings())
def test_what_is_remembered_is_what_there_is(kind: str, tmp_path: Path) -> None:
    whole = listings()[kind]()
    assert len(whole) > 0
    for _ in range(2):
        assert rows_of(kind, tmp_path) == whole


def test_what_is_remembered_of_other_sources_is_forgotten(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows_of("networks", tmp_path)
    (file,) = cache.glob("catalogue-*.json")
    kept: dict[str, Any] = json.loads(file.read_text())
    kept["rows"]["networks"] = [["mlp", "changed"]]
    file.write_text(json.dumps(kept))
    assert rows_of("networks", tmp_path) == [("mlp", "changed")]  # it is the file that tells
    sources = tmp_path / "package"
    sources.mkdir()
    (sources / "mlp.py").write_text("x = 1")
    monkeypatch.setattr(catalogue, "HERE", sources)
    assert rows_of("networks", tmp_path) == whole
    seen = [catalogue._fingerprint()]
    (sources / "mlp.py").write_text("x = 22")
    seen.append(catalogue._fingerprint())
    (sources / "deep").mkdir()
    (sources / "deep" / "more.py").write_text("")
    seen.append(catalogue._fingerprint())
    assert len(set(seen)) == 3


def test_what_this_process_registered_is_not_told_to_others(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "LOADED", {"torch"})
    assert rows_of("networks", tmp_path) == listings()["networks"]()
    assert not cache.exists()


@pytest.mark.parametrize("spoilt", ["", "[]", "{}", '{"of": 3}', "\x00"])
def test_a_file_that_is_spoilt_is_written_anew(tmp_path: Path, cache: Path, spoilt: str) -> None:
    whole = rows_of("networks", tmp_path)
    (file,) = cache.glob("catalogue-*.json")
    file.write_text(spoilt)
    assert rows_of("networks", tmp_path) == whole
    assert "networks" in json.loads(file.read_text())["rows"]


def test_without_a_home_it_is_told_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(catalogue, "cache_folder", nowhere)
    assert rows_of("networks", tmp_path) == listings()["networks"]()


def test_where_nothing_can_be_written_it_is_told_all_the_same(tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file, where a folder should be")
    assert rows_of("networks", tmp_path) == listings()["networks"]()


def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    for name in ("a", "c"):
        start(read_spec("digits-small", {"posterior.training.steps": 2, "budget": 20}), tmp_path / name)
    with Journal(tmp_path / "c" / JOURNAL) as journal:
        journal.note("spec", {**journal.about("spec"), "novel": 3})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / JOURNAL).write_text("this was a journal once, and is something else now")
    rows = dict(rows_of("runs", tmp_path))
    assert list(rows) == ["a", "b", "c"] and rows["a"].startswith("finished")
    assert "cannot be read: '" in rows["b"] and "there is no setting 'novel'" in rows["c"]


@pytest.mark.parametrize(
    ("group", "kind"),
    [("stopping", "stopping"), ("posteriors", "posteriors"), ("oracles", "oracles"), ("data", "datasets")],
)
def test_what_another_package_breaks_hides_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, kind: str
) -> None:
    whole = rows_of(kind, tmp_path)
    about = tmp_path / "door-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: door\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[activebdl.{group}]\nbroken_{group} = nowhere_at_all:thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    rows = rows_of(kind, tmp_path)
    (new,) = (row for row in rows if row not in whole)
    assert new[0] == f"broken_{group}" and "of the package 'door' cannot be loaded" in new[1]
    assert [row for row in rows if row != new] == whole
