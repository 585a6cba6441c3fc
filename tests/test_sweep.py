"""Comparisons on the disk."""

from pathlib import Path

from activebdl.journal import Journal
from activebdl.run_folders import JOURNAL
from activebdl.spec import Comparison, Named, read_spec
from activebdl.sweep import compare, comparison_folder


def test_runs_of_an_older_version_that_knew_fewer_settings_are_not_done_again(tmp_path: Path) -> None:
    changes = {"posterior.training.steps": 2, "budget": 24, "query_size": 4, "start": "typiclust", "draws": 4}
    spec = read_spec("digits-small", changes)
    spec = spec.model_copy(update={"compare": Comparison(strategies=(Named(name="epig"),), seeds=(0,))})
    folder = comparison_folder(spec, tmp_path)
    first = compare(spec, folder)
    (path,) = folder.rglob(JOURNAL)
    with Journal(path) as journal:
        known = journal.about("spec")
        assert known["start"]["neighbours"] == 20 and known["strategy"]["targets"] == 200
        known["start"], known["strategy"] = "typiclust", {"name": "epig"}
        for key in ("stop", "validation", "stop_set"):
            del known[key]
        journal.note("spec", known)
    assert compare(spec, comparison_folder(spec, tmp_path)) == first
    assert list(folder.rglob(JOURNAL)) == [path]
