"""What runs in each of the processes that look at a pool in shards; see `activebdl.shards`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activebdl.cluster import packed, stand, unpacked, versions
from activebdl.data.inputs import Inputs, as_tensor
from activebdl.devices import Precision, choose_device
from activebdl.errors import UserError
from activebdl.fitted import Fitted
from activebdl.scoring import Scorer

Bytes = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Job:
    """What is to be done with some items.

    Args:
        fitted: Where the packed posterior lies in Ray's store: in a tuple, which is not fetched unless it is asked for.
        k: Draws.
        purpose: Randomness goes by it.
        precision: Of the numbers that layers multiply.
        reduce: Where the packed function lies, that is applied to the predictions; None for features in their place.
    """

    fitted: tuple[Any]
    k: int
    purpose: str
    precision: Precision
    reduce: tuple[Any] | None


class PoolActor:
    """Holds the inputs of a pool, and the last posterior that it was given.

    What the user can mend is told in a sentence beside the result, so that it arrives as it was said.
    """

    def __init__(self, threads: int, place: str) -> None:
        torch.set_num_threads(threads)
        stand(place)
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._scorers: dict[tuple[int, str, Precision], Scorer] = {}

    def hold(self, inputs: Bytes, is_packed: bool) -> tuple[dict[str, str], str | None]:
        """Takes the pool; returns what this process runs, and what is wrong, if anything."""
        import ray

        try:
            self._device = choose_device("cuda" if ray.get_gpu_ids() else "cpu")
            self._inputs: Inputs = unpacked(inputs, torch.device("cpu")) if is_packed else as_tensor(inputs)
        except UserError as error:
            return versions(), str(error)
        return versions(), None

    def look(self, job: Job, ids: Bytes) -> tuple[Tensor | None, str | None]:
        """What the job gives of these items, or what is wrong with it."""
        try:
            scorer, some = self._scorer(job), torch.from_numpy(ids.copy())
            if job.reduce is None:
                return scorer.features(some), None
            return scorer.reduce(some, self._fetched("reduce", job.reduce)), None
        except UserError as error:
            return None, str(error)

    def _scorer(self, job: Job) -> Scorer:
        fitted: Fitted = self._fetched("fitted", job.fitted)
        key = (job.k, job.purpose, job.precision)
        if key not in self._scorers:
            draws = fitted.draw(job.k, job.purpose)
            self._scorers[key] = fitted.scorer(draws, self._inputs, self._device, precision=job.precision)
        return self._scorers[key]

    def _fetched(self, what: str, where: tuple[Any]) -> Any:
        """The last thing of its kind, or the next, when it lies elsewhere."""
        import ray

        place, found = self._kept.get(what, (None, None))
        if place != where[0]:
            found = unpacked(ray.get(where[0]), self._device)
            self._kept[what] = (where[0], found)
            if what == "fitted":
                self._scorers.clear()
        return found


def pack(thing: Inputs | Fitted | Callable[[Tensor], Tensor], what: str) -> Bytes:
    """As an array, which processes of one machine share."""
    return np.frombuffer(packed(thing, what), np.uint8)
