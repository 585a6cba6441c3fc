"""A multilayer perceptron, for inputs of any shape."""

import math
from collections.abc import Sequence

from torch import nn

from activebdl.networks import network


@network("mlp")
def mlp(
    input_shape: tuple[int, ...], outputs: int, *, hidden: Sequence[int] = (256, 256), dropout: float = 0.5
) -> nn.Module:
    """Linear layers with relu, dropout after each.

    Args:
        input_shape: Any; it is flattened.
        outputs: C logits; or for numbers mean and log variance, or the mean alone.
        hidden: Units of each hidden layer.
        dropout: Probability with which a hidden unit is dropped.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))
