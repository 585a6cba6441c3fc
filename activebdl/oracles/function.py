"""Any plain Python function as an oracle: ``f(items) -> labels``."""

import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from activebdl.annotations import Annotation, Label
from activebdl.errors import UserError, told
from activebdl.oracles._contract import Request


class FunctionOracle:
    """Calls a function with the whole batch and waits for it.

    Args:
        function: ``f(items) -> labels``: ``items [Q, ...]`` as the data set stores them; Q labels come back, as a list,
            array or tensor: integers for classes, and numbers where labels are numbers. None, or -1 among classes and
            NaN among numbers, leaves an item unlabelled. A parameter called ``ids`` is given the items' ids.
        name: The annotator's name in the journal.
        costs: What an answer costs, ``[N]`` by id; None for nothing.
    """

    def __init__(self, function: Callable[..., Any], name: str = "function", costs: Tensor | None = None) -> None:
        self.function = function
        self.name = name
        self.costs = costs
        self._takes_ids = "ids" in inspect.signature(function).parameters
        self._answers: dict[str, list[Annotation]] = {}

    def price(self, ids: Sequence[int]) -> Sequence[float]:
        """What the answer to each item costs."""
        return [0.0] * len(ids) if self.costs is None else self.costs[list(ids)].tolist()

    def submit(self, request: Request) -> str:
        """Asks the function; see `activebdl.oracles.Oracle.submit`.

        Raises:
            UserError: The function raised, or it did not give Q labels.
        """
        start = time.perf_counter()
        ids = {"ids": torch.tensor(request.ids)} if self._takes_ids else {}
        try:
            answer = self.function(request.items, **ids)
        except Exception as error:
            raise UserError(f"The oracle '{self.name}' failed: {told(error)}.") from error
        labels = self._labels(answer, request)
        seconds = (time.perf_counter() - start) / len(labels)
        costs = self.price(request.ids)
        self._answers[request.key] = [
            Annotation(id, label, self.name, cost, seconds)
            for id, label, cost in zip(request.ids, labels, costs, strict=True)
        ]
        return request.key

    def poll(self, ticket: str) -> Sequence[Annotation]:
        """All answers: the function has returned by now."""
        return self._answers.pop(ticket)

    def _labels(self, answer: object, request: Request) -> list[Label]:
        count, abstain = len(request.ids), request.target.abstention
        if isinstance(answer, Tensor):
            answer = answer.detach().cpu()
        elif isinstance(answer, np.ndarray) and answer.dtype == object:
            answer = answer.tolist()
        if isinstance(answer, list | tuple):
            answer = [abstain if label is None else label for label in cast(Sequence[object], answer)]
        try:
            array = np.asarray(answer)
        except (ValueError, TypeError) as error:
            raise UserError(f"The oracle '{self.name}' gave labels that are no array: {error}.") from error
        if array.shape != (count,):
            raise UserError(
                f"The oracle '{self.name}' was asked for {count} labels and gave an answer of shape "
                f"{list(array.shape)}; it must give one label per item, [{count}]."
            )
        numbers = request.target.kind == "numbers"
        if array.dtype.kind not in ("iuf" if numbers else "iu"):
            known = "numbers" if numbers else "integers"
            raise UserError(f"The oracle '{self.name}' gave labels of type {array.dtype}; labels are {known}.")
        return [None if label == abstain or label != label else label for label in array.tolist()]
