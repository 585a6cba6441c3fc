"""Whether what a run is given is of the right kind, told before anything is done with it."""

import operator

from torch import nn

from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError
from activebdl.strategies import Strategy


def check_kinds(dataset: object, network: object, posterior: object, start: object) -> None:
    """Refuses what is no data set, network, posterior or start at all.

    Raises:
        UserError: One is something else; the sentence says what it should be.
    """
    if not isinstance(dataset, ActiveDataset):
        raise UserError(
            "The data set of a run is an ActiveDataset, as load('mnist') makes, or ActiveDataset.from_arrays(pool, "
            f"labels, test, test_labels), not {_kind(dataset)}."
        )
    if isinstance(network, nn.Module) or not callable(network):
        raise UserError(
            "network makes a fresh network whenever it is called, since each round trains one anew: a class or a "
            f"function, such as lambda: Net(10), not {_kind(network)}."
        )
    if isinstance(posterior, type) or not all(callable(getattr(posterior, name, None)) for name in ("fit", "steps")):
        what = f"'{posterior}'" if isinstance(posterior, str) else _kind(posterior)
        raise UserError(
            "posterior is an inference method with fit and steps, such as MCDropout() or Laplace(Training(steps=400)), "
            f"not {what}."
        )
    if not isinstance(start, str | Strategy):
        raise UserError(
            f"start is 'balanced', the name of a strategy that needs no model, or such a Strategy, not {_kind(start)}."
        )


def whole(name: str, value: object, least: int = 1) -> int:
    """The value as a Python integer.

    Raises:
        UserError: It is no whole number, or less than there must be.
    """
    try:
        number = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise UserError(f"{name} is a whole number, {least} or more, not {value!r}.")
    return number


def _kind(given: object) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__} itself"
    name = type(given).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
