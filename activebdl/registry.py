"""One small registry for everything that users can name: strategies, posteriors, networks, data sets, oracles.

A name is looked up in this order:

1. what has been registered by decorator: the built-in things, one file each in their package, and the user's own;
2. entry points of the registry's group, e.g. ``activebdl.strategies``;
3. ``package.module:attribute``;
4. ``path/to/file.py:attribute``.
"""

import functools
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from activebdl.errors import UserError, words

T = TypeVar("T")
D = TypeVar("D")


class Registry(Generic[T]):
    """Names, and what they stand for.

    Args:
        kind: What is registered, in the singular, for error messages ("strategy").
        package: The package whose modules register the built-in things when they are imported.
            They are imported at the first look-up, so that ``import activebdl`` stays cheap.
        adopt: Turns an object that was found by reference (3 and 4 above, or an entry point) into a ``T``.
    """

    def __init__(self, kind: str, package: str, adopt: Callable[[str, object], T]) -> None:
        self.kind = kind
        self.package = package
        self.group = package  # entry-point groups carry the package's name: activebdl.strategies, ...
        self._adopt = adopt
        self._known: dict[str, T] = {}
        self._places: dict[str, object] = {}
        self._decorated: list[tuple[object, T]] = []
        self._imported = False

    def register(self, name: str, thing: T, place: object = None) -> None:
        """Makes ``thing`` known by ``name``; a name is taken only once, or anew from the same place.

        Args:
            name: What it is called.
            thing: What is called so.
            place: Where it is defined, so that a notebook's cell may be run again, and a file imported in two ways.
        """
        again = place is not None and self._places.get(name) == place
        if name in self._known and self._known[name] is not thing and not again:
            raise UserError(f"The {self.kind} name '{name}' is already taken; choose another.")
        self._known[name], self._places[name] = thing, place

    def decorator(self, name: str, make: Callable[[Any], T]) -> Callable[[D], D]:
        """A decorator that registers what ``make`` turns the decorated thing into, and leaves that thing as it is."""

        def decorate(thing: D) -> D:
            made = make(thing)
            self.register(name, made, _place(thing))
            self._decorated.append((thing, made))
            return thing

        return decorate

    def known(self) -> list[T]:
        """What has been registered by now."""
        return list(self._known.values())

    def made_of(self, thing: object) -> T | None:
        """What a decorator has made of ``thing``, though it may have been registered anew since; else None."""
        return next((made for decorated, made in self._decorated if decorated is thing), None)

    def names(self) -> list[str]:
        """All names that `get` knows without a module or file reference, in alphabetical order."""
        self._import_builtin()
        own = (name for name in self._known if ":" not in name)  # references are names of one user's things
        return sorted({*own, *(point.name for point in installed(self.group))})

    def get(self, name: str) -> T:
        """What ``name`` stands for.

        Raises:
            UserError: The name is unknown (the sentence lists the known ones), or what it points to cannot be loaded.
        """
        self._import_builtin()
        if name in self._known:
            return self._known[name]
        for point in installed(self.group):
            if point.name == name:
                return self._remember(name, _load_point(point, self.kind))
        if ":" in name:
            return self._remember(name, load_reference(name, self.kind))
        raise UserError(
            f"Unknown {self.kind} '{name}'. Known: {', '.join(self.names())}; "
            f"or name your own as package.module:name or path/to/file.py:name."
        )

    def _remember(self, name: str, found: object) -> T:
        # A file that uses the decorator registers a T under a name of its own; that very T is what is meant.
        self._known[name] = self._adopt(name, found)
        return self._known[name]

    def _import_builtin(self) -> None:
        if not self._imported:
            self._imported = True
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{self.package}.{module.name}")


def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of all packages, read anew where something was installed: it takes some 30 ms."""
    return _read_points(group, tuple((folder, _changed(folder)) for folder in sys.path))


@functools.lru_cache(maxsize=32)
def _read_points(group: str, folders: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _changed(folder: str) -> int:
    """When a folder had its last entry made or removed; 0 for what is none."""
    try:
        return os.stat(folder or os.curdir).st_mtime_ns
    except OSError:
        return 0


def _place(thing: object) -> tuple[str, str] | None:
    """File and name of a function or class; None where it is of no file and not of the user's session."""
    module = getattr(thing, "__module__", "")
    file = module if module == "__main__" else getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else (file, getattr(thing, "__qualname__", ""))


def load_reference(reference: str, kind: str) -> object:
    """Loads ``package.module:attribute`` or ``path/to/file.py:attribute``.

    Raises:
        UserError: The module or file cannot be imported, or has no such attribute.
    """
    place, _, attribute = reference.rpartition(":")
    if place.endswith(".py"):
        module = _import_file(Path(place), kind)
    else:
        try:
            module = importlib.import_module(place)
        except Exception as error:
            reason = str(error) if isinstance(error, ImportError) else words(error)
            raise UserError(f"Cannot import '{place}' for the {kind} '{reference}': {reason}.") from error
    if not hasattr(module, attribute):
        raise UserError(f"'{place}' has no '{attribute}' to use as {_a(kind)}.")
    return getattr(module, attribute)


def _load_point(point: EntryPoint, kind: str) -> object:
    try:
        return point.load()
    except Exception as error:
        package = "a package" if point.dist is None else f"the package '{point.dist.name}'"
        raise UserError(
            f"The {kind} '{point.name}' of {package} cannot be loaded ({point.value}): {words(error)}."
        ) from error


def _import_file(path: Path, kind: str) -> object:
    if not path.is_file():
        raise UserError(f"There is no file '{path}' to load {_a(kind)} from.")
    name = f"activebdl_user_{path.stem}_{hashlib.blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:  # a file that has a strategy and an oracle is run once
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # true for every file that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses and pickling in the user's file work
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"'{path}' cannot be loaded: {words(error)}.") from error
    return module


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def without_addresses(text: str) -> str:
    """A ``repr`` without where in memory functions of the user's own lie, so that it is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)
