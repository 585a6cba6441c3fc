"""A comparison: every strategy with every seed, one run after the other, and their curves side by side.

    runs/NAME/comparison.yaml                         what all its runs have in common
    runs/NAME/power_bald-mc_dropout-seed0/            a run each, see `activebdl.runs`
    runs/NAME/curves.png, curves.csv, table.txt       written anew after every run

What is finished is not done again.
"""

import uuid
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from activebdl.build import build, make_dataset, resolved
from activebdl.errors import UserError
from activebdl.files import write_safely
from activebdl.progress import say
from activebdl.report import Curve, write_report
from activebdl.run_folders import COMMON, begun, folder_for, read_comparison, run_name
from activebdl.runs import NO_TRACKING, Tracking, resume, start
from activebdl.spec import Comparison, RunSpec


def comparison_folder(spec: RunSpec, runs: Path, name: str | None = None) -> Path:
    """Where the comparison lives: a folder that holds the same one already, so that it goes on, or a fresh one.

    Args:
        spec: What its runs have in common; their strategies and seeds may differ from those that are there.
        runs: The folder of all runs.
        name: Its name; the experiment's when not given.
    """
    return folder_for(runs, name or spec.experiment, lambda folder: _holds(folder, spec))


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
        resolved(spec.model_copy(update={"strategy": strategy, "seed": seed, "compare": Comparison()}))
        for seed in spec.compare.seeds
        for strategy in spec.compare.strategies
    ]
    for child in children:
        build(child, dataset=dataset, folder=folder)
    uid = _claim(folder, spec)
    curves: list[Curve] = []
    with tracking.comparison(folder.name, uid) as tracking:
        for number, child in enumerate(children, start=1):
            say(f"\n[{number}/{len(children)}] {child.strategy.name}, {child.posterior.name}, seed {child.seed}")
            name = run_name(child).removeprefix(f"{child.experiment}-")
            place = folder_for(folder, name, lambda place, child=child: _is_of(place, child))
            go = partial(start, child) if begun(place) is None else resume
            curves.append(go(place, tracking=tracking, dataset=dataset))
            write_report(curves, folder)
    return curves


def _common(spec: RunSpec) -> dict[str, Any]:
    """What all runs of a comparison share, as plain data."""
    return resolved(spec).model_dump(mode="json", exclude={"strategy", "seed", "compare"})


def _holds(folder: Path, spec: RunSpec) -> bool:
    """Whether the folder is of a comparison with this spec, whichever its strategies and seeds."""
    there = read_comparison(folder)
    return there is not None and _common(there) == _common(spec)


def _is_of(place: Path, child: RunSpec) -> bool:
    """Whether a folder is free for a run or has it, though begun when there were fewer settings than today."""
    known = begun(place)
    return known in (None, child) or resolved(known) == child


def _claim(folder: Path, spec: RunSpec) -> str:
    """Writes what the comparison is; returns its uid, which stays the same when it goes on."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be made: {error.strerror or error}.") from error
    file = folder / COMMON
    uid: str = yaml.safe_load(file.read_text(encoding="utf-8"))["uid"] if _holds(folder, spec) else uuid.uuid4().hex
    content = {"uid": uid, "spec": _common(spec), "compare": spec.compare.model_dump(mode="json")}
    write_safely(file, yaml.safe_dump(content, sort_keys=False, default_flow_style=None))
    return uid
