"""Settings as plain data: YAML files and presets that extend each other, changed by dotted key.

What they mean is said in `activebdl.spec`; here they are names and values, and each knows its line.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml

from activebdl.errors import UserError

CHANGES_NOTHING = ("device", "chunk", "shards", "time_limit", "keep_model")
"""Settings of which no selection and no metric depends, but for the last bits of numbers."""


def presets() -> list[str]:
    """The names of the presets."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _preset_folder().iterdir() if _is_yaml(entry.name))


def about_preset(name: str) -> str:
    """The first line of a preset's own comment."""
    return _read(name)[0].partition("\n")[0].removeprefix("# ")


Lines = dict[tuple[str, ...], str]
"""Where each key stands: the YAML file and the line."""


def read_tree(source: str, extended_by: tuple[str, ...] = ()) -> tuple[dict[str, Any], Lines, str]:
    """What a source says, with what it extends; where each key stands; and what to call the source.

    Args:
        source: A preset's name, or the path of a YAML file.
        extended_by: The sources from which this one was reached.

    Raises:
        UserError: No such preset or file, not YAML, a key that stands there twice, or files that extend each other.
    """
    text, name = _read(source)
    tree, lines = _parse(text, name)
    if "extends" not in tree:
        return tree, lines, name
    base = tree.pop("extends")
    where = lines.pop(("extends",))
    if not isinstance(base, str):
        raise UserError(f"{where}: extends is the name of a preset or of a .yaml file, not {base!r}.")
    if _is_yaml(base):
        base = os.path.normpath(Path(source).parent / base)
    if base in (source, *extended_by):
        raise UserError(f"{where}: {base} extends itself.")
    below, lines_below, _ = read_tree(base, (source, *extended_by))
    changes = _changes(below, tree)
    if "experiment" in below and "experiment" not in tree:
        below["experiment"] = experiment_of(below, changes)
    change_all(below, changes, name)
    return below, lines_below | lines, name


_AXES = {"strategy": "strategies", "seed": "seeds", "posterior": "posteriors"}
_COUNTING = ("initial", "budget", "query_size", "growth")


def change_all(tree: dict[str, Any], changes: Mapping[str, Any], name: str) -> None:
    """Changes by dotted key, none of which is without effect because of what the tree says already.

    A strategy, a posterior or a seed takes the place of those that a comparison had.

    Raises:
        UserError: A change is of something that has no settings by name, or of what label counts one by one decide.
    """
    for key, value in changes.items():
        _change(tree, key.split("."), value)
    compare = tree.get("compare")
    for own, axis in _AXES.items():
        changed = {".".join(key.split(".")[:2]) for key in changes if key.split(".")[0] == own}
        if own == "posterior":  # its options are for all that are compared
            changed &= {"posterior", "posterior.name"}
        if changed and isinstance(compare, dict) and not {"compare", f"compare.{axis}"} & changes.keys():
            cast(dict[str, Any], compare).pop(axis, None)
    idle = [key for key in _COUNTING if key in changes]
    if idle and tree.get("counts") is not None and "counts" not in changes:
        raise UserError(
            f"{name}: the label counts are given one by one, so {idle[0]} would change nothing. Give other counts, or "
            "counts=null to have them made of initial, budget, query_size and growth."
        )


def experiment_of(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """The experiment's name, another one when changes make it another data set or protocol."""
    same = {"strategy", "posterior", "seed", "oracle", "compare", *CHANGES_NOTHING}
    within = ("strategy.", "compare.", "oracle.")
    if all(key in same or key.startswith(within) for key in changes):
        return tree["experiment"]
    dataset = changes.get("dataset")
    return f"{tree['experiment']}-{dataset if isinstance(dataset, str) and ':' not in dataset else 'custom'}"


def place(lines: Lines, keys: tuple[str, ...]) -> str | None:
    """Of the key, or of the nearest thing around it that a file has."""
    while keys and keys not in lines:
        keys = keys[:-1]
    return lines.get(keys)


def _preset_folder() -> Any:
    return resources.files("activebdl") / "presets"


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _read(source: str) -> tuple[str, str]:
    if not _is_yaml(source):
        if source not in presets():
            raise UserError(f"Unknown preset '{source}'. Known: {', '.join(presets())}; or name a .yaml file.")
        return (_preset_folder() / f"{source}.yaml").read_text(encoding="utf-8"), f"preset {source}"
    try:
        return Path(source).read_text(encoding="utf-8"), source
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"'{source}' cannot be read: {reason}.") from error


def _parse(text: str, name: str) -> tuple[dict[str, Any], Lines]:
    try:
        tree: object = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{name}{line}: this is not YAML: {error.problem or error}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: this is not YAML: {error}.") from None
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise UserError(f"{name}, line 1: a run is told by 'key: value' lines, not by a {type(tree).__name__}.")
    lines: Lines = {}
    try:
        for keys, line in _lines(root, ()):
            if keys in lines:
                raise UserError(f"{name}, line {line}: '{'.'.join(keys)}' stands there twice, first on {lines[keys]}.")
            lines[keys] = f"line {line}"
    except RecursionError:
        raise UserError(f"{name}: something in it is an alias of what it stands in.") from None
    return cast(dict[str, Any], tree), {keys: f"{name}, {line}" for keys, line in lines.items()}


def _lines(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in cast(Sequence[tuple[Any, Any]], node.value):
            yield (*path, str(key.value)), key.start_mark.line + 1
            yield from _lines(value, (*path, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(cast(Sequence[Any], node.value)):
            yield (*path, str(index)), value.start_mark.line + 1
            yield from _lines(value, (*path, str(index)))


def _changes(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """What is above, by the dotted keys that would change what is below on the command line."""
    found: dict[str, Any] = {}
    for key, value in above.items():
        old = {"name": below[key]} if isinstance(below.get(key), str) else below.get(key)
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            inner = _changes(cast(Mapping[str, Any], old), cast(Mapping[str, Any], value))
            found |= {f"{key}.{option}": change for option, change in inner.items() if option != "name"}
        else:
            found[key] = value
    return found


def _change(tree: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    *outer, last = keys
    at = tree
    for key in outer:
        inner = at.get(key)
        if isinstance(inner, str):  # a bare name that is given options now
            inner = {"name": inner}
        if isinstance(inner, int | float | list) and not isinstance(inner, bool):
            raise UserError(
                f"'{'.'.join(keys)}' cannot be set: '{key}' is {inner}, and no settings by name. Where it may be some, "
                f"give them all at once, as in {key}={{{last}: {value}}}."
            )
        at[key] = inner = cast(dict[str, Any], inner) if isinstance(inner, dict) else {}
        at = inner
    at[last] = value
