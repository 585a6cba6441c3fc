"""What every posterior does alike: modules in eval mode for a while, and log-probabilities of logits."""

import contextlib
from collections.abc import Generator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Puts every submodule in eval mode, and each back in its own mode afterwards, also after an exception."""
    training = [child for child in module.modules() if child.training]
    try:
        for child in training:
            child.training = False
        yield
    finally:
        for child in training:
            child.training = True


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities over the last axis, in float32 or better, whatever the network computes in."""
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(dim=-1)
