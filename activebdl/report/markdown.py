"""A report as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from activebdl.report.arms import Arm, Estimate
from activebdl.report.curves import TARGETS, by_label, common_counts
from activebdl.report.reading import Study
from activebdl.report.table import number, percent, spread
from activebdl.report.verdicts import Statistics, Verdict, told_difference, told_p

MOST_COUNTS = 30
"""Rows of the table of all counts; `summary.csv` has every one."""

_HOW = """\
- At each count: the mean over the seeds, with a 95 % interval, from four seeds on by the studentised bootstrap, below
  by Student's t.
- Area: the mean height of the learning curve from the first to the last count. It is what the verdicts go by.
- Labels to an accuracy: the median of the seeds, and the fewest and the most; "never" is the most of all.
- p: Wilcoxon's signed-rank test, two-sided, of the differences seed by seed, after Holm's correction over all arms
  that answer the same question. Effect: the matched-pairs rank-biserial correlation, 1 when every seed is in favour.
- Ahead from: the count from which on the arm is ahead at every count, each by Wilcoxon's test; counts are tested from
  the last one backwards until one does not tell, each at 5 % over the number of arms; an order that is fixed beforehand
  needs no further correction.
- Seeds needed: for four chances in five to see a difference as large as this one, at 5 %. Of few seeds it is a rough
  figure.
- Choose the number of seeds before you look: whoever adds seeds until something differs finds it more often than once
  in twenty. To follow "seeds needed", take that many new seeds.
- Intervals are of one comparison each and not corrected; p is.
"""


@dataclass(frozen=True)
class Picture:
    """A picture of the report: its file without the ending, its heading and what is said under it."""

    file: str
    heading: str
    caption: str


def document(study: Study, statistics: Statistics, pictures: Sequence[Picture], notes: Sequence[str]) -> str:
    """The report of one study."""
    verdicts = [f"- {_escaped(str(verdict))}" for verdict in statistics.verdicts] or ["- There is nothing to compare."]
    parts = [
        f"# {study.name}",
        _protocol(study),
        "\n".join(f"- {_escaped(note)}" for note in (*notes, *statistics.notes)),
        "## Verdicts",
        "\n".join(verdicts),
        *_picture(pictures[0]),
        "## Numbers",
        _arms(statistics),
        _tests(statistics.verdicts, statistics.headline),
        "## At each count",
        _counts(statistics),
        f"{'Accuracy in percent' if statistics.headline == 'accuracy' else 'RMSE'}: mean and standard deviation.",
        *[part for picture in pictures[1:] for part in _picture(picture)],
        "## How to read it",
        _HOW.strip(),
        "Numbers: `curves.csv` (every point of every run), `summary.csv` (each arm at each count), `arms.csv`, "
        "`verdicts.csv`. Pictures are there as PNG and as SVG.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def contents(studies: Sequence[Study], links: Sequence[str], notes: Sequence[str]) -> str:
    """What leads to the reports of several studies."""
    keys = list(studies[0].differs)
    rows = [
        [f"[{study.name}]({link})", str(len(study.runs)), *(_escaped(study.differs[key]) for key in keys)]
        for study, link in zip(studies, links, strict=True)
    ]
    said = "\n".join(f"- {_escaped(note)}" for note in notes)
    table = _table(["report", "runs", *(f"`{key}`" for key in keys)], rows)
    told = f"These runs are of {len(studies)} protocols, which are never averaged together. What differs:"
    return "\n\n".join(part for part in ("# Reports", told, table, said) if part) + "\n"


def _protocol(study: Study) -> str:
    spec, counts = study.spec, study.spec.label_counts()
    seeds = sorted({curve.seed for curve in study.curves})
    return (
        f"Data set {spec.dataset.name}, network {spec.network.name}, {len(counts)} rounds from {counts[0]:,} to "
        f"{counts[-1]:,} labels by oracle {spec.oracle.name}; {len(study.runs)} runs, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}."
    )


def _picture(picture: Picture) -> list[str]:
    return [f"## {picture.heading}", f"![{picture.heading}]({picture.file}.png)", picture.caption]


def _arms(statistics: Statistics) -> str:
    of_classes = statistics.headline == "accuracy"
    names = (
        ["area", f"at {statistics.last:,} labels"] if of_classes else ["mean RMSE", f"at {statistics.last:,} labels"]
    )
    head = ["arm", "seeds", *names, *(f"to {t:.0%}" for t in TARGETS if of_classes), "time per run"]
    return _table(head, [_arm(arm, of_classes) for arm in statistics.arms.values()])


def _arm(arm: Arm, of_classes: bool) -> list[str]:
    minutes = arm.seconds / 60
    return [
        _escaped(arm.label),
        str(len(arm.seeds)),
        _told(arm.area, of_classes),
        _told(arm.final, of_classes),
        *map(str, arm.prices.values()),
        f"{minutes:.1f} min" if minutes >= 1 else f"{arm.seconds:.0f} s",
    ]


def _counts(statistics: Statistics) -> str:
    """The headline of each arm at the counts that all have, and at the last one how far its probabilities go."""
    groups, counts = by_label(statistics.curves), common_counts(statistics.curves)
    of_classes = statistics.headline == "accuracy"
    shares = ("accuracy", "ece", "coverage_90")

    def row(name: str, count: int, metric: str) -> list[str]:
        cell = percent if metric in shares else number
        return [name, *(cell([curve.at(count, metric) for curve in group]) for group in groups.values())]

    rows = [row(f"{counts[at]:,}", counts[at], statistics.headline) for at in spread(len(counts), MOST_COUNTS)]
    more = (
        {"nll": "NLL (nats)", "ece": "ECE"} if of_classes else {"nll": "NLL (nats)", "coverage_90": "in 90 % interval"}
    )
    rows += [row(f"{told} at {counts[-1]:,}", counts[-1], metric) for metric, told in more.items()]
    return _table(["labels", *map(_escaped, groups)], rows)


def _tests(verdicts: Sequence[Verdict], headline: str) -> str:
    head = [
        "arm",
        "against",
        "seeds",
        "area",
        "effect",
        "p (Holm)",
        "at the end",
        "p (Holm)",
        "ahead from",
        "verdict",
        "seeds needed",
    ]
    rows = [
        [
            _escaped(each.arm),
            _escaped(each.against),
            str(len(each.seeds)),
            told_difference(each.area.mean, headline, " of area"),
            f"{each.area.effect:+.2f}",
            told_p(each.area.p_holm),
            told_difference(each.final.mean, headline),
            told_p(each.final.p_holm),
            "" if each.leads_from is None else f"{each.leads_from:,} labels",
            each.outcome,
            "" if each.outcome != "cannot tell" else "?" if each.needed is None else f"{each.needed:,}",
        ]
        for each in verdicts
    ]
    return _table(head, rows) if rows else ""


def _told(estimate: Estimate, of_classes: bool) -> str:
    if of_classes:
        ends = f" ({100 * estimate.low:.2f} - {100 * estimate.high:.2f})" if estimate.low == estimate.low else ""
        return f"{100 * estimate.mean:.2f} %{ends}"
    ends = f" ({estimate.low:.4g} - {estimate.high:.4g})" if estimate.low == estimate.low else ""
    return f"{estimate.mean:.4g}{ends}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _escaped(text: str) -> str:
    """Names such as power_bald are no emphasis."""
    return text.replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")
