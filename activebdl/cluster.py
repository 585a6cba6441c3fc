"""Processes on this machine or on many, by Ray: how they are joined, and how things are sent to them."""

import contextlib
import io
import logging
import math
import os
import platform
import socket
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch

from activebdl import __version__
from activebdl.errors import UserError, words
from activebdl.portable import by_value

LOCAL = "auto"
"""The address of a Ray that is started on this machine, and ended with what it was started for."""

_STORE = 512 * 2**20  # bytes that a Ray of our own shares between processes, beside what it is to hold
_PATIENCE = 120.0  # seconds in which a machine may come that is large enough


@dataclass(frozen=True)
class Cluster:
    """Where processes run, and what each of them has.

    Args:
        address: "auto" for a Ray on this machine, ``HOST:PORT`` for a cluster of which this machine is one; None for
            what RAY_ADDRESS says, and "auto" where it says nothing.
        cpus: Of each process; as many threads.
        gpus: Of each process, such as 0.5 for two to a GPU.

    Raises:
        UserError: Numbers that cannot be.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if self.cpus <= 0 or self.gpus < 0:
            raise UserError(f"A process has CPUs, and perhaps GPUs: not {self.cpus:g} and {self.gpus:g}.")

    @property
    def threads(self) -> int:
        """Of torch, in each process."""
        return max(1, int(self.cpus))

    @property
    def as_options(self) -> str:
        """Of the command line, with a blank before each."""
        options = {"ray": self.address or LOCAL, "cpus": f"{self.cpus:g}", "gpus": f"{self.gpus:g}"}
        defaults = {"cpus": "1", "gpus": "0"}
        return "".join(f" --{key} {value}" for key, value in options.items() if defaults.get(key) != value)

    @contextlib.contextmanager
    def joined(self, *, processes: int = 1, holds: int = 0) -> Generator[Any]:
        """The module ``ray``, connected; a cluster that this process has joined before is taken as it is.

        Args:
            processes: For how many there is room, at least, in a Ray that is started here.
            holds: Bytes that it is to share between processes.

        Raises:
            UserError: Ray is not installed, or nobody answers at the address.
        """
        address = self.address or os.environ.get("RAY_ADDRESS") or LOCAL
        ray = _imported(local=address == LOCAL)
        if ray.is_initialized():
            yield ray
            return
        options: dict[str, Any] = {"address": address}
        if address == LOCAL:
            room = max(os.cpu_count() or 1, math.ceil(processes * self.cpus))
            options = {"address": "local", "include_dashboard": False, "num_cpus": room}
            options["object_store_memory"] = _STORE + int(1.1 * holds)
        try:
            if address != LOCAL:  # Ray itself would try for minutes
                host, _, port = address.removeprefix("ray://").rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"No Ray cluster can be joined at '{address}' ({words(error)}): give 'auto' for this machine, or the "
                "HOST:PORT of a cluster that 'ray start --head' began, on one of its machines."
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()

    def options(self) -> dict[str, Any]:
        """What Ray is told of each process; it is our own code that tries again."""
        # SPREAD: over the machines, so that not all are lost with one of them.
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "scheduling_strategy": "SPREAD"}


class Room:
    """Whether a cluster has a machine for a process, free or not.

    Args:
        ray: The module, connected.
        cluster: What a process has.
    """

    def __init__(self, ray: Any, cluster: Cluster) -> None:
        self._ray, self._cluster = ray, cluster
        self._since: float | None = None  # when it was first seen that there is none

    def check(self) -> None:
        """To be asked again and again while nothing comes.

        Raises:
            UserError: There has been none for long.
        """
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cpus, gpus = self._cluster.cpus, self._cluster.gpus
        if any(has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus for has in machines):
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > _PATIENCE:
            raise UserError(
                f"No machine of the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs, which each process is to have; "
                "take less, or add machines."
            )


def lost(ray: Any) -> tuple[type[Exception], ...]:
    """What is raised for a process or a machine that is gone."""
    e = ray.exceptions
    return (e.RayActorError, e.ObjectLostError, e.WorkerCrashedError, e.NodeDiedError, e.OutOfMemoryError)


def stand(place: str) -> None:
    """In a process elsewhere: to stand where the driver does, for paths and modules of the user's own."""
    with contextlib.suppress(OSError):
        os.chdir(place)
    if place not in sys.path:
        sys.path.insert(0, place)


def versions() -> dict[str, str]:
    """What numbers may depend on beside the run itself."""
    return {"activebdl": __version__, "torch": torch.__version__, "Python": platform.python_version()}


def differing(theirs: dict[str, str]) -> str | None:
    """What is told of a machine with other `versions`."""
    differ = [f"{name} {theirs[name]} and not {own}" for name, own in versions().items() if theirs[name] != own]
    if not differ:
        return None
    return f"A machine of the cluster has {', '.join(differ)}; all are to have the same, for results to be the same."


def _imported(*, local: bool) -> Any:
    # Before the first import: nothing is told to Ray's makers, and a Ray of our own keeps to the loopback address.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'activebdl[ray]'.") from error
    return ray


def packed(thing: Any, what: str) -> bytes:
    """As bytes, with functions and classes of the user's own files.

    Raises:
        UserError: It cannot be sent; the sentence says ``what`` it is.
    """
    from ray import cloudpickle

    buffer = io.BytesIO()
    try:
        with by_value(cloudpickle):
            torch.save(thing, buffer, pickle_module=cloudpickle)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} cannot be sent to another process ({words(error)}).") from error
    return buffer.getvalue()


def unpacked(sent: Any, device: torch.device) -> Any:
    """What `packed` gave, or an array of these bytes, with tensors on that device."""
    return torch.load(io.BytesIO(sent), map_location=device, weights_only=False)
