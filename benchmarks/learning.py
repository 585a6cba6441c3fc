"""Active learning with each posterior, against random choice under the same posterior.

    python benchmarks/learning.py --runs runs/posteriors         # goes on where it stopped
    python benchmarks/learning.py --runs runs/posteriors --table

MNIST from 20 to 300 labels with the network and the training of the preset mnist-batchbald, each method with its own
defaults otherwise. A strategy sees 10,000 random items of the pool in each round, so that methods that draw whole sets
of weights do not take hours. The plain network never disagrees with itself; max-entropy stands in for BALD there.
"""

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from activebdl.build import named_posterior
from activebdl.metrics import area_under_curve, labels_to_accuracy
from activebdl.posteriors import posteriors
from activebdl.spec import RunSpec, read_spec
from activebdl.sweep import compare, comparison_folder

TARGETS = (0.90, 0.95)
Points = list[tuple[int, float]]


def spec_of(posterior: str, strategies: Sequence[str], seeds: Sequence[int]) -> RunSpec:
    """What is compared under one posterior."""
    if posterior == "map":
        strategies = [strategy.replace("bald", "max_entropy") for strategy in strategies]
    changes = {
        "experiment": "mnist-300-posteriors",
        "posterior": named_posterior(read_spec("mnist-batchbald"), posterior).model_dump(),
        "budget": 300,
        "candidates": 10_000,
        "draws": 20,
        "test_draws": 20,
        "compare.strategies": [{"name": name, "beta": 4} if name.startswith("power_") else name for name in strategies],
        "compare.seeds": list(seeds),
    }
    return read_spec("mnist-batchbald", changes)


def table(files: Sequence[Path]) -> str:
    """Of each posterior and strategy, over the seeds, as Markdown."""
    lines = [
        "| posterior | strategy | labels to 90 % | to 95 % | AULC | at 100 | at 300 |",
        "|---|---|---|---|---|---|---|",
    ]
    for file in files:
        runs: dict[str, dict[str, Points]] = defaultdict(lambda: defaultdict(list))
        for row in csv.DictReader(file.open()):
            runs[row["strategy"]][row["seed"]].append((int(row["n_labels"]), float(row["accuracy"])))
        lines += [_line(file.parent.name, strategy, list(seeds.values())) for strategy, seeds in runs.items()]
    return "\n".join(lines)


def _line(posterior: str, strategy: str, curves: Sequence[Points]) -> str:
    areas: list[float] = []
    prices: dict[float, list[str]] = {target: [] for target in TARGETS}
    for points in curves:
        counts, accuracies = [count for count, _ in points], [accuracy for _, accuracy in points]
        areas.append(100 * area_under_curve(counts, accuracies))
        for target, labels in prices.items():
            labels.append(str(labels_to_accuracy(counts, accuracies, target) or "never"))
    spread = f" ± {statistics.stdev(areas):.2f}" if len(areas) > 1 else ""
    cells = [posterior, strategy, *(" / ".join(labels) for labels in prices.values())]
    cells.append(f"{statistics.fmean(areas):.2f}{spread}")
    cells += [f"{100 * statistics.fmean(dict(points)[count] for points in curves):.2f} %" for count in (100, 300)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Runs what has not been run, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/posteriors"))
    parser.add_argument("--methods", default=",".join(posteriors.names()))
    parser.add_argument("--strategies", default="bald,random")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        for posterior in arguments.methods.split(","):
            spec = spec_of(posterior, arguments.strategies.split(","), range(arguments.seeds))
            compare(spec, comparison_folder(spec, arguments.runs, posterior))
    print(table(sorted(arguments.runs.glob("*/curves.csv"))))


if __name__ == "__main__":
    main()
