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
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
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


def outcomes(change: Mapping[str, Any], runs: Sequence[Path], count: int) -> Tensor:
    """``[runs * FOLDS, 2]``: the recipe with that change, on the labels of each run."""
    torch.set_num_threads(1)
    data, spec = load("mnist"), read_spec("mnist-1000", change)
    return torch.cat([held_out(spec, data, labelled_by(run, count), seed) for seed, run in enumerate(runs)])


def main() -> None:
    """Prints the table, a line at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--only", default=",".join(OPTIONS), help="changes, with commas between them")
    parser.add_argument("--jobs", type=int, default=2, help="changes that are tried at a time")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(OPTIONS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; known: {', '.join(OPTIONS)}")
    print("| change | missed, % | NLL | missed more than by the recipe | NLL more |\n|---|---|---|---|---|")
    ask = partial(outcomes, runs=arguments.runs, count=arguments.labels)
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as processes:
        recipe, *changed = (processes.submit(ask, change) for change in ({}, *(OPTIONS[name] for name in wanted)))
        _tell("recipe", recipe.result(), "", "")
        for name, found in zip(wanted, changed, strict=True):
            more = found.result() - recipe.result()
            _tell(name, found.result(), *map(_with_error, more.unbind(dim=1)))


def _tell(name: str, found: Tensor, *more: str) -> None:
    missed, nll = found.mean(dim=0).tolist()
    print(f"| {' | '.join((name, f'{missed:.2f}', f'{nll:.3f}', *more))} |", flush=True)


def _with_error(differences: Tensor) -> str:
    """Their mean and its standard error, over folds: the items of a fold share one fit."""
    return f"{differences.mean():+.3f} ± {differences.std() / math.sqrt(len(differences)):.3f}"


if __name__ == "__main__":
    main()
