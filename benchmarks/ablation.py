"""What each part of the recipe of mnist-1000 gives: one change at a time, random beside it each time.

    python -m benchmarks.ablation --runs runs/ablation            # two hours on two cores; goes on where it stopped
    python -m benchmarks.ablation --runs runs/ablation --only recipe,affine
    python -m benchmarks.ablation --runs runs/ablation --table    # of what is there; all of it is in ablation.csv

The test set has no part in it, as it had none in the choice of the recipe: MNIST's last 10,000 training images stand in
for it, and the pool is the other 50,000 (`dataset.tuning`). From 20 to 300 labels, strategies see 10,000 random items.
"""

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from activebdl.files import write_safely
from activebdl.metrics import area_under_curve
from activebdl.spec import RunSpec, read_spec
from activebdl.sweep import compare, comparison_folder
from activebdl.sweep._processes import Processes

COUNTS = [20, 40, 80, 150, 300]
TOLD = (40, 80, 150, 300)
POWER_BALD: dict[str, Any] = {"name": "power_bald", "beta": 4}

CHANGES: dict[str, dict[str, Any]] = {
    "recipe": {},
    "no-augmentation": {"posterior.training.augmentation": None},
    "affine": {"posterior.training.augmentation": "affine"},
    "batchbald-cnn": {"network": {"name": "batchbald_cnn", "dropout": 0.5}},
    "dropout-half": {"network.dropout": 0.5},
    "random-start": {"start": "random"},
    "typiclust-start": {"start": "typiclust"},
    "three-networks": {
        "posterior.name": "ensemble",
        "posterior.members": 3,
        "posterior.dropout": True,
        "test_draws": 15,  # each of the three from each of the five views
    },
    "no-views": {"views": None},
    "views-in-scoring": {"views": {"count": 5, "scoring": True}},
    "pseudo-labels": {"posterior.training.pseudo_labels": {"from_labels": 40}},
    "pseudo-labels-aligned": {"posterior.training.pseudo_labels": {"from_labels": 40, "align": True}},
    "pretraining": {"pretraining": True},
}
"""By name, what differs from the preset. Strategies are compared under the recipe itself."""

STRATEGIES: list[Any] = [POWER_BALD, {"name": "power_bald", "beta": 1}, "bald", "power_margin", "badge", "random"]


def spec_of(name: str, seeds: int) -> RunSpec:
    """The recipe with that change."""
    changes = {
        "experiment": f"mnist-ablation {name}",
        "dataset.tuning": True,
        "counts": COUNTS,
        "candidates": 10_000,
        "keep_model": False,
        "compare.strategies": STRATEGIES if name == "recipe" else [POWER_BALD, "random"],
        "compare.seeds": list(range(seeds)),
        **CHANGES[name],
    }
    return read_spec("mnist-1000", changes)


def table(folder: Path) -> str:
    """Of each change and strategy, over the seeds, as Markdown; areas beside those of the recipe, and of random."""
    heads = " | ".join(f"{count} labels" for count in TOLD)
    lines = [f"| change | strategy | seeds | {heads} | area, to the recipe's | area, to random's |", "|---" * 9 + "|"]
    recipe = _curves(folder / "recipe" / "curves.csv")
    for name in CHANGES:
        found = _curves(folder / name / "curves.csv")
        for strategy, curves in found.items():
            heights = [_mean([curve[count] for curve in curves.values()]) for count in TOLD]
            beside = "" if name == "recipe" else _more(curves, recipe.get(strategy, {}))
            above = "" if strategy == "random" else _more(curves, found.get("random", {}))
            lines.append(f"| {' | '.join([name, strategy, str(len(curves)), *heights, beside, above])} |")
    return "\n".join(lines)


def gathered(folder: Path) -> str:
    """The curves of all changes, as CSV."""
    lines: list[str] = []
    for name in CHANGES:
        file = folder / name / "curves.csv"
        if file.exists():
            head, *rows = file.read_text().splitlines()
            lines += [*([] if lines else [f"change,{head}"]), *(f"{name},{row}" for row in rows)]
    return "\n".join(lines) + "\n"


Curves = dict[str, dict[int, float]]
"""Accuracy in percent by seed and number of labels."""


def _curves(file: Path) -> dict[str, Curves]:
    """By strategy; nothing where there is no such file yet."""
    found: dict[str, Curves] = defaultdict(lambda: defaultdict(dict))
    for row in csv.DictReader(file.open()) if file.exists() else ():
        found[row["strategy"]][row["seed"]][int(row["n_labels"])] = 100 * float(row["accuracy"])
    return found


def _more(curves: Curves, others: Curves) -> str:
    """How much more area there is than under the others, on the seeds of both."""
    more = [_area(curves[seed]) - _area(others[seed]) for seed in curves if seed in others]
    return _mean(more, sign="+") if more else ""


def _area(curve: dict[int, float]) -> float:
    """The mean accuracy over the labels, in percent."""
    return area_under_curve(list(curve), list(curve.values()))


def _mean(values: Sequence[float], sign: str = "") -> str:
    """Mean and standard deviation."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.2f}{spread}"


def main() -> None:
    """Runs what has not been run, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--only", default=",".join(CHANGES), help="changes, with commas between them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(CHANGES):
        parser.error(f"there is no {', '.join(sorted(unknown))}; known: {', '.join(CHANGES)}")
    if not arguments.table:
        for name in wanted:
            spec = spec_of(name, arguments.seeds)
            folder = comparison_folder(spec, arguments.runs, name)
            compare(spec, folder, executor=Processes(arguments.jobs))
    write_safely(arguments.runs / "ablation.csv", gathered(arguments.runs))
    print(table(arguments.runs))


if __name__ == "__main__":
    main()
