"""A pool in shards: processes of Ray, on one machine or many, look at it with the posterior that they hold.

    ActiveLearning(..., shards=4)                                      4 processes on this machine
    ActiveLearning(..., shards=Shards(64, "10.0.0.1:6379", gpus=0.5))  a cluster, two of them to a GPU

The inputs are sent once, the posterior once a round; draws are made where they are used, from the same (seed, round,
purpose). What comes back is what a reduction gives, a score for each item. A shard is a whole number of chunks, so
scores are those of one process bit for bit, where that has as many threads as each of these has CPUs.

A process that dies, with its machine or alone, is replaced, and its shards are looked at again.
N: items asked about.
"""

import contextlib
import os
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from activebdl.cluster import Cluster, Room, differing, lost
from activebdl.data.inputs import Inputs
from activebdl.devices import Precision
from activebdl.errors import UserError, words
from activebdl.fitted import Fitted
from activebdl.progress import Advance
from activebdl.scoring import default_chunk
from activebdl.shards._actor import Job, PoolActor, pack

_AHEAD = 2  # shards that a process has been given, so that it need not wait for the next
_MOST = 64  # chunks of a shard
_TRIES = 3  # of a shard, or of starting a process, before it is given up


class Shards:
    """By how many processes a pool is looked at, and where; they start when they are first needed.

    A context: they end with it.

    Args:
        count: How many processes.
        address: As in `activebdl.cluster.Cluster`.
        cpus: Of each process; as many threads.
        gpus: Of each process, such as 0.5 for two to a GPU; with 0 they look by CPU, whatever the run's own device.

    Raises:
        UserError: Numbers that cannot be.
    """

    def __init__(self, count: int, address: str | None = None, *, cpus: float = 1, gpus: float = 0) -> None:
        if count < 1:
            raise UserError(f"A pool is looked at by 1 process or more, not by {count}.")
        self.count, self.cluster = count, Cluster(address, cpus, gpus)
        self.received = 0  # bytes of all results that came back
        self._open = contextlib.ExitStack()
        self._crew: _Crew | None = None
        self._fitted: tuple[Fitted, Any] | None = None

    @staticmethod
    def on(cluster: Cluster, count: int) -> "Shards":
        """So many processes there."""
        return Shards(count, cluster.address, cpus=cluster.cpus, gpus=cluster.gpus)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._crew, self._fitted = None, None
        self._open.close()

    def sight(self, fitted: Fitted, inputs: Inputs, k: int, purpose: str, precision: Precision) -> "Sight":
        """K draws of a posterior over all the inputs, seen by the processes."""
        return Sight(self, fitted, inputs, k, purpose, precision)

    def look(self, sight: "Sight", ids: Tensor, f: Callable[[Tensor], Tensor] | None, on_items: Advance) -> Tensor:
        """See `Sight.look`."""
        crew = self._holding(sight.inputs)
        if self._fitted is None or self._fitted[0] is not sight.fitted:
            self._fitted = (sight.fitted, crew.ray.put(pack(sight.fitted, "The posterior")))
        reduce = None if f is None else (crew.ray.put(pack(f, "What is asked of the posterior")),)
        job = Job((self._fitted[1],), sight.k, sight.purpose, sight.precision, reduce)
        chunk = sight.fitted.chunk or default_chunk(torch.device("cuda" if self.cluster.gpus else "cpu"))
        chunks = max(1, min(_MOST, len(ids) // (8 * self.count * chunk)))
        found = _Walk(crew, crew.ray.put(job), ids, chunks * chunk, on_items).run()
        self.received += found.nbytes
        return found

    def _holding(self, inputs: Inputs) -> "_Crew":
        """The processes, with these inputs."""
        if self._crew is None or self._crew.inputs is not inputs:
            self.__exit__()
            holds = inputs.nbytes if isinstance(inputs, Tensor) else 0
            ray = self._open.enter_context(self.cluster.joined(processes=self.count, holds=holds))
            self._crew = self._open.enter_context(_Crew(ray, self, inputs))
        return self._crew


@dataclass(frozen=True)
class Sight:
    """K draws over a pool, as other processes see them; an `activebdl.scoring.Elsewhere`."""

    shards: Shards
    fitted: Fitted
    inputs: Inputs
    k: int
    purpose: str
    precision: Precision

    def look(self, ids: Tensor, f: Callable[[Tensor], Tensor] | None, on_items: Advance) -> Tensor:
        """What `activebdl.scoring.Scorer.reduce` gives by ``f``, or ``features`` where there is none.

        Raises:
            UserError: As these do; or the processes cannot be had, or die again and again.
        """
        return self.shards.look(self, ids, f, on_items)


class _Crew:
    """The processes: those that are ready, and those that have been asked for."""

    def __init__(self, ray: Any, shards: Shards, inputs: Inputs) -> None:
        self.ray, self.shards, self.inputs = ray, shards, inputs
        whole = isinstance(inputs, Tensor)
        self._pool = ray.put(inputs.numpy() if whole else pack(inputs, "The pool")), not whole
        self.ready: list[Any] = []
        self.starting: dict[Any, Any] = {}
        self.lost = lost(ray)
        self._room = Room(ray, shards.cluster)
        self._failed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self.ready, *self.starting.values()]:
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.kill(actor)

    def fill(self) -> None:
        """Asks for as many as are wanted."""
        cluster = self.shards.cluster
        remote = self.ray.remote(PoolActor).options(**cluster.options(), max_restarts=0)
        for _ in range(self.shards.count - len(self.ready) - len(self.starting)):
            actor = remote.remote(cluster.threads, os.getcwd())
            self.starting[actor.hold.remote(*self._pool)] = actor

    def welcome(self, ref: Any) -> None:
        """Takes one that was asked for, now that it has the pool."""
        actor = self.starting.pop(ref)
        try:
            runs, told = self.ray.get(ref)
        except self.lost as error:
            self._failed += 1
            if self._failed >= _TRIES:
                raise UserError(f"Processes of Ray die while they are given the pool ({words(error)}).") from error
            return
        told = differing(runs) or told
        if told is not None:
            raise UserError(told)
        self._failed = 0
        self.ready.append(actor)

    def wait(self, refs: list[Any]) -> list[Any]:
        """Of these, and of those that are starting, what has come; after a while nothing.

        Raises:
            UserError: There is nobody to wait for, and no machine where one could be.
        """
        refs = [*refs, *self.starting]
        done, _ = self.ray.wait(refs, num_returns=1, timeout=1.0)
        if done:  # and all the others that have come by now
            done, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0)
        if not self.ready and not done:
            self._room.check()
        return done


