"""What `activebdl list` tells."""

from pathlib import Path

import pytest

from activebdl.journal import Journal
from activebdl.listings import listings
from activebdl.runs import JOURNAL, start
from activebdl.spec import read_spec


def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    for name in ("a", "c"):
        start(read_spec("digits-small", {"posterior.training.steps": 2, "budget": 20}), tmp_path / name)
    with Journal(tmp_path / "c" / JOURNAL) as journal:
        journal.note("spec", {**journal.about("spec"), "novel": 3})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / JOURNAL).write_text("this was a journal once, and is something else now")
    rows = dict(listings(tmp_path)["runs"]())
    assert list(rows) == ["a", "b", "c"] and rows["a"].startswith("finished")
    assert "cannot be read: '" in rows["b"] and "there is no setting 'novel'" in rows["c"]


@pytest.mark.parametrize(
    ("group", "kind"),
    [("stopping", "stopping"), ("posteriors", "posteriors"), ("oracles", "oracles"), ("data", "datasets")],
)
def test_what_another_package_breaks_hides_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, kind: str
) -> None:
    whole = listings(tmp_path)[kind]()
    about = tmp_path / "door-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: door\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[activebdl.{group}]\nbroken_{group} = nowhere_at_all:thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    rows = listings(tmp_path)[kind]()
    (new,) = (row for row in rows if row not in whole)
    assert new[0] == f"broken_{group}" and "of the package 'door' cannot be loaded" in new[1]
    assert [row for row in rows if row != new] == whole
