"""Modules in train mode or in eval mode for a while, each part put back in its own afterwards."""

import contextlib
from collections.abc import Generator

from torch import nn


@contextlib.contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Generator[None]:
    """Puts every submodule in that mode, and each back in its own afterwards, also after an exception."""
    others = [child for child in module.modules() if child.training is not training]
    try:
        for child in others:
            child.training = training
        yield
    finally:
        for child in others:
            child.training = not training


def evaluating(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """`in_mode`, for evaluation."""
    return in_mode(module, training=False)
