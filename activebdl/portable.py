"""Objects in a file that another process, machine and device can read: a user's own code travels with them.

It takes cloudpickle, which MLflow brings. Such a file is a pickle: whoever reads it runs what is in it.
"""

import contextlib
import pickle
import pickletools
import sys
import sysconfig
import zipfile
from collections.abc import Generator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from activebdl.errors import UserError
from activebdl.files import writing_safely


def save(thing: object, path: Path) -> None:
    """Writes it whole or not at all.

    Args:
        thing: Anything that can be pickled, with tensors in it or not.
        path: The file.

    Raises:
        UserError: cloudpickle is not installed.
    """
    cloudpickle = _cloudpickle()
    with by_value(cloudpickle), writing_safely(path) as file:
        torch.save(thing, file, pickle_module=cloudpickle, pickle_protocol=pickle.HIGHEST_PROTOCOL)


def load(path: Path, device: torch.device) -> Any:
    """What `save` has written, its tensors on that device.

    Raises:
        UserError: cloudpickle is not installed.
    """
    _cloudpickle()  # what is in the file calls it
    return torch.load(path, map_location=device, weights_only=False)


def requirements(path: Path) -> list[str]:
    """What must be installed where the file is read, as pip takes it; in the versions of here, where it was loaded.

    It may name too much, for it goes by every word of the pickle that is a module's name; a needless package does less
    harm than a missing one.
    """
    with zipfile.ZipFile(path) as archive:
        content = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    told = {word for _, found, _ in pickletools.genops(content) if isinstance(found, str) for word in found.split(" ")}
    names = {word.partition(".")[0] for word in told if word in sys.modules} | {"cloudpickle", "numpy", "torch"}
    names -= {"activebdl", "__main__", *sys.stdlib_module_names}
    needed = {_distribution(name) for name in names if not _is_users(sys.modules[name])}
    return sorted(pinned(name) for name in needed if name is not None)


def pinned(name: str) -> str:
    """``name==version``, without what names a build of torch, which no index but its own has."""
    return f"{name}=={version(name).partition('+')[0]}"


def _distribution(package: str) -> str | None:
    """What is to be installed for a package to be there."""
    try:
        return distribution(package).name
    except PackageNotFoundError:  # most are called as they are imported; to look through all takes a second
        return next(iter(packages_distributions().get(package, ())), None)


@contextlib.contextmanager
def by_value(cloudpickle: Any) -> Generator[None]:
    """Modules of the user's own are written with what is pickled, for where it is read nobody has them.

    Args:
        cloudpickle: The module, or Ray's own copy of it.
    """
    known = cloudpickle.list_registry_pickle_by_value()
    found = {
        module.__name__: module for name, module in list(sys.modules.items()) if "." not in name and _is_users(module)
    }  # by their own names: one module may be there under two
    theirs = [module for name, module in found.items() if name not in known]
    try:
        for module in theirs:
            cloudpickle.register_pickle_by_value(module)
        yield
    finally:
        for module in theirs:
            cloudpickle.unregister_pickle_by_value(module)


def _is_users(module: ModuleType | None) -> bool:
    """Whether a module is neither installed, nor Python's, nor ours."""
    if module is None:  # somebody has forbidden to import it
        return False
    about = vars(module)
    places = [about["__file__"]] if about.get("__file__") else list(about.get("__path__", ()))
    if not places or about["__name__"] in (
        "activebdl",
        "__main__",
        "__mp_main__",
    ):  # a script goes by value in any case
        return False
    place = Path(places[0]).resolve()
    installed = {"site-packages", "dist-packages"} & set(place.parts)
    return not installed and not place.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())


def _cloudpickle() -> Any:
    try:
        import cloudpickle
    except ImportError as error:
        raise UserError(f"A model in a file needs '{error.name}': pip install 'activebdl[cli]'") from None
    return cloudpickle
