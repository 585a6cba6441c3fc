"""ask: a request goes to the oracle, and every answer is on the disk before the pool learns it.

An oracle may be slow, answer in parts, abstain, revise what it said, raise, hang, or be a crowd; whatever it does, what
it has answered is kept, and is not asked for again.
"""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from activebdl.annotations import Annotation
from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError, Waiting, is_ours, told
from activebdl.journal import Asked, Journal
from activebdl.oracles import Oracle, Request, sort_annotations
from activebdl.pool import Pool
from activebdl.rounds import Round

VALIDATION = -1  # the round before the first, in which validation items are asked for

_SPENT = "the budget in cost of"
_LONGEST_PAUSE = 2.0  # seconds between two looks at an oracle that is still answering
_IN_VAIN = 10, 50  # whole requests in a row, and items in them, after which an oracle that labels nothing is told of


@dataclass
class Asking:
    """Who is asked, for how long, and for how much.

    Args:
        dataset: What is labelled.
        oracle: Who labels.
        budget: Labels at the end of the run, which the oracle is told.
        time_limit: Seconds that the oracle may go without a new answer; None for ever.
        max_cost: What all annotations together may cost; None for whatever they cost.

    Raises:
        UserError: A limit that cannot be, or a budget in cost where nobody says what an answer costs.
    """

    dataset: ActiveDataset
    oracle: Oracle
    budget: int
    time_limit: float | None = None
    max_cost: float | None = None
    _in_vain: list[int] = field(
        default_factory=list[int], init=False
    )  # items of the last requests, all of which abstained

    def __post_init__(self) -> None:
        for name, limit in (("time_limit", self.time_limit), ("max_cost", self.max_cost)):
            if limit is not None and not 0 < limit < math.inf:
                raise UserError(f"'{name}' is a number above 0, or None for no limit; not {limit}.")
        if self.max_cost is None:
            return
        if getattr(self.oracle, "price", None) is None:
            raise UserError(
                "A budget in cost (max_cost) needs to know what an answer may cost; give the oracle a method "
                "price(ids) that says it for each item."
            )
        prices = self._prices(torch.arange(len(self.dataset.pool)))
        if not bool((prices > 0).any()):
            raise UserError("A budget in cost (max_cost) has no effect, for these annotations cost nothing.")
        if float(prices.min()) > self.max_cost:
            raise UserError(
                f"The budget in cost of {self.max_cost:g} pays no label: the cheapest may cost {float(prices.min()):g}."
            )

    def affordable(self, journal: Journal, pool: Pool) -> Tensor:
        """Ids of the unlabelled items whose answer can be paid with what is left, ascending."""
        ids = pool.unlabelled
        return ids if self.max_cost is None else ids[self._prices(ids) <= self._left(journal)]

    def as_far_as_it_goes(self, journal: Journal, ids: Tensor) -> Tensor:
        """Which of the chosen are asked for, as positions: each in turn, when it can be paid beside those before it."""
        if self.max_cost is None:
            return torch.arange(len(ids))
        left, kept = self._left(journal), list[int]()
        for position, price in enumerate(self._prices(ids).tolist()):
            if price <= left:
                left -= price
                kept.append(position)
        return torch.tensor(kept, dtype=torch.long)

    def why_no_more(self, journal: Journal, pool: Pool) -> str | None:
        """That the pool is used up, or the budget in cost cannot pay another label; None while there may be one."""
        if len(pool.unlabelled) == 0:
            return f"the pool is used up: the oracle would not label {len(pool.set_aside)} of its items"
        if self.max_cost is None or len(self.affordable(journal, pool)):
            return None
        return f"{_SPENT} {self.max_cost:g} is spent: {journal.paid():g} paid"

    def was_poorer(self, reason: str) -> bool:
        """Whether what ended the run was a budget in cost, and another than today's."""
        today = None if self.max_cost is None else f"{_SPENT} {self.max_cost:g} "
        return reason.startswith(_SPENT) and (today is None or not reason.startswith(today))

    def can_pay_again(self, stopped: str | None, journal: Journal, pool: Pool) -> bool:
        """Whether what stopped the run was a budget in cost, and today's is larger."""
        return stopped is not None and stopped.startswith(_SPENT) and self.why_no_more(journal, pool) is None

    def tell(self, round: Round) -> None:
        """Tells the oracle of a round, when it wants to know."""
        self._call_if_there("told", round)

    @contextlib.contextmanager
    def to_the_end(self) -> Generator[None]:
        """Tells the oracle when the run ends, in whatever way; what ended it is not hidden by a fault of the oracle."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(UserError):
                self._call_if_there("close")
            raise
        self._call_if_there("close")

    def ask(self, journal: Journal, pool: Pool, round: int, attempt: int, asked: Asked) -> dict[int, Annotation]:
        """Waits until every item of the request has an answer, and tells the pool what is new.

        Returns:
            The answers by id, and revisions of earlier ones.

        Raises:
            UserError: What the oracle did wrong; what it did right is kept.
            Waiting: The oracle says that it answers later.
        """
        known = journal.take(round, attempt)
        if not known:
            self._wait(journal, pool, round, attempt, asked)
        news = journal.news(round, attempt)
        pool.ask(asked.ids)
        for id in asked.ids:
            pool.answer(id, news[id].label, hold_out=round == VALIDATION)
        for id in news.keys() - set(asked.ids):
            pool.correct(id, news[id].label)
        if not known:
            self._check_use(asked, news)
        return news

    def _wait(self, journal: Journal, pool: Pool, round: int, attempt: int, asked: Asked) -> None:
        """Submits the request and polls until the journal can take it."""
        oracle, target = self.oracle, self.dataset.target
        allowed = journal.asked()

        def record(found: object) -> None:
            good, mistake = sort_annotations(found, allowed, target)
            before = self._paid_for(journal, asked)
            journal.write_annotations(good)
            mistake = mistake or self._overcharged(before, self._paid_for(journal, asked))
            if mistake:
                raise UserError(f"{mistake} {len(good)} good answers of this batch are kept; mend it and go on.")

        ticket = self._call("submit", oracle.submit, self._request(journal, pool, round, attempt, asked, record))
        pause, known, since = 0.0, journal.lines(), time.monotonic()
        while not journal.take(round, attempt):
            time.sleep(pause)
            pause = min(2 * pause + 0.01, _LONGEST_PAUSE)
            record(self._call("poll", oracle.poll, ticket))
            if journal.lines() != known:
                known, since, pause = journal.lines(), time.monotonic(), 0.0  # where one answer came, there may be more
            elif self.time_limit is not None and time.monotonic() - since > self.time_limit:
                answered = len(journal.annotations(round, attempt))
                raise UserError(
                    f"The oracle has given no answer for {self.time_limit:g} s (time_limit); {answered} of "
                    f"{len(asked.ids)} are there and kept. Resume the run when it answers again."
                )

    def _request(
        self, journal: Journal, pool: Pool, round: int, attempt: int, asked: Asked, record: Callable[[object], None]
    ) -> Request:
        answered = journal.annotations(round, attempt)
        open = [position for position, id in enumerate(asked.ids) if id not in answered]
        ids = tuple(asked.ids[position] for position in open)
        last = journal.round(round - 1)
        name = "validation" if round == VALIDATION else f"round-{round}"
        return Request(
            key=f"{name}-attempt-{attempt}",
            ids=ids,
            items=self.dataset.pool[torch.tensor(ids)],
            target=self.dataset.target,
            batch=asked.ids,
            white=self.dataset.normalise.scale,
            round=round,
            n_labels=pool.n_labels,
            budget=self.budget,
            metrics={} if last is None else last.results["metrics"],
            scores=tuple(asked.scores[position] for position in open),
            predictions=None if asked.predictions is None else torch.tensor([asked.predictions[i] for i in open]),
            history=tuple(journal.history()),
            record=record,
        )

    def _check_use(self, asked: Asked, news: dict[int, Annotation]) -> None:
        """Tells of an oracle that labels nothing, before it goes through the whole pool."""
        self._in_vain.append(len(asked.ids))
        if any(news[id].label is not None for id in asked.ids):
            self._in_vain.clear()
        requests, items = _IN_VAIN
        if len(self._in_vain) >= requests and sum(self._in_vain) >= items:
            raise UserError(
                f"The oracle abstained from every item of the last {len(self._in_vain)} requests, and labelled none; "
                "look at what it is asked, and resume the run."
            )

    def _left(self, journal: Journal) -> float:
        """What the budget in cost can still pay; sums of such numbers as 0.1 are a little off."""
        assert self.max_cost is not None
        return self.max_cost - journal.paid() + 1e-9 * self.max_cost

    def _paid_for(self, journal: Journal, asked: Asked) -> dict[int, float]:
        """What each item of the request has cost, where that matters."""
        return {} if self.max_cost is None else journal.paid_for(asked.ids)

    def _overcharged(self, before: dict[int, float], paid: dict[int, float]) -> str:
        """That answers to an item cost more, now, than was said, where there is a budget; else nothing."""
        dearer = [id for id in paid if paid[id] > before[id]]
        if not dearer:
            return ""
        for id, price in zip(dearer, self._prices(torch.tensor(dearer)).tolist(), strict=True):
            if paid[id] > price * (1 + 1e-9):
                return f"The answers to item {id} cost {paid[id]:g}, where the oracle's price for it is {price:g}."
        return ""

    def _prices(self, ids: Tensor) -> Tensor:
        """The most that the answers to each item may cost, ``[n]``, float64."""
        given: Sequence[float] = self._call("price", cast(Any, self.oracle).price, ids.tolist())
        try:
            prices = torch.as_tensor(given, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            prices = torch.empty(0)
        if prices.shape != ids.shape or not bool(((prices >= 0) & prices.isfinite()).all()):
            raise UserError("The oracle's price(ids) must give one number for each id, 0 or more.")
        return prices

    def _call_if_there(self, verb: str, *arguments: object) -> None:
        """Calls what an oracle may have and need not."""
        function = getattr(self.oracle, verb, None)
        if function is not None:
            self._call(verb, function, *arguments)

    def _call(self, verb: str, function: Callable[..., Any], *arguments: object) -> Any:
        """Calls the oracle, no longer than the time limit; what its own code raises is told in one sentence."""
        try:
            return _within(self.time_limit, function, *arguments)
        except (UserError, Waiting):
            raise
        except _Hung as error:
            raise UserError(
                f"The oracle's {verb} did not return within {self.time_limit:g} s (time_limit); what it answered "
                "before is kept. Resume the run when it answers again."
            ) from error
        except Exception as error:
            if is_ours(type(self.oracle)):
                raise
            raise UserError(
                f"The oracle's {verb} failed: {told(error)}; what it answered before is kept. Mend it and resume."
            ) from error


class _Hung(Exception):
    """A call did not return in time."""


def _within(seconds: float | None, function: Callable[..., Any], *arguments: object) -> Any:
    """What a function returns or raises. One that hangs beyond the limit is left behind in its thread."""
    if seconds is None:
        return function(*arguments)
    outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            outcome.put((function(*arguments), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise _Hung from None
    if error is not None:
        raise error
    return value
