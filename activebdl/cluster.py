"""Other processes, on this machine or on many, by Ray: how they are joined, and how things are sent to them."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Generator
from typing import Any

import torch

from activebdl.errors import UserError, words

LOCAL = "auto"
"""The address of a Ray that is started on this machine, and ended with what it was started for."""

_STORE = 512 * 2**20  # bytes that a Ray of our own shares between processes, beside what it is to hold


def default_address() -> str:
    """Where Ray's own variable says that a cluster is; else this machine."""
    return os.environ.get("RAY_ADDRESS") or LOCAL


@contextlib.contextmanager
def joined(address: str, *, cpus: float = 1, holds: int = 0) -> Generator[Any]:
    """The module ``ray``, connected to a cluster; one that this process has joined before is taken as it is.

    Args:
        address: "auto" starts a Ray on this machine, which listens to nobody else; ``HOST:PORT`` or ``ray://HOST:PORT``
            is a cluster that is there.
        cpus: Of a Ray that is started, at least.
        holds: Bytes that it is to share between processes.

    Raises:
        UserError: Ray is not installed, or nobody answers at the address.
    """
    # Before the first import: nothing is told to Ray's makers, and a Ray of our own keeps to the loopback address.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'activebdl[ray]'.") from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": address}
    if address == LOCAL:
        count = max(os.cpu_count() or 1, -(-cpus // 1))
        options = {"address": "local", "include_dashboard": False, "num_cpus": int(count)}
        options["object_store_memory"] = _STORE + int(1.1 * holds)
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UserError(
            f"No Ray cluster can be joined at '{address}' ({words(error)}): give 'auto' for this machine, or the "
            "HOST:PORT of a cluster that 'ray start --head' began, on one of its machines."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def packed(thing: Any, what: str) -> bytes:
    """As bytes, with functions and classes of the user's own files.

    Raises:
        UserError: It cannot be sent; the sentence says ``what`` it is.
    """
    from ray import cloudpickle

    for name, module in list(sys.modules.items()):
        if name.startswith("activebdl_user_"):  # a file that was given by its path: no other process can import it
            cloudpickle.register_pickle_by_value(module)
    buffer = io.BytesIO()
    try:
        torch.save(thing, buffer, pickle_module=cloudpickle)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} cannot be sent to another process ({words(error)}).") from error
    return buffer.getvalue()


def unpacked(sent: Any, device: torch.device) -> Any:
    """What `packed` gave, or an array of these bytes, with tensors on that device."""
    return torch.load(io.BytesIO(sent), map_location=device, weights_only=False)
