"""Which device the networks run on, and in which precision."""

import contextlib
from typing import Literal

import torch
from torch import Tensor

from activebdl.errors import UserError

Precision = Literal["float32", "bfloat16"]
"""Of the numbers that layers multiply."""


def describe(device: torch.device) -> str:
    """The device in words, such as "cpu (2 threads)" or "cuda (NVIDIA H200)"."""
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def choose_device(name: str = "auto") -> torch.device:
    """The device by that name; "auto" takes cuda, then mps, then cpu.

    Raises:
        UserError: The device is unknown, or not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"The device '{name}' cannot be used here; take auto, cpu, or one this machine has.") from error
    return device


def float64(x: Tensor) -> Tensor:
    """The same numbers in float64, on the CPU where the device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def check_precision(precision: str, of: str) -> None:
    """Refuses a precision that is none of ours.

    Raises:
        UserError: It says what it is the precision of.
    """
    if precision not in ("float32", "bfloat16"):
        raise UserError(f"The precision of {of} is float32 or bfloat16, not {precision!r}.")


def multiplying_in(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Layers multiply numbers of that precision within; for float32 an autocast of the user's own goes on."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
