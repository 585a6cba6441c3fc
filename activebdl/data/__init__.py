"""Data sets by name, and the user's own.

A data set is a function that returns an `ActiveDataset`, registered with ``@dataset("name")`` in a file of its own.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from activebdl.data.dataset import ActiveDataset, Labelled, Normalise
from activebdl.data.inputs import MappedInputs, StreamedInputs
from activebdl.errors import UserError
from activebdl.registry import Registry

__all__ = ["ActiveDataset", "Labelled", "MappedInputs", "Normalise", "StreamedInputs", "dataset", "datasets", "load"]

Maker = Callable[..., ActiveDataset]
M = TypeVar("M", bound=Maker)


def _adopt(name: str, found: object) -> Maker:
    if not callable(found):
        raise UserError(f"The data set '{name}' must be a function that returns an ActiveDataset.")
    return cast(Maker, found)


datasets: Registry[Maker] = Registry("dataset", "activebdl.data", _adopt)


def dataset(name: str) -> Callable[[M], M]:
    """Registers a function that makes a data set."""
    return datasets.decorator(name, lambda maker: maker)


def load(name: str, *, cache: Path | None = None, progress: bool = True, **options: Any) -> ActiveDataset:
    """Loads a data set by name, fetching its bytes when they are not in the cache.

    Args:
        name: A known name (``activebdl list datasets``), ``package.module:function`` or ``path/to/file.py:function``.
        cache: Where the bytes are kept; see `activebdl.data.fetch`.
        progress: Whether to show progress bars.
        options: What the data set itself takes, e.g. ``repeats=5`` for repeated_mnist.

    Raises:
        UserError: An unknown name, an option it does not take, or bytes that cannot be had.
    """
    maker = datasets.get(name)
    accepted = inspect.signature(maker).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    ours = {"cache": cache, "progress": progress}
    options |= {given: value for given, value in ours.items() if given in accepted or takes_any}
    unknown = [] if takes_any else sorted(set(options) - set(accepted))
    if unknown:
        takes = ", ".join(sorted(set(accepted) - {"cache", "progress"})) or "none"
        raise UserError(f"The dataset '{name}' takes no option '{unknown[0]}'; its options: {takes}.")
    needed = [
        key
        for key, p in accepted.items()
        if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    missing = [key for key in needed if key not in options]
    if missing:
        raise UserError(f"The dataset '{name}' needs the option '{missing[0]}'; it needs: {', '.join(needed)}.")
    made: object = maker(**options)
    if not isinstance(made, ActiveDataset):
        raise UserError(f"The dataset '{name}' returned {type(made).__name__}; it must return an ActiveDataset.")
    return made
