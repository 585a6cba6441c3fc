"""A comparison: every strategy with every seed, one run after the other, and their curves side by side.

runs/NAME/comparison.yaml                         what all its runs have in common
runs/NAME/power_bald-mc_dropout-seed0/            a run each, see `activebdl.runs`
runs/NAME/curves.png, curves.csv, table.txt       written anew after every run
"""

import uuid
from functools import partial
from pathlib import Path

import yaml

from activebdl.build import build, make_dataset, resolved
from activebdl.files import write_safely
from activebdl.progress import say
from activebdl.report import Curve, plot, table, to_csv
from activebdl.runs import JOURNAL, NO_TRACKING, Tracking, resume, run_name, start
from activebdl.spec import RunSpec

COMMON = "comparison.yaml"


def comparison_folder(spec: RunSpec, runs: Path, name: str | None = None) -> Path:
    """Where the comparison lives: a folder that holds the same one already, so that it goes on, or a fresh one.

    Args:
        spec: What its runs have in common; their strategies and seeds may differ from those that are there.
        runs: The folder of all runs.
        name: Its name; the experiment's when not given.
    """
    name = name or spec.experiment
    folder, number = runs / name, 1
    while folder.exists() and not _holds(folder, spec):
        number += 1
        folder = runs / f"{name}-{number}"
    return folder


def compare(spec: RunSpec, folder: Path, *, tracking: Tracking = NO_TRACKING) -> list[Curve]:
    """Runs, or goes on with, every strategy with every seed of ``spec.compare``.

    Args:
        spec: What is compared.
        folder: From `comparison_folder`.
        tracking: Sends the rounds to MLflow, all runs under one parent.

    Raises:
        UserError: A run that cannot work, before any of them begins.
    """
    dataset = make_dataset(spec.dataset)
    children = [
        resolved(spec.model_copy(update={"strategy": strategy, "seed": seed}))
        for seed in spec.compare.seeds
        for strategy in spec.compare.strategies
    ]
    for child in children:
        build(child, dataset=dataset)
    folder.mkdir(parents=True, exist_ok=True)
    curves: list[Curve] = []
    with tracking.comparison(folder.name, _claim(folder, spec)) as tracking:
        for number, child in enumerate(children, start=1):
            say(f"\n[{number}/{len(children)}] {child.strategy.name}, {child.posterior.name}, seed {child.seed}")
            child_folder = folder / run_name(child).removeprefix(f"{child.experiment}-")
            begun = (child_folder / JOURNAL).is_file()
            go = resume if begun else partial(start, child)
            curves.append(go(child_folder, tracking=tracking, dataset=dataset))
            write_report(curves, folder)
    return curves


def write_report(curves: list[Curve], folder: Path) -> None:
    """Writes the plot, the numbers and the table of a comparison."""
    write_safely(folder / "curves.png", plot(curves, folder.name))
    write_safely(folder / "curves.csv", to_csv(curves))
    write_safely(folder / "table.txt", table(curves) + "\n")


def _common(spec: RunSpec) -> str:
    """What all runs of a comparison share, as text."""
    shared = resolved(spec).model_dump(mode="json", exclude={"strategy", "seed", "compare"})
    return yaml.safe_dump(shared, sort_keys=False, default_flow_style=None)


def _holds(folder: Path, spec: RunSpec) -> bool:
    """Whether the folder is of a comparison with this spec; the first line is its uid."""
    common = folder / COMMON
    return common.is_file() and common.read_text(encoding="utf-8").partition("\n")[2] == _common(spec)


def _claim(folder: Path, spec: RunSpec) -> str:
    """Writes what the comparison is, unless it is there; returns its uid."""
    if not _holds(folder, spec):
        write_safely(folder / COMMON, f"uid: {uuid.uuid4().hex}\n{_common(spec)}")
    return (folder / COMMON).read_text(encoding="utf-8").partition("\n")[0].removeprefix("uid: ")
