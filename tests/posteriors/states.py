"""What sampling must leave as it was."""

from typing import Any

from torch import nn


def state(module: nn.Module) -> list[Any]:
    modes = [(child.training, len(child._forward_pre_hooks), len(child._forward_hooks)) for child in module.modules()]
    weights = [(key, value.tolist()) for key, value in module.state_dict().items()]
    return [modes, weights, [parameter.requires_grad for parameter in module.parameters()]]
