"""Simulated annotators that are right 70 to 90 times in 100: what becomes of their labels, and of a network.

    python benchmarks/crowd.py --runs runs/crowd     # goes on where it stopped

MNIST, 300 labels of items drawn at random, in rounds of 60, 140 and 300, the network and the training of the preset
mnist-1000. With one seed all rows have the same items, the same votes and the same first weights; only the labels
differ. Each annotator is better than the one before, and errs in a way of their own; see the oracle crowd.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from activebdl import ActiveDataset, ActiveLearning, load
from activebdl.annotations import standing
from activebdl.build import make_fresh, make_method
from activebdl.files import write_safely
from activebdl.journal import Journal
from activebdl.oracles import Oracle, make_oracle
from activebdl.oracles.noisy import draw_confusions
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
    spec = read_spec("mnist-1000")
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


def _seeds(shares: list[float]) -> str:
    return f"**{100 * statistics.fmean(shares):.2f} %** ({' / '.join(f'{100 * share:.2f}' for share in shares)})"


def main() -> None:
    """Runs what has not been run, and prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/crowd"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a file that the table is written to")
    arguments = parser.parse_args()
    dataset = load("mnist")
    results: dict[str, list[Result]] = {}
    for seed in range(arguments.seeds):
        for name in ROWS:
            results.setdefault(name, []).append(run(dataset, name, seed, arguments.runs))
            print(name, seed, results[name][-1], flush=True)
    print(table(results))
    if arguments.out is not None:
        write_safely(arguments.out, table(results) + "\n")


if __name__ == "__main__":
    main()
