"""What is on the disk: folders of runs and of comparisons, their names, and how far each has come.

    runs/NAME/journal.sqlite     a run: the spec, what was asked and answered, how each round went
    runs/NAME/comparison.yaml    a comparison: what all the runs in the folder have in common

No torch is needed to read them.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from activebdl.errors import UserError
from activebdl.files import COMMON
from activebdl.journal_reading import RoundRecord, read_about, read_rounds
from activebdl.spec import Comparison, RunSpec, validate

JOURNAL = "journal.sqlite"
SPEC_FILE = "spec.yaml"


def run_name(spec: RunSpec) -> str:
    """What the run of a spec is called, when nobody says otherwise."""
    parts = [spec.experiment, short(spec.strategy.name), short(spec.posterior.name), f"seed{spec.seed}"]
    return "-".join(parts)


def folder_for(place: Path, name: str, fits: Callable[[Path], bool] = lambda folder: False) -> Path:
    """``place/name``, or ``place/name-2``, ...: the first that is not there yet, or fits."""
    folder, number = place / name, 1
    while folder.exists() and not fits(folder):
        number += 1
        folder = place / f"{name}-{number}"
    return folder


def begun(folder: Path) -> RunSpec | None:
    """The spec of the run in a folder; None when there is none, or it stopped before its spec was written."""
    known = read_about(folder / JOURNAL).get("spec") if (folder / JOURNAL).is_file() else None
    return None if known is None else validate(known, f"the spec of '{folder.name}'")


def journal_of(folder: Path) -> Path:
    """The journal of the run in a folder.

    Raises:
        UserError: There is no run.
    """
    if not (folder / JOURNAL).is_file():
        raise UserError(f"There is no run in '{folder}': it has no {JOURNAL}.")
    return folder / JOURNAL


def spec_of(folder: Path) -> RunSpec:
    """The spec of a run.

    Raises:
        UserError: There is no run, or it stopped before its spec was written.
    """
    journal, spec = journal_of(folder), begun(folder)
    if spec is None and "identity" in read_about(journal):
        raise UserError(f"The run in '{folder}' was begun by a program; that program goes on with it.")
    if spec is None:
        raise UserError(f"The run in '{folder}' stopped before it began; delete the folder and start it again.")
    return spec


@dataclass(frozen=True)
class RunInfo:
    """A run as `activebdl list runs` shows it."""

    name: str
    spec: RunSpec
    rounds: list[RoundRecord]
    ended: str | None = None

    @property
    def stopped(self) -> str | None:
        """Why it ended before its budget of labels; None where it did not."""
        return self.ended or (self.rounds[-1].results.get("stopped") if self.rounds else None)

    @property
    def finished(self) -> bool:
        """Whether it has all its labels, or something ended it before."""
        has = self.rounds[-1].n_labels if self.rounds else 0
        return self.stopped is not None or has >= self.spec.label_counts()[-1]


def list_runs(runs: Path, broken: Callable[[str, UserError], object] | None = None) -> Iterator[RunInfo]:
    """All runs in a folder, those of comparisons too, by name.

    Args:
        runs: The folder.
        broken: Told the name and the trouble of each that cannot be read; without it the first is raised.
    """
    for journal in sorted(runs.rglob(JOURNAL)):
        name = str(journal.parent.relative_to(runs))
        try:
            spec = begun(journal.parent)
            ended = read_about(journal).get("ended")
            info = None if spec is None else RunInfo(name, spec, read_rounds(journal), ended)
        except UserError as error:
            if broken is None:
                raise
            broken(name, error)
            continue
        if info is not None:
            yield info


def read_comparison(folder: Path) -> RunSpec | None:
    """What is compared in a folder; None when it holds no comparison.

    Raises:
        UserError: Its file is damaged.
    """
    known = comparison_file(folder)
    return validate({**known["spec"], "compare": known["compare"]}, f"'{folder / COMMON}'") if known else None


def asked_earlier(folder: Path) -> list[Comparison]:
    """What else earlier commands compared in a folder, beside what `read_comparison` has of the latest.

    Raises:
        UserError: Its file is damaged.
    """
    return [Comparison.model_validate(each) for each in comparison_file(folder).get("earlier", [])]


def comparison_file(folder: Path) -> dict[str, Any]:
    """What the file of a comparison says; nothing where there is none.

    Raises:
        UserError: It is damaged.
    """
    file = folder / COMMON
    if not file.is_file():
        return {}
    try:
        known = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        known = None
    if not isinstance(known, dict) or not {"uid", "spec", "compare"} <= known.keys():  # pyright: ignore[reportUnknownMemberType]
        raise UserError(
            f"'{file}' is damaged: it has no uid, spec and compare. Its runs are whole; compare them anew in another "
            "folder, or resume them one by one."
        )
    return known  # pyright: ignore[reportUnknownVariableType]


def list_comparisons(runs: Path) -> list[str]:
    """The names of all comparisons in a folder."""
    return sorted(str(common.parent.relative_to(runs)) for common in runs.rglob(COMMON))


def resume_command(folder: Path, runs: Path) -> str:
    """The command that goes on with a run or a comparison, by its place in the folder of all runs, or else its path."""
    name = folder.relative_to(runs) if folder.is_relative_to(runs) else folder
    return f"activebdl resume {shlex.quote(str(name))}{runs_option(runs)}"


def runs_option(runs: Path) -> str:
    """What a command needs beside a run's name to find it in that folder of all runs."""
    return "" if runs == Path("runs") else f" --runs {shlex.quote(str(runs))}"


def short(name: str) -> str:
    """A name that a folder can have: of a reference such as path/to/file.py:name, the name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name.rpartition(":")[2])
