"""The folder of a comparison: whose it is, what it says that all runs have in common, and where each of them lives."""

import contextlib
import uuid
from collections.abc import Generator
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from activebdl.build import resolved
from activebdl.errors import UserError
from activebdl.files import COMMON, write_safely
from activebdl.progress import say
from activebdl.run_folders import (
    asked_earlier,
    begun,
    comparison_file,
    folder_for,
    read_comparison,
    run_name,
)
from activebdl.spec import BUDGETS, RunSpec
from activebdl.sweep._children import Task

_OWN = ("strategy", "seed", "shards", "compare")
"""Settings in which the runs of one comparison may differ."""


def comparison_folder(spec: RunSpec, runs: Path, name: str | None = None) -> Path:
    """Where the comparison lives: a folder that holds the same one already, so that it goes on, or a fresh one.

    Args:
        spec: What its runs have in common; their strategies, posteriors and seeds may differ from those that are there.
        runs: The folder of all runs.
        name: Its name; the experiment's when not given.
    """
    return folder_for(runs, name or spec.experiment, lambda folder: _holds(folder, spec))


def with_budget_given(spec: RunSpec, folder: Path) -> RunSpec:
    """The spec, with the larger budget that the comparison in the folder was given since it was begun with this one."""
    shared, there = _common(spec), _there(folder)
    if shared not in there or shared == there[0]:
        return spec
    more = spec.with_budgets_of(there[0])
    say(f"'{folder.name}' was given a larger budget: {more.label_counts()[-1]:,} labels")
    return more


@contextlib.contextmanager
def held(folder: Path) -> Generator[None]:
    """The folder for this process alone: two that share the children out differently would fight for each."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{COMMON}.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"Another process is working on the comparison '{folder}'. Wait for it, or stop it.") from None
    except OSError as error:
        raise UserError(f"'{folder}' cannot be made or written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()


def claim(folder: Path, spec: RunSpec) -> str:
    """Writes what the comparison is; returns its uid, which stays the same when it goes on."""
    shared, there = _common(spec), _there(folder)
    if there and not shared.continues(there[0]):
        raise UserError(f"The folder '{folder}' holds another comparison, or this one with a larger budget.")
    known = read_comparison(folder)
    before = [] if known is None else [known.compare, *asked_earlier(folder)]
    uid: str = comparison_file(folder).get("uid") or uuid.uuid4().hex
    content = {
        "uid": uid,
        "spec": shared.model_dump(mode="json", exclude=set(_OWN)),
        "compare": spec.compare.model_dump(mode="json"),
        "earlier": [other.model_dump(mode="json") for other in before if not spec.compare.covers(other)],
        "begun": (there or (shared,))[-1].model_dump(mode="json", include=set(BUDGETS)),
    }
    write_safely(folder / COMMON, yaml.safe_dump(content, sort_keys=False, default_flow_style=None))
    return uid


def placed(children: list[RunSpec], folder: Path) -> list[Task]:
    """Each with its folder: the one where it has begun, or a fresh one of its own.

    With them those of earlier commands that were to have less than these are.
    """
    children = [*children, *_with_less(folder, children)]
    names = [run_name(child).removeprefix(f"{child.experiment}-") for child in children]
    places: dict[int, Path] = {}
    for number, (child, name) in enumerate(zip(children, names, strict=True)):
        place = folder_for(folder, name, lambda place, child=child: _is_of(place, child))
        if place.exists():
            places[number] = place
    for number in range(len(children)):
        if number not in places:
            place = folder_for(folder, names[number], lambda place: place not in places.values() and not begun(place))
            place.mkdir(exist_ok=True)
            places[number] = place
    return [Task(child, places[number]) for number, child in enumerate(children)]


def _holds(folder: Path, spec: RunSpec) -> bool:
    """Whether the folder is of a comparison with this spec, whichever its strategies, posteriors and seeds."""
    return _common(spec) in _there(folder)


def _there(folder: Path) -> tuple[RunSpec, ...]:
    """What the runs of the comparison in a folder share, as it is and as it was begun; nothing where there is none."""
    there = read_comparison(folder)
    if there is None:
        return ()
    now, budgets = _common(there), comparison_file(folder).get("begun")
    return (now,) if budgets is None else (now, now.with_budgets_of(RunSpec.model_validate(budgets)))


def _common(spec: RunSpec) -> RunSpec:
    """What all runs of a comparison share: other posteriors take over the training of the spec's own."""
    defaults = {key: RunSpec.model_fields[key].get_default() for key in _OWN}
    return resolved(spec).model_copy(update=defaults)


def _is_of(place: Path, child: RunSpec) -> bool:
    """Whether a run has begun in a folder, maybe with a smaller budget, or when there were fewer settings."""
    known = begun(place)
    return known is not None and child.continues(resolved(known))


def _with_less(folder: Path, children: list[RunSpec]) -> list[RunSpec]:
    """Runs of earlier commands, with other strategies or seeds, that were to have less than these children are."""
    found: list[RunSpec] = []
    for place in sorted(folder.iterdir()):
        with contextlib.suppress(UserError):  # it names something that is not there any more
            known = begun(place)
            if known is None:
                continue
            less = resolved(known)
            more = less.with_budgets_of(children[0])
            if more != less and more.continues(less) and more not in children:
                found.append(more)
    return found
