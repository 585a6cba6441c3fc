"""What tests of crowds need: members who answer as they are told, and a stand-in for the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from activebdl import (
    ActiveDataset,
    Annotation,
    Request,
)
from activebdl.annotations import standing
from activebdl.oracles import make_oracle
from activebdl.oracles.crowd import Crowd

N, C = 400, 4
LABELS = torch.from_numpy(np.random.default_rng(5).integers(C, size=N))
DATA = ActiveDataset.from_arrays(torch.arange(N).float()[:, None], LABELS, torch.zeros(C, 1), torch.arange(C))

Script = Callable[[int], int | None]


@dataclass
class Member:
    """Answers one more item at each look, gives out all again, and counts who was asked for what."""

    script: Script
    cost: float = 1.0
    name: str = ""
    requests: list[Request] = field(default_factory=list)
    looks: int = 0
    at_once: int = 1

    @property
    def asked(self) -> list[int]:
        return [id for request in self.requests for id in request.ids]

    def submit(self, request: Request) -> str:
        self.requests.append(request)
        self.looks = 0
        return request.key

    def poll(self, ticket: str) -> list[Annotation]:
        self.looks += self.at_once
        request = next(r for r in self.requests[::-1] if r.key == ticket)
        assert all(float(item) == id for item, id in zip(request.items[:, 0], request.ids, strict=True))
        return [Annotation(id, self.script(id), "oracle", self.cost, 2.0) for id in request.ids[: self.looks]]

    def price(self, ids: Sequence[int]) -> list[float]:
        return [self.cost + 0.5] * len(ids)


@dataclass
class Desk:
    """Stands in for the loop: a journal of all that was said, in which the same again changes nothing."""

    journal: list[Annotation] = field(default_factory=list)
    submitted: int = 0

    def write(self, said: Sequence[Annotation]) -> None:
        for annotation in said:
            last = [a for a in self.journal if (a.id, a.annotator) == (annotation.id, annotation.annotator)][-1:]
            if not last or (last[0].label, last[0].role) != (annotation.label, annotation.role):
                self.journal.append(annotation)

    def answers(self) -> dict[int, int | float | None]:
        return {id: said.label for id, said in standing(self.journal).items()}

    def request(self, ids: Sequence[int], key: str = "round-0") -> Request:
        missing = tuple(id for id in ids if id not in self.answers())
        items = DATA.pool[torch.tensor(missing)]
        return Request(key, missing, items, DATA.target, history=tuple(self.journal), record=self.write)

    def ask(self, crowd: Crowd, ids: Sequence[int], key: str = "round-0", looks: int = 1000) -> int:
        """Asks until all is answered, or so many times; how many times."""
        if not set(ids) - self.answers().keys():
            return 0
        ticket = crowd.submit(self.request(ids, key))
        for look in range(looks):
            if not set(ids) - self.answers().keys():
                return look
            self.write(crowd.poll(ticket))
        return looks


def right(id: int) -> int:
    return int(LABELS[id])


def wrong(id: int) -> int:
    return (right(id) + 1) % C


def silent(id: int) -> None:
    return None


def simulated(seed: int = 0, **options: Any) -> Crowd:
    found = make_oracle("crowd", DATA, options=options, seed=seed)
    assert isinstance(found, Crowd)
    return found
