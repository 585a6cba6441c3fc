"""What `activebdl list` tells."""

from pathlib import Path

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
