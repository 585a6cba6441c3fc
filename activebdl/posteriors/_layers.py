"""The layers of a user's module that a method can treat: which there are, in which order they are called, the last one.

B: items of a batch.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from activebdl.errors import UserError
from activebdl.modes import evaluating

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def called_layers(module: nn.Module, x: Tensor) -> list[str]:
    """The names of the linear and convolutional layers, in the order in which the module calls them on ``x [B, ...]``.

    Layers of a derived type are left out: what they compute is not known.

    Raises:
        UserError: There is none.
    """
    called: dict[str, None] = {}
    _watch(module, x, lambda name, output: called.setdefault(name))
    if not called:
        raise UserError(
            f"{type(module).__name__} calls no nn.Linear or nn.Conv layer, so there is nothing to make Bayesian; "
            "use such layers, or the posterior 'map'."
        )
    return list(called)


def last_layer(module: nn.Module, x: Tensor) -> str:
    """The name of the linear layer that gives the module's output on ``x [B, ...]``.

    Raises:
        UserError: The output is not that of an ``nn.Linear``.
    """
    outputs: dict[str, Tensor] = {}
    output = _watch(module, x, lambda name, found: outputs.__setitem__(name, found))
    for name, found in reversed(outputs.items()):
        if found is output and isinstance(module.get_submodule(name), nn.Linear):
            return name
    raise UserError(
        f"The output of {type(module).__name__} is not that of an nn.Linear layer, which a last-layer method needs: "
        "let the network end with one, without softmax behind it."
    )


def replace_layers(module: nn.Module, names: list[str], make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Puts ``make(layer)`` in the place of each named layer, wherever in the module that layer stands.

    Returns:
        The module, or what replaces it as a whole.
    """
    made = {module.get_submodule(name): make(module.get_submodule(name)) for name in names}
    if module in made:
        return made[module]
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if layer in made:
            parent, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(parent), attribute, made[layer])
    return module


def _watch(module: nn.Module, x: Tensor, tell: Callable[[str, Tensor], object]) -> Tensor:
    """The module's output in eval mode; every treatable layer tells its own."""

    def hook(name: str, layer: nn.Module, inputs: object, output: Tensor) -> None:
        tell(name, output)  # and returns nothing, for what a hook returns replaces the output

    layers = [(name, layer) for name, layer in module.named_modules() if type(layer) in LAYERS]
    handles = [layer.register_forward_hook(partial(hook, name)) for name, layer in layers]
    try:
        with evaluating(module), torch.no_grad():
            return module(x)
    finally:
        for handle in handles:
            handle.remove()
