"""Small networks by name, one file each. A user's own needs no name: any zero-argument callable will do.

A network here is a function ``f(input_shape, outputs) -> nn.Module``: C logits for classes, mean and log variance for
numbers, or the mean alone where the noise is known.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import nn

from activebdl.errors import UserError
from activebdl.registry import Registry

__all__ = ["make_network", "network", "networks"]

Architecture = Callable[..., nn.Module]
A = TypeVar("A", bound=Architecture)


def _adopt(name: str, found: object) -> Architecture:
    if not callable(found):
        raise UserError(f"The network '{name}' must be a function or class that makes an nn.Module.")
    return cast(Architecture, found)


networks: Registry[Architecture] = Registry("network", "activebdl.networks", _adopt)


def network(name: str) -> Callable[[A], A]:
    """Registers a function ``f(input_shape, outputs, **options) -> nn.Module``."""
    return networks.decorator(name, lambda architecture: architecture)


def make_network(name: str, input_shape: tuple[int, ...], outputs: int, **options: Any) -> Callable[[], nn.Module]:
    """A zero-argument callable that makes a fresh network each time.

    Raises:
        UserError: An unknown name, options it does not take, or inputs it cannot read.
    """
    architecture = networks.get(name)

    def fresh() -> nn.Module:
        return architecture(input_shape, outputs, **options)

    try:
        made: object = fresh()
    except (TypeError, RuntimeError, ValueError) as error:
        raise UserError(f"The network '{name}' cannot be made for inputs {list(input_shape)}: {error}.") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"The network '{name}' gave {type(made).__name__}; it must give an nn.Module.")
    return fresh


def image_shape(name: str, input_shape: tuple[int, ...], smallest: int) -> tuple[int, int, int]:
    """Channels, height and width of image inputs.

    Raises:
        UserError: The inputs are not images, or too small for the network.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < smallest:
        raise UserError(
            f"The network '{name}' reads images of [channels, height, width] with sides of {smallest} or more, "
            f"not inputs of shape {list(input_shape)}."
        )
    channels, height, width = input_shape
    return channels, height, width
