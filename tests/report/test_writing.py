"""Reports of runs on the disk: comparisons of digits with two training steps, finished, unfinished and mixed."""

import csv
import json
import math
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from activebdl import UserError
from activebdl.cli import app
from activebdl.journal_reading import read_history
from activebdl.report import compare_arms, conclude, find_studies, studies_in, table, write
from activebdl.report.reading import asked_shares
from activebdl.run_folders import JOURNAL
from activebdl.spec import Comparison, Named, read_spec
from activebdl.sweep import compare, comparison_folder

CHANGES = {"posterior.training.steps": 2, "budget": 30, "query_size": 5, "draws": 3, "test_draws": 3}
PICTURES = ("curves", "wins", "asked", "calibration", "time")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one comparison: bald and random, three seeds, three rounds."""
    runs = tmp_path_factory.mktemp("runs")
    spec = read_spec("digits-small", CHANGES | {"experiment": "trial"})
    names = (Named(name="bald"), Named(name="random"))
    spec = spec.model_copy(update={"compare": Comparison(strategies=names, seeds=(0, 1, 2))})
    compare(spec, comparison_folder(spec, runs))
    return runs


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def forget_rounds(journal: Path, left: int) -> None:
    """The run as it was after so many rounds."""
    with sqlite3.connect(journal) as db:
        db.execute("DELETE FROM rounds WHERE round >= ?", (left,))
    db.close()


def respell(journal: Path, **changes: object) -> None:
    """The run as if it had had other settings."""
    with sqlite3.connect(journal) as db:
        (spec,) = db.execute("SELECT value FROM about WHERE key = 'spec'").fetchone()
        db.execute("UPDATE about SET value = ? WHERE key = 'spec'", (json.dumps({**json.loads(spec), **changes}),))
    db.close()


def test_a_report_has_its_files_and_they_hold_the_numbers(runs: Path) -> None:
    written = write(runs / "trial")
    out = runs / "trial" / "report"
    assert written.document == out / "report.md"
    for name in PICTURES:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{name}.svg").read_bytes().startswith(b"<?xml")
        assert f"({name}.png)" in written.document.read_text()
    (study,), notes = studies_in(runs / "trial")
    statistics = compare_arms(study.curves)
    assert notes == [] and study.notes == ()
    assert len(rows(out / "curves.csv")) == 2 * 3 * 3 == sum(len(curve.counts) for curve in study.curves)
    for row in rows(out / "summary.csv"):
        point = statistics.arms[row["strategy"]].band[int(row["n_labels"])]
        told = [float(row[key]) for key in ("accuracy", "low", "high")]
        assert told == pytest.approx([point.mean, point.low, point.high], rel=1e-5)
    for row in rows(out / "arms.csv"):
        arm = statistics.arms[row["strategy"]]
        assert float(row["area"]) == pytest.approx(arm.area.mean, rel=1e-5)
        assert row["to_99"] == row["to_99_most"] == "never" and math.isinf(arm.prices[0.99].median)
    (row,) = rows(out / "verdicts.csv")
    (verdict,) = statistics.verdicts
    assert (row["arm"], row["against"], row["outcome"]) == ("bald", "random", verdict.outcome)
    assert float(row["area_p_holm"]) == pytest.approx(verdict.area.p_holm, rel=1e-5)
    assert str(verdict) in written.text


def test_the_report_tells_mean_and_deviation_at_each_count(runs: Path) -> None:
    text = write(runs / "trial").document.read_text()
    found = rows(runs / "trial" / "report" / "curves.csv")

    def told(count: int, metric: str, scale: float, form: str) -> str:
        cells: list[str] = []
        for strategy in ("bald", "random"):
            of = [r for r in found if r["strategy"] == strategy and int(r["n_labels"]) == count]
            values = scale * np.array([float(r[metric]) for r in of])
            cells.append(f"{values.mean():{form}} ± {values.std(ddof=1):.2{form[-1]}}")
        return " | ".join(cells)

    for count in (20, 25, 30):
        assert f"| {count} | {told(count, 'accuracy', 100, '.2f')} |\n" in text
    assert f"| ECE at 30 | {told(30, 'ece', 100, '.2f')} |\n" in text
    assert f"| NLL (nats) at 30 | {told(30, 'nll', 1, '.4g')} |\n" in text


def test_what_was_asked_is_counted_by_class(runs: Path) -> None:
    (study,), _ = studies_in(runs / "trial")
    for group in study.by_label().values():
        shares = asked_shares(group)
        assert shares is not None and shares.shape == (2, 10) and shares.sum(axis=1) == pytest.approx([1, 1])
        expected = 0
        for run in group:
            said = [line for line in read_history(run.folder / JOURNAL)[0] if line.asked_in == 1]
            assert len(said) == 5
            expected += sum(line.annotation.label == 3 for line in said) / 15
        assert shares[0, 3] == pytest.approx(expected)


def test_an_unfinished_comparison_is_reported_as_far_as_it_is(runs: Path) -> None:
    forget_rounds(runs / "trial" / "bald-mc_dropout-seed2" / JOURNAL, 1)
    forget_rounds(runs / "trial" / "random-mc_dropout-seed1" / JOURNAL, 0)
    shutil.rmtree(runs / "trial" / "bald-mc_dropout-seed1")
    told = write(runs / "trial").text
    assert "bald is not at its end, and left out of all numbers: seed 2 at 20 labels." in told
    assert "random-mc_dropout-seed1 has not finished its first round." in told
    assert "nothing yet of bald with seed 1, random with seed 1" in told
    assert "1 seed (left out, for only one of the two has them: seed 2)" in told
    assert "nothing yet of bald with seed 1" in (runs / "trial" / "report" / "report.md").read_text()
    for journal in runs.rglob(JOURNAL):
        forget_rounds(journal, 2)
    told = str(compare_arms(studies_in(runs / "trial")[0][0].curves))
    assert told == "All runs have their first labels alone in common, so there is nothing to compare yet."
    for journal in runs.rglob(JOURNAL):
        forget_rounds(journal, 0)
    with pytest.raises(UserError, match="nothing to report of 'trial' yet"):
        write(runs / "trial")


def test_runs_of_several_protocols_are_never_averaged(runs: Path) -> None:
    for seed in range(3):
        respell(runs / "trial" / f"bald-mc_dropout-seed{seed}" / JOURNAL, draws=9)
    written = write(runs / "trial")
    assert "2 protocols, which are never averaged together" in written.text
    assert "draws 9" in written.text and "draws 3" in written.text
    contents = written.document.read_text()
    assert "| report | runs | `draws` |" in contents and "(trial-1/report.md) | 3 | 9 |" in contents
    assert "There is one arm" in written.text
    folder = runs / "trial" / "report"
    assert {row["strategy"] for row in rows(folder / "trial-1" / "curves.csv")} == {"bald"}
    assert {row["strategy"] for row in rows(folder / "trial-2" / "curves.csv")} == {"random"}


def test_posteriors_of_one_name_are_told_apart_by_what_differs(runs: Path) -> None:
    (study,), _ = studies_in(runs / "trial")
    posterior = study.spec.posterior.model_dump()
    for seed in range(3):
        other = {**posterior, "training": {**posterior["training"], "steps": 9}}
        respell(runs / "trial" / f"bald-mc_dropout-seed{seed}" / JOURNAL, posterior=other)
    (study,), _ = studies_in(runs / "trial")
    assert {curve.posterior for curve in study.curves} == {"mc_dropout(steps=2)", "mc_dropout(steps=9)"}


def test_a_run_that_stands_twice_counts_once(runs: Path) -> None:
    shutil.copytree(runs / "trial" / "bald-mc_dropout-seed0", runs / "trial" / "copy")
    forget_rounds(runs / "trial" / "bald-mc_dropout-seed0" / JOURNAL, 2)
    (study,), _ = studies_in(runs / "trial")
    assert len(study.runs) == 6
    assert any("bald-mc_dropout-seed0 is left out: " in note and "trial/copy" in note for note in study.notes)
    assert {len(curve.counts) for curve in study.curves} == {3}


def test_the_command_finds_an_experiment_wherever_its_runs_are(runs: Path) -> None:
    (runs / "trial" / "comparison.yaml").unlink()
    (runs / "trial").rename(runs / "elsewhere")
    told = CliRunner().invoke(app, ["report", "trial", "--runs", str(runs), "--against", "bald"])
    assert told.exit_code == 0, told.output
    assert "AULC" in told.output and "cannot tell random from bald" in told.output
    place = runs / "reports" / "trial" / "report.md"
    assert f"report    {place}" in told.output and place.is_file()


def test_a_comparison_ends_with_its_verdicts(runs: Path) -> None:
    (study,), _ = studies_in(runs / "trial")
    told = conclude(study.curves, runs / "trial")
    assert told.startswith(table(study.curves)) and str(compare_arms(study.curves)) in told
    assert told.endswith(f"report    {runs / 'trial' / 'report' / 'report.md'}")
    bald = [curve for curve in study.curves if curve.strategy == "bald"]
    assert conclude(bald, runs / "trial") == table(bald)
    shutil.rmtree(runs / "trial" / "report")
    (runs / "trial" / "report").write_text("")
    assert "There is no report: " in conclude(study.curves, runs / "trial")


def test_mistakes_are_told_before_anything_is_written(runs: Path) -> None:
    with pytest.raises(UserError, match=r"no comparison, experiment or folder 'trail' in .* Known: trial\."):
        find_studies("trail", runs)
    with pytest.raises(UserError, match=r"no strategy 'badge' to compare with. There are: bald, random\."):
        write(runs / "trial", against="badge")
    assert not (runs / "trial" / "report").exists()
    (runs / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(runs / "trial", out=runs / "file" / "report")
    (runs / "empty").mkdir()
    with pytest.raises(UserError, match="nothing to report of 'empty' yet"):
        write(runs / "empty")
