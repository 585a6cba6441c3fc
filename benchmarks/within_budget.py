"""Whether a run's own labels would have chosen its recipe: cross-validation within the labels that it bought.

    python -m benchmarks.within_budget runs/mnist-1000/power_bald-mc_dropout-seed0 ...   # as many runs as there are
    python -m benchmarks.within_budget RUN --labels 300 --only affine

The recipe of mnist-1000 was chosen on training images whose labels no run pays for. Here nothing is looked at but the
labels in the journals of finished runs: five folds, fitted to four, asked of the fifth, for the recipe and for one
change at a time. Labels that a strategy asks for are harder than the pool, and the errors so many more than on a test
set; what counts is the difference, on the same folds.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from activebdl import ActiveDataset, Labelled, load
from activebdl.build import make_fresh, make_method
from activebdl.journal_reading import read_history
from activebdl.likelihoods import Categorical
from activebdl.run_folders import JOURNAL
from activebdl.scoring import predictive
from activebdl.spec import RunSpec, read_spec
from benchmarks.ablation import CHANGES

FOLDS = 5
DRAWS = 20
OPTIONS = {
    **{
        name: CHANGES[name] for name in ("no-augmentation", "affine", "batchbald-cnn", "dropout-half", "three-networks")
    },
    "dropout-fifth": {"network.dropout": 0.2},
    "half-the-steps": {"posterior.training.steps": 150, "posterior.training.steps_per_label": 0.25},
    "twice-the-steps": {"posterior.training.steps": 600, "posterior.training.steps_per_label": 1.0},
    "swag": {"posterior.name": "swag"},
}
"""By name, what differs from the preset; what concerns the choice of items or the pool cannot be told so."""


def labelled_by(run: Path, count: int) -> Tensor:
    """The ids of a run's first labels, in the order in which they came."""
    lines, _ = read_history(run / JOURNAL)
    return torch.tensor(list(dict.fromkeys(line.annotation.id for line in lines))[:count])


def held_out(spec: RunSpec, data: ActiveDataset, ids: Tensor, seed: int) -> Tensor:
    """``[FOLDS, 2]``: of each fold, by the fit to the others, the percentage missed and the mean NLL in nats."""
    assert data.labels is not None
    fold = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed)) % FOLDS
    found = torch.zeros(FOLDS, 2, dtype=torch.float64)
    for number in range(FOLDS):
        rng = torch.Generator().manual_seed(1000 * seed + number)
        known, asked = ids[fold != number], ids[fold == number]
        labelled = Labelled(data.pool[known], data.labels[known], Categorical(len(data.classes)), data.normalise)
        posterior = make_method(spec.posterior).fit(make_fresh(spec.network, data), labelled, generator=rng)
        mean = predictive(posterior.draw(DRAWS, generator=rng).log_probs(data.normalise(data.pool[asked])).double())
        truth = data.labels[asked]
        found[number, 0] = 100 * (mean.argmax(dim=1) != truth).double().mean()
        found[number, 1] = -mean.gather(1, truth[:, None]).mean()
    return found


def main() -> None:
    """Prints the table, a line at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--only", default=",".join(OPTIONS), help="changes, with commas between them")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(OPTIONS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; known: {', '.join(OPTIONS)}")
    data = load("mnist")
    print("| change | missed, % | NLL | missed more than by the recipe | NLL more |\n|---|---|---|---|---|")

    def outcomes(change: dict[str, Any]) -> Tensor:
        spec = read_spec("mnist-1000", change)
        runs = enumerate(arguments.runs)
        return torch.cat([held_out(spec, data, labelled_by(run, arguments.labels), seed) for seed, run in runs])

    recipe = outcomes({})
    _tell("recipe", recipe, "", "")
    for name in wanted:
        found = outcomes(OPTIONS[name])
        _tell(name, found, *(_with_error(more) for more in (found - recipe).unbind(dim=1)))


def _tell(name: str, found: Tensor, *more: str) -> None:
    missed, nll = found.mean(dim=0).tolist()
    print(f"| {' | '.join((name, f'{missed:.2f}', f'{nll:.3f}', *more))} |", flush=True)


def _with_error(differences: Tensor) -> str:
    """Their mean and its standard error, over folds: the items of a fold share one fit."""
    return f"{differences.mean():+.3f} ± {differences.std() / math.sqrt(len(differences)):.3f}"


if __name__ == "__main__":
    main()
