"""Every posterior on the same labels: how good its predictions are, how well it knows what it has never seen, its cost.

    python benchmarks/posteriors.py --out posteriors.csv        # goes on where it stopped
    python benchmarks/posteriors.py --out posteriors.csv --table

MNIST, random labels (those of 20 are among those of 100), the network and the training of the preset mnist-batchbald,
each method with its own defaults otherwise. Out of distribution: the Fashion-MNIST test images, told from MNIST's by
the entropy of the predictive.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from activebdl import ActiveDataset, load
from activebdl.build import make_fresh, make_method
from activebdl.data import Labelled
from activebdl.devices import choose_device, describe
from activebdl.likelihoods import Categorical
from activebdl.metrics import evaluate
from activebdl.posteriors import Draws, posteriors
from activebdl.randomness import generator
from activebdl.scoring import Scorer, entropy, predictive
from activebdl.spec import Named, read_spec

DRAWS = 30
FIELDS: tuple[str, ...] = (
    "method",
    "n",
    "seed",
    "accuracy",
    "nll",
    "ece",
    "brier",
    "auroc",
    "fit_seconds",
    "samples_per_second",
)


def measure(
    name: str, n: int, seed: int, known: ActiveDataset, strange: ActiveDataset, device: str
) -> dict[str, float]:
    """One fit, and all that is told of it."""
    spec = read_spec("mnist-batchbald")
    method = make_method(Named.model_validate({"name": name, "training": spec.posterior.options["training"]}))
    on = choose_device(device)
    assert known.labels is not None
    ids = torch.randperm(len(known.labels), generator=generator(seed, 0, "labels"))[:n]
    labelled = Labelled(known.pool[ids].to(on), known.labels[ids].to(on), Categorical(10), known.normalise)
    begin = time.perf_counter()
    posterior = method.fit(make_fresh(spec.network, known), labelled, generator=generator(seed, n, "fit"))
    fit_seconds = time.perf_counter() - begin
    draws = posterior.draw(DRAWS, generator=generator(seed, n, "test"))
    begin = time.perf_counter()
    inside = predict(draws, known, known, on)
    samples_per_second = len(known.test) * DRAWS / (time.perf_counter() - begin)
    doubts = torch.cat([entropy(inside), entropy(predict(draws, strange, known, on))])
    is_strange = torch.arange(len(doubts)) >= len(inside)
    return {
        **evaluate(inside, known.test_labels),
        "auroc": float(roc_auc_score(is_strange, doubts)),
        "fit_seconds": fit_seconds,
        "samples_per_second": samples_per_second,
    }


def predict(draws: Draws, data: ActiveDataset, fitted: ActiveDataset, device: torch.device) -> Tensor:
    """The predictive of a test set ``[T, C]``, normalised as what the network was fitted to."""
    scorer = Scorer(draws, data.test, fitted.normalise, device)
    return scorer.reduce(torch.arange(len(data.test)), predictive)


def table(rows: list[dict[str, str]]) -> str:
    """Means over the seeds, the standard deviation of the accuracy, and medians of times, as Markdown."""
    lines: list[str] = []
    for n in sorted({int(row["n"]) for row in rows}):
        lines += [f"\n### {n:,} labels\n", "| method | accuracy | NLL | ECE | Brier | AUROC | fit | samples a second |"]
        lines.append("|---|---|---|---|---|---|---|---|")
        for method in sorted({row["method"] for row in rows}):
            own = [row for row in rows if row["method"] == method and int(row["n"]) == n]
            if own:
                lines.append(_line(method, own))
    return "\n".join(lines)


def _line(method: str, rows: list[dict[str, str]]) -> str:
    def mean(key: str) -> float:
        return statistics.fmean(float(row[key]) for row in rows)

    def median(key: str) -> float:  # of times, for one run that something else disturbed
        return statistics.median(float(row[key]) for row in rows)

    spread = statistics.stdev(float(row["accuracy"]) for row in rows) if len(rows) > 1 else 0.0
    return (
        f"| {method} | {100 * mean('accuracy'):.2f} ± {100 * spread:.2f} % | {mean('nll'):.3f} | {mean('ece'):.3f} "
        f"| {mean('brier'):.3f} | {mean('auroc'):.3f} | {median('fit_seconds'):.0f} s "
        f"| {median('samples_per_second'):,.0f} |"
    )


def main() -> None:
    """Measures what is not in the file yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("posteriors.csv"))
    parser.add_argument("--methods", default=",".join(posteriors.names()))
    parser.add_argument("--counts", default="20,100,1000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    rows = list(csv.DictReader(arguments.out.open())) if arguments.out.is_file() else []
    if not arguments.table:
        print(describe(choose_device(arguments.device)), "torch", torch.__version__, flush=True)
        known, strange = load("mnist"), load("fashion_mnist")
        for seed in range(arguments.seeds):
            for n in map(int, arguments.counts.split(",")):
                for method in arguments.methods.split(","):
                    key = {"method": method, "n": str(n), "seed": str(seed)}
                    if any(all(row[k] == v for k, v in key.items()) for row in rows):
                        continue
                    found = measure(method, n, seed, known, strange, arguments.device)
                    rows.append(key | {name: f"{value:.6g}" for name, value in found.items()})
                    with arguments.out.open("w", newline="") as stream:
                        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
                        writer.writeheader()
                        writer.writerows(rows)
                    print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
