"""The folder of a comparison: whose it is, what it says that all runs have in common, and where each of them lives."""

import contextlib
import uuid
from collections.abc import Generator
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from activebdl.build import resolved
from activebdl.errors import UserError
from activebdl.files import write_safely
from activebdl.progress import say
from activebdl.run_folders import COMMON, begun, comparison_file, folder_for, read_comparison, run_name
from activebdl.spec import RunSpec
from activebdl.sweep._children import Task

_OWN = ("strategy", "seed", "shards", "compare")
"""Settings in which the runs of one comparison may differ."""

_BUDGETS = {"budget", "counts", "max_cost"}
"""Settings that may become more when it goes on."""


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
    there = read_comparison(folder)
    if there is None or not _was_begun_as(folder, spec) or _common(spec).continues(_common(there)):
        return spec
    more = spec.with_budgets_of(there)
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
    shared, there, known = _common(spec), read_comparison(folder), comparison_file(folder)
    if there is not None and not shared.continues(_common(there)):
        raise UserError(f"The folder '{folder}' holds another comparison, or this one with a larger budget.")
    uid: str = known.get("uid") or uuid.uuid4().hex
    content = {
        "uid": uid,
        "spec": shared.model_dump(mode="json", exclude=set(_OWN)),
        "compare": spec.compare.model_dump(mode="json"),
        "begun": known.get("begun") or _common(there or spec).model_dump(mode="json", include=_BUDGETS),
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
    there = read_comparison(folder)
    return there is not None and (_common(there) == _common(spec) or _was_begun_as(folder, spec))


def _was_begun_as(folder: Path, spec: RunSpec) -> bool:
    """Whether the comparison in a folder had this spec before it was given a larger budget."""
    there, budgets = read_comparison(folder), comparison_file(folder).get("begun")
    if there is None or budgets is None:
        return False
    return _common(there).with_budgets_of(RunSpec.model_validate(budgets)) == _common(spec)


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
            more, less = resolved(known).with_budgets_of(children[0]), resolved(known)
            if more != less and more.continues(less) and more not in children:
                found.append(more)
    return found
