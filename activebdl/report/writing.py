"""The files of a report.

report.md                              the table, the verdicts, and every picture
curves.csv                             every point of every run
summary.csv                            mean and interval of each arm at each count
arms.csv, verdicts.csv                 areas, ends, labels to each accuracy; each comparison
curves.png, wins.png, asked.png, calibration.png, time.png, and each as .svg
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activebdl.errors import UserError
from activebdl.files import write_safely
from activebdl.pictures import png, svg
from activebdl.report.curves import Curve, by_label, to_csv
from activebdl.report.markdown import Picture, contents, document
from activebdl.report.plots import (
    asked_by_class,
    calibration,
    learning_curves,
    plot,
    time_per_phase,
    win_matrix,
)
from activebdl.report.published import CAPTION, matching
from activebdl.report.reading import Study, asked_shares, class_names, phase_seconds, studies_in
from activebdl.report.table import table
from activebdl.report.verdicts import Statistics, compare_arms

FOLDER = "report"
DOCUMENT = "report.md"


@dataclass(frozen=True)
class Written:
    """A report: where it is, and what it says, to be printed."""

    document: Path
    text: str


def write_report(curves: Sequence[Curve], folder: Path) -> None:
    """Writes the numbers, the plot and the table of a comparison: the little that is wanted after every run.

    Where prices or abstentions have left no number of labels that all have, there is no plot, and the table says so.
    """
    write_safely(folder / "curves.csv", to_csv(curves))
    picture = folder / "curves.png"
    try:
        text = table(curves)
        write_safely(picture, plot(curves, folder.name))
    except UserError as error:
        text = str(error)
        picture.unlink(missing_ok=True)
    write_safely(folder / "table.txt", text + "\n")


def conclude(curves: Sequence[Curve], folder: Path) -> str:
    """What is told at the end of a comparison; where there is something to compare, its whole report is written."""
    text = ""
    try:  # the runs are done whatever can be said of them
        text = table(curves)
        if len(by_label(curves)) < 2:
            return text
        written = write(folder)
    except UserError as error:
        return f"{text}\n\nThere is no report: {error}".strip()
    return f"{written.text}\n\nreport    {written.document}"


def write(folder: Path, *, against: str | None = None, out: Path | None = None) -> Written:
    """Writes the whole report of the runs in a folder.

    Args:
        folder: Of a comparison, or of any runs.
        against: The baseline, see `activebdl.report.compare_arms`.
        out: Where to; ``folder/report`` when not given.

    Raises:
        UserError: No run in it has finished a round, or the baseline is not among them.
    """
    studies, notes = studies_in(folder)
    return write_studies(studies, out or folder / FOLDER, against=against, notes=notes)


def write_studies(
    studies: Sequence[Study], out: Path, *, against: str | None = None, notes: Sequence[str] = ()
) -> Written:
    """Writes the report of studies: of one into the folder, of several each into a folder of its own below.

    Args:
        studies: From `find_studies` or `studies_in`.
        out: Where to.
        against: The baseline.
        notes: What is to be said of all.

    Raises:
        UserError: The baseline is not among the strategies, or the folder cannot be written.
    """
    told = [compare_arms(study.curves, against) for study in studies]  # every mistake before the first file
    try:
        if len(studies) == 1:
            return _write_one(studies[0], told[0], out, notes)
        parts = [_write_one(s, statistics, out / s.name, ()) for s, statistics in zip(studies, told, strict=True)]
        links = [str(part.document.relative_to(out)) for part in parts]
        write_safely(out / DOCUMENT, contents(studies, links, notes))
    except OSError as error:
        raise UserError(f"'{out}' cannot be written: {error.strerror or error}.") from error
    apart = f"These runs are of {len(studies)} protocols, which are never averaged together."
    titles = [f"{study.name}: {_told(study.differs)}" for study in studies]
    texts = [f"{title}\n\n{part.text}" for title, part in zip(titles, parts, strict=True)]
    return Written(out / DOCUMENT, "\n\n".join([apart, *texts, *notes]))


def _write_one(study: Study, statistics: Statistics, out: Path, notes: Sequence[str]) -> Written:
    out.mkdir(parents=True, exist_ok=True)
    said = (*study.notes, *notes)
    pictures: list[Picture] = []
    for picture, figure in _figures(study, statistics):
        write_safely(out / f"{picture.file}.png", png(figure))
        write_safely(out / f"{picture.file}.svg", svg(figure))
        pictures.append(picture)
    write_safely(out / "curves.csv", to_csv(study.curves))
    write_safely(out / "summary.csv", _csv(_summary_rows(statistics)))
    write_safely(out / "arms.csv", _csv(_arm_rows(statistics)))
    write_safely(out / "verdicts.csv", _csv(_verdict_rows(statistics)))
    write_safely(out / DOCUMENT, document(study, statistics, pictures, said))
    text = f"{table(statistics.curves)}\n\n{statistics}"
    return Written(out / DOCUMENT, "\n".join([text, *said]))


def _figures(study: Study, statistics: Statistics) -> Iterable[tuple[Picture, Any]]:
    """The pictures that there is something to draw for."""
    curves, name = statistics.curves, study.name
    overlaid = matching(study.spec, [curve.strategy for curve in curves]) if statistics.headline == "accuracy" else []
    caption = "Mean over the seeds, and its 95 % interval." + (f" {CAPTION}" if overlaid else "")
    arms = {(arm.strategy, arm.posterior) for arm in statistics.arms.values()}
    begun = [curve for curve in study.curves if (curve.strategy, curve.posterior) not in arms]
    yield Picture("curves", "Learning curves", caption), learning_curves([*curves, *begun], name, overlaid)
    counted = {id(curve) for curve in curves}
    groups = {label: [r for r in runs if id(r.curve) in counted] for label, runs in study.by_label().items()}
    groups = {label: runs for label, runs in groups.items() if runs}
    if len(by_label(curves)) > 1:
        caption = (
            "How often the arm on the left is ahead of the one above, over all seeds that both have and all counts but "
            "the first, where all have the same labels; a tie is a half. Not a test: counts of one run hang together."
        )
        yield Picture("wins", "Who is ahead", caption), win_matrix(curves, f"{name}: who is ahead")
    shares = {label: share for label, runs in groups.items() if (share := asked_shares(runs)) is not None}
    if shares:
        rounds = min(len(share) for share in shares.values())
        longest = max((run for runs in groups.values() for run in runs), key=lambda run: len(run.info.rounds))
        counts = [record.n_labels for record in longest.info.rounds[1 : rounds + 1]]
        caption = "The share of each class in what was asked for after the start, round by round, over the seeds."
        cut = {label: share[:rounds] for label, share in shares.items()}
        yield (
            Picture("asked", "What was asked for", caption),
            asked_by_class(cut, counts, class_names(longest), f"{name}: what was asked for"),
        )
    caption = "How far the probabilities can be trusted: lower is better. 95 % intervals."
    if statistics.headline != "accuracy":
        caption = "How far the predicted intervals can be trusted: nine of ten should hold. 95 % intervals."
    yield Picture("calibration", "Calibration", caption), calibration(curves, f"{name}: calibration")
    caption = "What a run spends on fitting, choosing, waiting for labels, and the test set, on average."
    seconds = {label: phase_seconds(runs) for label, runs in groups.items()}
    yield Picture("time", "Time", caption), time_per_phase(seconds, f"{name}: time")


def _summary_rows(statistics: Statistics) -> Iterable[Sequence[object]]:
    yield "strategy", "posterior", "n_labels", "seeds", statistics.headline, "low", "high"
    for arm in statistics.arms.values():
        for count, point in arm.band.items():
            yield arm.strategy, arm.posterior, count, len(arm.seeds), point.mean, point.low, point.high


def _arm_rows(statistics: Statistics) -> Iterable[Sequence[object]]:
    targets = sorted({target for arm in statistics.arms.values() for target in arm.prices})
    ends = [f"{what}{end}" for what in ("area", "final") for end in ("", "_low", "_high")]
    prices = [f"to_{100 * t:g}{which}" for t in targets for which in ("", "_fewest", "_most")]
    yield "strategy", "posterior", "seeds", "up_to", *ends, *prices, "seconds"
    for arm in statistics.arms.values():
        values = [v for e in (arm.area, arm.final) for v in (e.mean, e.low, e.high)]
        needed = [(p, v) for t in targets for p in [arm.prices[t]] for v in (p.median, p.fewest, p.most)]
        labels = [p.told(v) if math.isinf(v) else int(v) for p, v in needed]
        yield arm.strategy, arm.posterior, len(arm.seeds), statistics.last, *values, *labels, arm.seconds


def _verdict_rows(statistics: Statistics) -> Iterable[Sequence[object]]:
    fields = ("gain", "low", "high", "rank_biserial", "p", "p_holm")
    measures = [f"{measure}_{field}" for measure in ("area", "final") for field in fields]
    yield "arm", "against", "outcome", "seeds", *measures, "comparisons", "leads_from", "seeds_needed"
    for each in statistics.verdicts:
        numbers = [
            value
            for test in (each.area, each.final)
            for value in (test.mean.mean, test.mean.low, test.mean.high, test.effect, test.p, test.p_holm)
        ]
        counts = ["" if count is None else count for count in (each.leads_from, each.needed)]
        yield each.arm, each.against, each.outcome, len(each.seeds), *numbers, each.comparisons, *counts


def _csv(rows: Iterable[Sequence[object]]) -> str:
    """Numbers with six digits; nothing where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(["" if v != v else f"{v:.6g}" if isinstance(v, float) else v for v in row])
    return text.getvalue()


def _told(differs: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in differs.items())
