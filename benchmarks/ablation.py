"""What each part of the recipe of mnist-1000 gives: one change at a time, random beside it each time.

    python -m benchmarks.ablation --runs runs/ablation                  # hours on two cores; goes on where it stopped
    python -m benchmarks.ablation --runs runs/ablation --only recipe,affine
    python -m benchmarks.ablation --runs runs/ablation --table          # of what is there

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

from activebdl.metrics import area_under_curve, labels_to_accuracy
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
    """Of each change and strategy, over the seeds, as Markdown; areas beside those of the recipe's same seeds."""
    heads = " | ".join(f"{count} labels" for count in TOLD)
    lines = [f"| change | strategy | seeds | {heads} | to 95 % | to 98 % | area, to the recipe's |", "|---" * 10 + "|"]
    recipe = _curves(folder / "recipe" / "curves.csv")
    for name in CHANGES:
        for strategy, curves in _curves(folder / name / "curves.csv").items():
            beside = {} if name == "recipe" else recipe.get(strategy, {})
            lines.append(f"| {name} | {strategy} | {_cells(curves, beside)} |")
    return "\n".join(lines)


Curves = dict[str, dict[int, float]]
"""Accuracy in percent by seed and number of labels."""


def _curves(file: Path) -> dict[str, Curves]:
    """By strategy; nothing where there is no such file yet."""
    found: dict[str, Curves] = defaultdict(lambda: defaultdict(dict))
    for row in csv.DictReader(file.open()) if file.exists() else ():
        found[row["strategy"]][row["seed"]][int(row["n_labels"])] = 100 * float(row["accuracy"])
    return found


def _cells(curves: Curves, recipe: Curves) -> str:
    cells = [str(len(curves)), *(_mean([curve[count] for curve in curves.values()]) for count in TOLD)]
    for target in (95, 98):
        labels = [labels_to_accuracy(list(curve), list(curve.values()), target) for curve in curves.values()]
        cells.append(" / ".join(str(count or "never") for count in labels))
    more = [_area(curves[seed]) - _area(recipe[seed]) for seed in curves if seed in recipe]
    return " | ".join([*cells, _mean(more, sign="+") if more else ""])


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
    print(table(arguments.runs))


if __name__ == "__main__":
    main()
