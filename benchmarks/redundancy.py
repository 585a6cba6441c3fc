"""A pool that says everything several times: which strategies ask for the same thing again?

    python benchmarks/redundancy.py --repeats 5 --seeds 0,1      # goes on where it stopped
    python benchmarks/redundancy.py --repeats 5 --table          # only tells what is there

Repeated MNIST (Kirsch et al. 2019): every image of the pool several times, each time under fresh noise of standard
deviation .1. From 20 to 300 labels, 20 at a time, with the network and the training of the preset mnist-batchbald. All
strategies but random see the same 10,000 of the 300,000 items (five times) in a round, those that max-entropy of five
draws puts first, copies and all, and 100 draws of the posterior. The published curves asked for 10 at a time, with
another network and without augmentation.
"""

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from activebdl.files import write_safely
from activebdl.pictures import new_figure, png
from activebdl.spec import RunSpec, read_spec
from activebdl.sweep import compare, comparison_folder

COLOURS = {
    "power_bald": "#d55e00", "batchbald": "#0072b2", "random": "#7f7f7f",
    "bald": "#009e73", "epig": "#e69f00", "badge": "#cc79a7",
}  # fmt: skip
# 100 draws have told all they can after half a batch of 20, and 2,000 outcomes in place of 10,000 tell that as well.
OPTIONS: dict[str, dict[str, Any]] = {"power_bald": {"beta": 4}, "batchbald": {"samples": 2000}}

# Mean accuracy in % of 6 runs, from the logs that the authors of BatchBALD published with their program.
PUBLISHED_AT = (20, 50, 100, 150, 200, 250, 300)
PUBLISHED = {
    5: {
        "bald": (65.2, 75.0, 78.5, 82.6, 85.1, 88.2, 89.1),
        "random": (65.2, 77.1, 85.9, 89.5, 90.4, 91.6, 92.5),
        "batchbald": (65.3, 80.9, 89.3, 92.2, 93.0, 94.2, 95.6),
    },
}

Points = dict[int, float]  # accuracy by number of labels


def spec_of(repeats: int, strategies: Sequence[str], seed: int) -> RunSpec:
    """What is compared with one seed."""
    changes = {
        "experiment": f"repeated-mnist-x{repeats}-300",
        "dataset": {"name": "repeated_mnist", "repeats": repeats, "noise": 0.1},
        "budget": 300,
        "growth": 0.0,
        "candidates": {"top": 10_000, "by": "max_entropy", "draws": 5},
        "draws": 100,
        "test_draws": 20,
        "compare.strategies": [OPTIONS.get(name, {}) | {"name": name} for name in strategies],
        "compare.seeds": [seed],
    }
    return read_spec("mnist-batchbald", changes)


def read(runs: Path, repeats: int) -> dict[str, list[Points]]:
    """The curve of every seed that has got to the end, by strategy."""
    curves: dict[str, list[Points]] = {}
    for file in sorted(runs.glob(f"x{repeats}-seed*/curves.csv")):
        found: dict[str, Points] = defaultdict(dict)
        for row in csv.DictReader(file.open()):
            found[row["strategy"]][int(row["n_labels"])] = 100 * float(row["accuracy"])
        for strategy, points in found.items():
            curves.setdefault(strategy, []).append(points)
    return curves


def table(curves: Mapping[str, Sequence[Points]], repeats: int) -> str:
    """Mean accuracy over seeds, and each seed's at the end, beside what was published; as Markdown."""
    counts = [count for count in next(iter(curves.values()))[0] if count in (20, 60, 100, 200, 300)]
    lines = [
        f"| x{repeats} | seeds | {' | '.join(map(str, counts))} | each seed at 300 |",
        "|---" * (len(counts) + 3) + "|",
    ]
    for strategy, seeds in curves.items():
        means = [f"{statistics.fmean(points[count] for points in seeds):.1f}" for count in counts]
        ends = " / ".join(f"{points[counts[-1]]:.2f}" for points in seeds)
        lines.append(f"| {strategy} | {len(seeds)} | {' | '.join(means)} | {ends} |")
    for strategy, heights in PUBLISHED.get(repeats, {}).items():
        known = dict(zip(PUBLISHED_AT, heights, strict=True))
        cells = [f"{known[count]:.1f}" if count in known else "" for count in counts]
        lines.append(f"| {strategy}, published | 6 | {' | '.join(cells)} | |")
    return "\n".join(lines)


def picture(curves: Mapping[str, Sequence[Points]], repeats: int) -> bytes:
    """Mean over seeds with a band from the worst to the best; the published means are dashed."""
    figure = new_figure(8, 5, dpi=144)
    axes: Any = figure.add_subplot()
    for strategy, seeds in curves.items():
        counts, colour = list(seeds[0]), COLOURS[strategy.partition("(")[0]]
        columns = [[points[count] for points in seeds] for count in counts]
        means = [statistics.fmean(column) for column in columns]
        axes.plot(counts, means, color=colour, label=f"{strategy}, {means[-1]:.1f} % at the end")
        axes.fill_between(counts, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15)
    for strategy, heights in PUBLISHED.get(repeats, {}).items():
        axes.plot(
            PUBLISHED_AT, heights, "--", color=COLOURS[strategy], label=f"{strategy}, Kirsch et al. 2019: {heights[-1]}"
        )
    axes.set(xlabel="labels", ylabel="test accuracy, %", ylim=(60, 100), title=f"MNIST, every image {repeats} times")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize="small")
    return png(figure)


def keep(curves: Mapping[str, Sequence[Points]], repeats: int, place: Path) -> None:
    """Writes every point, and the picture."""
    lines = ["strategy,run,n_labels,accuracy"]
    for strategy, seeds in curves.items():
        for run, points in enumerate(seeds):
            lines += [f'"{strategy}",{run},{count},{accuracy:.2f}' for count, accuracy in points.items()]
    for strategy, heights in PUBLISHED.get(repeats, {}).items():
        pairs = zip(PUBLISHED_AT, heights, strict=True)
        lines += [f'"{strategy}, published",,{count},{accuracy}' for count, accuracy in pairs]
    write_safely(place / f"repeated-mnist-x{repeats}.csv", "\n".join(lines) + "\n")
    write_safely(place / f"repeated-mnist-x{repeats}.png", picture(curves, repeats))


def main() -> None:
    """Runs what has not been run, or tells what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/redundancy"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--strategies", default=",".join(COLOURS))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--out", type=Path, default=Path("runs/reference"), help="where the points and the picture go")
    parser.add_argument("--table", action="store_true", help="only tell what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        for seed in map(int, arguments.seeds.split(",")):
            spec = spec_of(arguments.repeats, arguments.strategies.split(","), seed)
            compare(spec, comparison_folder(spec, arguments.runs, f"x{arguments.repeats}-seed{seed}"))
    curves = read(arguments.runs, arguments.repeats)
    print(table(curves, arguments.repeats))
    keep(curves, arguments.repeats, arguments.out)


if __name__ == "__main__":
    main()
