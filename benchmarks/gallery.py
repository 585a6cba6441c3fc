"""Every strategy through the whole cycle on MNIST, and every start: accuracy, time and memory in one table.

    python benchmarks/gallery.py --runs runs/gallery             # goes on where it stopped
    python benchmarks/gallery.py --runs runs/gallery --table

Strategies: 20 to 100 labels, 20 at a time, from the whole pool of 60,000, 20 draws of the posterior, the network and
the training of the preset mnist-batchbald, one seed; each in a process of its own, whose peak memory is read.
Starts: accuracy at 20 labels. What is for numbers, or needs costs, has no place on MNIST.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

from activebdl.build import build
from activebdl.spec import read_spec
from activebdl.strategies import strategies, strategy_names

FIELDS = ("name", "at_20", "at_40", "at_60", "at_80", "at_100", "query_seconds", "peak_mib")


def one(strategy: str, start: str, counts: list[int]) -> dict[str, float | str]:
    """Runs one cycle in this process."""
    options = {"name": strategy, "beta": 4} if strategy.startswith("power_") else strategy
    changes = {"strategy": options, "start": start, "counts": counts, "draws": 20, "test_draws": 20}
    rounds = list(build(read_spec("mnist-batchbald", changes)))
    asked = [round.seconds["select"] for round in rounds[1:]] or [rounds[0].seconds["select"]]
    return {
        **{f"at_{round.n_labels}": round.metrics["accuracy"] for round in rounds},
        "query_seconds": round(sum(asked) / len(asked), 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,  # KiB on Linux
    }


def measure(names: list[str], file: Path, arguments: list[str]) -> None:
    """Runs, each in a process of its own, those that the file does not have."""
    done = {row["name"] for row in csv.DictReader(file.open())} if file.exists() else set[str]()
    with file.open("a", newline="") as stream:
        rows = csv.DictWriter(stream, FIELDS)
        if not done:
            rows.writeheader()
        for name in names:
            if name in done:
                continue
            command = [sys.executable, __file__, *arguments, name]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            rows.writerow({"name": name, **json.loads(told)})
            stream.flush()
            print(name, told, flush=True)


def table(file: Path, title: str) -> str:
    """As Markdown; best at the end first."""
    found = list(csv.DictReader(file.open()))
    last = max((field for field in FIELDS if field.startswith("at_") and found[0][field]), key=lambda f: int(f[3:]))
    found.sort(key=lambda row: -float(row[last]))
    columns = [field for field in FIELDS if found[0][field]]
    heads = [f"at {field[3:]}" if field.startswith("at_") else field for field in columns[1:-2]]
    lines = [f"| {title} | {' | '.join(heads)} | seconds a query | peak memory |", "|---" * (len(columns)) + "|"]
    for row in found:
        heights = [f"{100 * float(row[field]):.1f} %" for field in columns[1:-2]]
        lines.append(f"| {row['name']} | {' | '.join(heights)} | {row['query_seconds']} | {row['peak_mib']} MiB |")
    return "\n".join(lines)


def main() -> None:
    """Runs what has not been run, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--one-strategy", metavar="NAME", help="in this process")
    parser.add_argument("--one-start", metavar="NAME", help="in this process")
    arguments = parser.parse_args()
    if arguments.one_strategy:
        print(json.dumps(one(arguments.one_strategy, "random", [20, 40, 60, 80, 100])))
        return
    if arguments.one_start:
        print(json.dumps(one("random", arguments.one_start, [20])))
        return
    arguments.runs.mkdir(parents=True, exist_ok=True)
    queries, starts = arguments.runs / "strategies.csv", arguments.runs / "starts.csv"
    if not arguments.table:
        forms = ["power_bald", "softmax_bald", "softrank_bald"]
        free = [name for name in strategies.names() if not strategies.get(name).needs_model]
        measure(["balanced", *free], starts, ["--one-start"])
        measure([*strategy_names("classes", forms=False), *forms], queries, ["--one-strategy"])
    print(table(queries, "strategy"), table(starts, "start"), sep="\n\n")


if __name__ == "__main__":
    main()
