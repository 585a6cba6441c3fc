"""What there is to see of each item of a request."""

from dataclasses import dataclass, field

from torch import Tensor

from activebdl.oracles._contract import Request


@dataclass(frozen=True)
class Item:
    """One item as it came in a request: the input ``[...]``, its white, and what the model thinks of it."""

    input: Tensor = field(repr=False)
    white: float
    prediction: Tensor | None  # [C] probabilities, or [2] mean and standard deviation
    uncertainty: float | None  # nats, or the standard deviation


def items_of(request: Request) -> dict[int, Item]:
    """The items of a request, by id."""
    unsure = request.uncertainty
    return {
        id: Item(
            request.items[i],
            request.white,
            None if request.predictions is None else request.predictions[i],
            None if unsure is None else float(unsure[i]),
        )
        for i, id in enumerate(request.ids)
    }
