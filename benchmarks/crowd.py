"""Simulated annotators that are right 70 to 90 times in 100: what becomes of their labels, and of a network.

    python benchmarks/crowd.py --runs runs/crowd     # goes on where it stopped
    python benchmarks/crowd.py --few                 # only the labels, where votes are few; a minute

MNIST, 300 labels of items drawn at random, in rounds of 60, 140 and 300, the network and the training of the preset
mnist-batchbald. With one seed all rows have the same items, the same votes and the same first weights; only the labels
differ. Each annotator is better than the one before, and errs in a way of their own; see the oracle crowd.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from activebdl import ActiveDataset, ActiveLearning, load
from activebdl.annotations import standing
from activebdl.build import make_fresh, make_method
from activebdl.files import write_safely
from activebdl.journal import Journal
from activebdl.oracles import Oracle, make_oracle
from activebdl.oracles._consensus import dawid_skene, majority
from activebdl.oracles.noisy import class_answers, draw_confusions
from activebdl.spec import read_spec

COUNTS = (60, 140, 300)
ACCURACY = (0.7, 0.9)
ANNOTATORS = 5

MakeOracle = Callable[[ActiveDataset, int], Oracle]


@dataclass(frozen=True)
class Result:
    """What a run came to: shares from 0 to 1, and what was revised after it had been answered."""

    votes: float
    labels: float
    test: float
    revised: int


def one_annotator(dataset: ActiveDataset, seed: int) -> Oracle:
    """The one in the middle, who is right on 80 %."""
    matrix = draw_confusions(ANNOTATORS, len(dataset.classes), ACCURACY, seed)[ANNOTATORS // 2]
    options = {"confusion": matrix, "annotator": f"annotator-{ANNOTATORS // 2 + 1}", "cost": 1.0}
    return make_oracle("noisy", dataset, options=options, seed=seed)


def crowd(consensus: str, votes: int) -> MakeOracle:
    """All annotators, of whom so many see each item."""
    options = {"annotators": ANNOTATORS, "accuracy": ACCURACY, "consensus": consensus, "votes": votes, "cost": 1.0}
    return lambda dataset, seed: make_oracle("crowd", dataset, options=options, seed=seed)


ROWS: dict[str, MakeOracle] = {
    "the true labels": lambda dataset, seed: make_oracle("dataset", dataset),
    "one annotator, 80 %": one_annotator,
    "majority of 3": crowd("majority", 3),
    "Dawid-Skene of 3": crowd("dawid_skene", 3),
    "majority of 5": crowd("majority", 5),
    "Dawid-Skene of 5": crowd("dawid_skene", 5),
}


def run(dataset: ActiveDataset, name: str, seed: int, runs: Path) -> Result:
    """One run to the end, or what its journal says of it."""
    spec = read_spec("mnist-batchbald")
    place = runs / f"{name.replace(' ', '-').replace('-%', '').replace(',', '')}-{seed}.sqlite"
    place.parent.mkdir(parents=True, exist_ok=True)
    cycle = ActiveLearning(
        dataset, make_fresh(spec.network, dataset), counts=COUNTS, posterior=make_method(spec.posterior),
        strategy="random", oracle=ROWS[name](dataset, seed), test_draws=spec.test_draws, seed=seed, journal=place,
    )  # fmt: skip
    *_, last = cycle
    with Journal(place) as journal:
        history = journal.history()
    assert dataset.labels is not None
    answers = standing(history)
    right = sum(answer.label == int(dataset.labels[id]) for id, answer in answers.items())
    said = [annotation for annotation in history if annotation.role == "answer"]
    votes = sum(annotation.role == "vote" for annotation in history) or len(said)
    return Result(votes / len(answers), right / len(answers), last.metrics["accuracy"], len(said) - len(answers))


def table(results: Mapping[str, list[Result]]) -> str:
    """As Markdown, over the seeds, each seed's number beside the mean."""
    lines = [
        "| labels from | votes an item | labels that are right | test accuracy | revised |",
        "|---|---|---|---|---|",
    ]
    for name, of in results.items():
        votes = "0" if name == next(iter(ROWS)) else f"{of[0].votes:g}"
        cells = [name, votes, _seeds([r.labels for r in of]), _seeds([r.test for r in of])]
        lines.append(f"| {' | '.join(cells)} | {' / '.join(str(r.revised) for r in of)} |")
    return "\n".join(lines)


def few(trials: int = 100, items: int = 20, n_classes: int = 10) -> str:
    """How many labels are right where each trial has as few items, as Markdown.

    Every trial has five such annotators and true classes of its own, drawn evenly; everybody votes on every item.
    """
    right: dict[str, int] = {}
    for trial in range(trials):
        labels = torch.from_numpy(np.random.default_rng(trial).integers(n_classes, size=items))
        votes: dict[int, dict[str, int]] = {id: {} for id in range(items)}
        for number, matrix in enumerate(draw_confusions(ANNOTATORS, n_classes, ACCURACY, trial), 1):
            answer = class_answers(labels, matrix, [0.0] * n_classes, f"annotator-{number}", trial)
            for id in votes:
                votes[id][f"annotator-{number}"] = int(cast(int, answer(id)))
        found = {
            "majority": majority(votes),
            "Dawid-Skene, maximum likelihood": _maximum_likelihood(votes),
            "Dawid-Skene, as the oracle has it": dawid_skene(votes, n_classes),
        }
        for name, consensus in found.items():
            right[name] = right.get(name, 0) + sum(consensus[id] == int(labels[id]) for id in votes)
    of = trials * items
    rows = [f"| {name} | {count} of {of} | {100 * count / of:.1f} % |" for name, count in right.items()]
    return "\n".join(["| consensus | labels that are right | share |", "|---|---|---|", *rows])


def _maximum_likelihood(votes: Mapping[int, Mapping[str, int]]) -> dict[int, int]:
    """crowd-kit's own, without pseudo-counts."""
    import pandas as pd
    from crowdkit.aggregation import DawidSkene

    rows = [(id, who, label) for id, said in votes.items() for who, label in said.items()]
    with warnings.catch_warnings():  # crowd-kit calls what pandas is about to drop
        warnings.simplefilter("ignore")
        found: Any = DawidSkene(n_iter=100).fit_predict(pd.DataFrame(rows, columns=["task", "worker", "label"]))
    return {int(id): int(label) for id, label in found.items()}


def _seeds(shares: list[float]) -> str:
    return f"**{100 * statistics.fmean(shares):.2f} %** ({' / '.join(f'{100 * share:.2f}' for share in shares)})"


def main() -> None:
    """Runs what has not been run, and prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/crowd"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--few", action="store_true", help="100 trials with 20 items each, without a network")
    parser.add_argument("--out", type=Path, help="a file that the table is written to")
    arguments = parser.parse_args()
    if arguments.few:
        _give(few(), arguments.out)
        return
    dataset = load("mnist")
    results: dict[str, list[Result]] = {}
    for seed in range(arguments.seeds):
        for name in ROWS:
            results.setdefault(name, []).append(run(dataset, name, seed, arguments.runs))
            print(name, seed, results[name][-1], flush=True)
    _give(table(results), arguments.out)


def _give(found: str, out: Path | None) -> None:
    """Prints it, and writes it where that is wanted."""
    print(found)
    if out is not None:
        write_safely(out, found + "\n")


if __name__ == "__main__":
    main()
