"""Oracles: who gives the labels. One file each.

An oracle is asked for a batch, may be slow, may answer in parts, and may refuse:

    ticket = oracle.submit(request)
    annotations = oracle.poll(ticket)       # what is answered by now, again and again until all is

A plain function ``f(items) -> labels`` is one, wrapped by itself (`activebdl.oracles.function`).
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from activebdl.annotations import ABSTAIN, Annotation
from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError
from activebdl.oracles._contract import Oracle, Request, sort_annotations
from activebdl.oracles.function import FunctionOracle
from activebdl.registry import Registry

__all__ = ["ABSTAIN", "Annotation", "Oracle", "Request", "make_oracle", "oracle", "oracles", "sort_annotations"]

OracleMaker = Callable[[ActiveDataset], Oracle]
M = TypeVar("M", bound=OracleMaker)


def _adopt(name: str, found: object) -> OracleMaker:
    """A registered maker as it is; an oracle, or the class of one; or a plain function of items."""
    if found in oracles.known():
        return cast(OracleMaker, found)
    return lambda dataset: make_oracle(found, dataset, name.rpartition(":")[2])


oracles: Registry[OracleMaker] = Registry("oracle", "activebdl.oracles", _adopt)


def oracle(name: str) -> Callable[[M], M]:
    """Registers a function ``f(dataset) -> Oracle``."""
    return oracles.decorator(name, lambda maker: maker)


def make_oracle(given: object, dataset: ActiveDataset, name: str | None = None) -> Oracle:
    """The oracle that is meant.

    Args:
        given: A name or reference, a plain function, an object with submit and poll, or its class. The answers of a
            function cost what the data set says.
        dataset: What is to be labelled.
        name: The annotator's name for a plain function; its own when not given.

    Raises:
        UserError: It is none of these.
    """
    if isinstance(given, str):
        return oracles.get(given)(dataset)
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