class _Walk:
    """One look at all the items: shards are given out, and what comes back is joined in the order of ids."""

    def __init__(self, crew: _Crew, job: Any, ids: Tensor, size: int, on_items: Advance) -> None:
        self.crew, self.job, self.ids, self.on_items = crew, job, ids, on_items
        starts = range(0, max(1, len(ids)), size)
        self.todo = deque((start, min(start + size, len(ids))) for start in starts)
        self.running: dict[Any, tuple[Any, tuple[int, int]]] = {}  # in the order in which they were given out
        self.load: Counter[Any] = Counter()  # how many each process has
        self.tries: dict[tuple[int, int], int] = {}
        self.rows: Tensor | None = None
        self.told: tuple[int, str] | None = None  # the first of the items' errors

    def run(self) -> Tensor:
        """Until all is done."""
        while self.todo or self.running:
            self.crew.fill()
            self._give()
            for ref in self.crew.wait(list(self.running)):
                if ref in self.crew.starting:
                    self.crew.welcome(ref)
                elif ref in self.running:
                    self._take(ref)
        if self.told is not None:
            raise UserError(self.told[1])
        assert self.rows is not None
        return self.rows

    def _give(self) -> None:
        for most in range(1, _AHEAD + 1):  # one each, then the next
            for actor in self.crew.ready:
                if self.todo and self.load[actor] < most:
                    start, stop = self.todo.popleft()
                    ref = actor.look.remote(self.job, self.ids[start:stop].numpy())
                    self.running[ref] = (actor, (start, stop))
                    self.load[actor] += 1

    def _take(self, ref: Any) -> None:
        actor, (start, stop) = self.running[ref]
        try:
            part, told = self.crew.ray.get(ref)
        except self.crew.lost as error:
            self._lose(actor, error)
            return
        del self.running[ref]
        self.load[actor] -= 1
        if told is not None:
            if self.told is None or start < self.told[0]:
                self.told = (start, told)
            self.todo = deque(shard for shard in self.todo if shard[0] < start)  # one process would not get further
            return
        if self.rows is None:
            self.rows = torch.empty(len(self.ids), *part.shape[1:], dtype=part.dtype)
        self.rows[start:stop] = part
        self.on_items(stop - start)

    def _lose(self, actor: Any, error: Exception) -> None:
        """Takes back what a process that is gone was given."""
        self.crew.ready.remove(actor)
        mine = [(ref, shard) for ref, (whose, shard) in self.running.items() if whose is actor]
        for ref, _ in mine:
            del self.running[ref]
        first = mine[0][1]  # the others were still waiting
        self.tries[first] = self.tries.get(first, 0) + 1
        if self.tries[first] >= _TRIES:
            a, b = int(self.ids[first[0]]), int(self.ids[first[1] - 1])
            raise UserError(
                f"{_TRIES} processes died, one after the other, as they looked at items {a} to {b} ({words(error)}): "
                "perhaps there is too little memory for a chunk, or a fault in what reads these items."
            ) from error
        self.todo.extendleft(shard for _, shard in reversed(mine))
