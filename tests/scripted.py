"""An oracle that tells the truth but where a script says otherwise, by request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from activebdl import ActiveDataset, Annotation, Request


@dataclass
class Scripted:
    """Answers with the truth at once, but for what a script says beside or in place of it, by request."""

    truth: Tensor
    script: dict[str, Callable[[Request], list[Annotation]]] = field(default_factory=dict)  # pyright: ignore
    requests: list[Request] = field(default_factory=list[Request])

    def submit(self, request: Request) -> str:
        self.requests.append(request)
        return request.key

    def poll(self, ticket: str) -> Sequence[Annotation]:
        request = self.requests[-1]
        truth = [Annotation(id, int(self.truth[id]), "ann") for id in request.ids]
        return truth if ticket not in self.script else self.script[ticket](request)


def truth_of(dataset: ActiveDataset) -> Tensor:
    assert dataset.labels is not None
    return dataset.labels
