"""Oracles: who gives the labels. One file each.

An oracle is asked for a batch, may be slow, may answer in parts, and may refuse:

    ticket = oracle.submit(request)
    annotations = oracle.poll(ticket)       # what is answered by now, again and again until all is

A plain function ``f(items) -> labels`` is one, wrapped by itself (`activebdl.oracles.function`).
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from activebdl.annotations import ABSTAIN, Annotation
from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError, is_ours, told
from activebdl.oracles._contract import Oracle, Request, sort_annotations
from activebdl.oracles.function import FunctionOracle
from activebdl.registry import Registry

__all__ = ["ABSTAIN", "Annotation", "Oracle", "Request", "make_oracle", "oracle", "oracles", "sort_annotations"]

OracleMaker = Callable[..., Oracle]
"""``f(dataset, *, options ...) -> Oracle``. To parameters called ``seed`` and ``folder`` the run gives its own."""
M = TypeVar("M", bound=OracleMaker)


def _adopt(name: str, found: object) -> OracleMaker:
    """A registered maker as it is; an oracle, or the class of one; or a plain function of items."""
    if found in oracles.known():
        return cast(OracleMaker, found)
    return Adopted(found, name.rpartition(":")[2])


@dataclass(frozen=True)
class Adopted:
    """The maker of an oracle that was found by reference: a function of items, an object, or a class with options."""

    found: object
    name: str

    def __call__(self, dataset: ActiveDataset, **options: Any) -> Oracle:
        """Makes the oracle."""
        found = self.found(**options) if isinstance(self.found, type) else self.found
        return make_oracle(found, dataset, self.name)

    @property
    def __signature__(self) -> inspect.Signature:
        """What options it takes: a class has some."""
        return inspect.signature(self.found) if isinstance(self.found, type) else inspect.Signature()


oracles: Registry[OracleMaker] = Registry("oracle", "activebdl.oracles", _adopt)


def oracle(name: str) -> Callable[[M], M]:
    """Registers a function ``f(dataset, *, options ...) -> Oracle``; see `OracleMaker`."""
    return oracles.decorator(name, lambda maker: maker)


def make_oracle(
    given: object,
    dataset: ActiveDataset,
    name: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> Oracle:
    """The oracle that is meant.

    Args:
        given: A name or reference, a plain function, an object with submit and poll, or its class. The answers of a
            function cost what the data set says.
        dataset: What is to be labelled.
        name: The annotator's name for a plain function; its own when not given.
        options: Of an oracle that is meant by name.
        seed: The run's, for an oracle by name that has a parameter ``seed``.
        folder: Where the run is kept, for an oracle by name that has a parameter ``folder``; None for nowhere.

    Raises:
        UserError: It is none of these, or has no such option.
    """
    if isinstance(given, str):
        return _make_by_name(given, dataset, dict(options or {}), {"seed": seed, "folder": folder})
    if isinstance(given, type):
        given = cast(type[Any], given)()
    if callable(getattr(given, "submit", None)) and callable(getattr(given, "poll", None)):
        return cast(Oracle, given)
    if callable(given) and inspect.signature(given).parameters:
        return FunctionOracle(given, name=name or getattr(given, "__name__", "function"), costs=dataset.costs)
    raise UserError(
        "An oracle is a name, a function of items that returns labels, or an object with submit(request) and "
        f"poll(ticket); {type(given).__name__} is none of these."
    )


def _make_by_name(name: str, dataset: ActiveDataset, options: dict[str, Any], context: dict[str, Any]) -> Oracle:
    maker = oracles.get(name)
    takes = inspect.signature(maker).parameters
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    known = [key for key in takes if key not in ("dataset", *context)]
    for key in options:
        if key not in takes and not free:
            raise UserError(f"The oracle '{name}' has no option '{key}'; it has: {', '.join(known) or 'none'}.")
    if isinstance(maker, Adopted):  # a default of the user's own class is what she means
        context = {
            key: value for key, value in context.items() if key in takes and takes[key].default is takes[key].empty
        }
    given = {key: value for key, value in context.items() if key in takes}
    try:
        return maker(dataset, **(given | options))
    except UserError:
        raise
    except Exception as error:
        if is_ours(maker):
            raise
        raise UserError(f"The oracle '{name}' cannot be made: {told(error)}.") from error
