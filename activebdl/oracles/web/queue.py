"""The open batch, and who is shown which of its items: nobody is shown what another is looking at.

A session is one page in one browser. Its lease on the items it shows ends when it is not heard of for `LEASE` seconds.
Nothing here knows of HTTP, and the clock can be a test's.
"""

import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from activebdl.annotations import Annotation, standing
from activebdl.errors import UserError
from activebdl.oracles._contract import Request
from activebdl.oracles.web.items import Item, items_of

LEASE = 90.0  # seconds; a page tells every second that it is there, or once a minute where nobody looks at it
GRID = 24  # items that a page in the grid's view holds at once
SESSIONS = 100
UNDO = 100  # answers of a session that can be taken back
NAME = re.compile(r"\w[\w .@+'-]{0,39}")  # of an annotator
GRACE = 1.5  # seconds in which the last answer of a batch can still be taken back before the batch is the model's


class Refused(Exception):
    """What a page asked for cannot be; the sentence is for the person at it.

    Args:
        status: The HTTP status that says the same to the page.
        sentence: Why.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Shown:
    """An item on somebody's page.

    Args:
        id: Which.
        item: What there is to see.
        said: What this session said of it, while that can still be changed.
        again: Whether its batch is the model's already, so that a new answer counts from the next round on.
    """

    id: int
    item: Item
    said: Annotation | None
    again: bool


@dataclass
class Session:
    """One page: when it was last heard of, the items it holds, those shown once more, and what it answered."""

    seen: float
    page: list[int] = field(default_factory=list[int])
    again: list[int] = field(default_factory=list[int])
    done: list[int] = field(default_factory=list[int])  # oldest first
    undone: str = ""  # the last wish to undo that was done


class Queue:
    """What is open, leased and answered; safe to use from any thread.

    Args:
        cost: Of the first answer to an item; correcting it is free, so that no item costs more.
        clock: Seconds.
        grace: Seconds that the last answer of a batch can still be taken back.
    """

    def __init__(self, *, cost: float = 0.0, clock: Callable[[], float] = time.monotonic, grace: float = GRACE) -> None:
        self.cost, self._clock, self._grace = cost, clock, grace
        self._writing = threading.Lock()  # one annotation after the other; held while the journal writes
        self._changed = threading.Condition()  # guards all below; never held while the journal writes
        self.request: Request | None = None
        self._batch: frozenset[int] = frozenset()  # ids of the whole request, those answered before a restart too
        self._before: dict[int, Annotation] = {}  # what counted when it was asked
        self._open: dict[int, None] = {}  # in the order in which they are handed out
        self._taken = True  # the batch is the model's, or there is none yet
        self._items: dict[int, Item] = {}
        self._said: dict[int, Annotation] = {}  # the last thing said of an item
        self._by: dict[int, Session] = {}  # and at which page
        self._paid: set[int] = set()
        self._sessions: dict[str, Session] = {}
        self._last_answer = 0.0
        self._failure: Exception | None = None

    # What the loop calls.

    def open(self, request: Request) -> None:
        """Takes a batch in place of the one before."""
        with self._changed:
            self._give_away()
            self.request, self._taken = request, False
            self._batch = frozenset(request.batch or request.ids)
            self._before = standing(request.history)
            self._open = dict.fromkeys(request.ids)
            for session in self._sessions.values():
                session.again = [id for id in session.again if id not in self._open]
            kept = {id for session in self._sessions.values() for id in session.done + session.again}
            self._items = {id: item for id, item in self._items.items() if id in kept}
            self._items |= items_of(request)
            self._paid |= {annotation.id for annotation in request.history if annotation.cost > 0}
            self._changed.notify_all()

    def settle(self) -> None:
        """Returns when the journal has all that was said by now; a batch that is answered is the model's then.

        After the last answer it waits until the grace is over, or the answer is taken back.

        Raises:
            Exception: What the journal raised when an answer could not be written.
        """
        while True:
            # An answer that is being written may be the last: without this lock the loop would find it in the journal
            # and take the batch before anybody had the time to take it back.
            with self._writing, self._changed:
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                left = self._last_answer + self._grace - self._clock()
                if not self._open and left <= 0:
                    self._give_away()
                if self._open or self._taken:
                    return
            with self._changed:
                self._changed.wait_for(lambda: self._open or self._failure, left)

    def take(self) -> None:
        """The batch is the model's, in whatever way its answers came: what is said from now on is a revision."""
        with self._changed:
            self._give_away()

    # What the pages call.

    def look(self, session: str, grid: bool) -> list[Shown]:
        """What a page is to show; it has a lease on that until it is not heard of for a while.

        Raises:
            Refused: There are too many pages.
        """
        with self._changed:
            me = self._session(session)
            mine = [id for id in me.page if id in self._open]
            if not grid:  # those that were taken back here stay here
                me.page = [id for id in mine if id == mine[0] or id in self._said]
            elif not mine and self._free(1):
                me.page = []
            me.page += self._free((GRID if grid else 1) - len(me.page))
            batch = [
                Shown(id, self._items[id], None if id in self._open else self._mine(me, id), False) for id in me.page
            ]
            return [Shown(id, self._items[id], None, True) for id in me.again] + batch

    def answer(self, session: str, id: int, label: object, annotator: str, seconds: float) -> str:
        """Takes an answer: it is in the journal when this returns. The same answer again changes nothing.

        Returns:
            What the person should know; often nothing.

        Raises:
            Refused: The label is none, or the item is not this page's to label.
        """
        with self._writing:
            with self._changed:
                me, request = self._session(session), self._asked()
                again, label = self._is_over(id), _label(request, label)
                earlier = None if id in self._said else self._before.get(id)
                if earlier is not None and (earlier.label, earlier.annotator) == (label, annotator):
                    return ""  # the run was stopped before it could acknowledge that
                before = self._may_answer(me, id)
                if before is not None and before.role == "answer" and before.label == label and id not in me.again:
                    return ""
                annotator = before.annotator if before is not None and again else annotator
                cost = 0.0 if id in self._paid else self.cost
                made = Annotation(id, label, annotator, cost, seconds)
            self._write(request, made)
            with self._changed:
                told = self._what_comes_of_it(id) if again else ""
                self._keep(me, made)
                if id in self._open:
                    del self._open[id]
                    if id not in me.page:
                        me.page.append(id)
                self._last_answer = self._clock()
                self._changed.notify_all()
        return told

    def skip(self, session: str, id: int) -> str:
        """Puts an item at the end of the queue; one that is shown once more keeps the answer it had."""
        with self._changed:
            me = self._session(session)
            if id in me.again:
                me.again.remove(id)
                me.done.append(id)
                return "The earlier answer stands."
            if id not in self._open or self._holder(id) not in (None, me):
                raise Refused(409, "This item is not open here any more.")
            del self._open[id]
            self._open[id] = None
            if id in me.page:
                me.page.remove(id)
            return "" if self._free(1) != [id] else "This is the only item that is left."

    def undo(self, session: str, nonce: str = "") -> str:
        """Takes this page's last answer back: the item comes to it again.

        Args:
            session: Which page.
            nonce: Names this wish, so that one that is sent again, as its acknowledgement was lost, is not done twice.

        Returns:
            What the person should know; often nothing.

        Raises:
            Refused: There is nothing to undo.
        """
        with self._writing:
            with self._changed:
                me, request = self._session(session), self._asked()
                if nonce and nonce == me.undone:
                    return ""
                if not me.done:
                    raise Refused(409, "There is nothing to undo.")
                id = me.done.pop()
                last = self._said[id]
                if self._is_over(id):
                    me.undone = nonce
                    me.again.insert(0, id)
                    return self._what_comes_of_it(id)
                withdrawn = Annotation(id, None, last.annotator, role="withdrawn")
                self._said[id] = withdrawn
                self._open = {id: None} | self._open  # before it is written: nobody else can have it
                if id not in me.page:
                    me.page.insert(0, id)
                self._changed.notify_all()
            try:
                self._write(request, withdrawn)
            except Exception:
                with self._changed:
                    self._open.pop(id, None)
                    self._keep(me, last)
                raise
            with self._changed:
                me.undone = nonce
                return self._what_comes_of_it(id) if self._is_over(id) else ""

    def leave(self, session: str) -> None:
        """Lets go of what a page held; what it answered can still be undone when it is back."""
        with self._changed:
            if session in self._sessions:
                self._sessions[session].page.clear()
                self._sessions[session].seen = -math.inf

    def item(self, id: int) -> Item | None:
        """An item that the run has asked for; None for all others."""
        with self._changed:
            return self._items.get(id)

    def counts(self) -> tuple[int, int, int]:
        """Items of the batch, those answered, and those of them that have a label."""
        with self._changed:
            done = [id for id in self._batch if id not in self._open]
            return len(self._batch), len(done), self._labelled()

    def is_open(self) -> bool:
        """Whether there is a batch that is not the model's yet."""
        with self._changed:
            return not self._taken

    def can_undo(self, session: str) -> bool:
        """Whether that page has answered something that it can take back."""
        with self._changed:
            return session in self._sessions and bool(self._sessions[session].done)

    def present(self) -> int:
        """How many pages are there."""
        with self._changed:
            return sum(self._clock() - each.seen <= LEASE for each in self._sessions.values())

    def _asked(self) -> Request:
        if self.request is None:
            raise Refused(409, "Nothing has been asked yet.")
        return self.request

    def _session(self, name: str) -> Session:
        """That page, which is there now; the leases of those that are not end."""
        now = self._clock()
        for each in self._sessions.values():
            if now - each.seen > LEASE:
                each.page.clear()
        if name not in self._sessions and len(self._sessions) >= SESSIONS:
            oldest = min(self._sessions, key=lambda key: self._sessions[key].seen)
            if now - self._sessions[oldest].seen <= LEASE:
                raise Refused(503, f"{SESSIONS} pages are open already; close one of them.")
            del self._sessions[oldest]
        me = self._sessions.setdefault(name, Session(now))
        me.seen = now
        return me

    def _holder(self, id: int) -> Session | None:
        return next((each for each in self._sessions.values() if id in each.page), None)

    def _free(self, most: int) -> list[int]:
        """The first items that nobody holds."""
        held = {id for each in self._sessions.values() for id in each.page}
        return list(islice((id for id in self._open if id not in held), max(most, 0)))

    def _labelled(self) -> int:
        """Items of the batch that have a label."""
        said = (self._said.get(id) or self._before.get(id) for id in self._batch if id not in self._open)
        return sum(each is not None and each.label is not None for each in said)

    def _is_over(self, id: int) -> bool:
        """Whether an item's batch is the model's."""
        return self._taken or id not in self._batch

    def _what_comes_of_it(self, id: int) -> str:
        """What a new answer to an item is good for whose batch is the model's."""
        said, request = self._said[id], self._asked()
        if said.role == "answer" and said.label is None:
            return "A new answer is kept, but another item was asked for in its place."
        if self._taken and 0 < request.budget <= request.n_labels + self._labelled():
            return "That was the last round: a new answer is kept, but the model learns no more."
        return "The model has learned from this batch already: a new answer counts from the next round on."

    def _mine(self, me: Session, id: int) -> Annotation | None:
        said = self._said.get(id)
        return said if said is not None and said.role == "answer" and self._by.get(id) is me else None

    def _may_answer(self, me: Session, id: int) -> Annotation | None:
        """What this page said of an item that it may answer; None where the item is open."""
        if id in self._open:
            if self._holder(id) not in (None, me):
                raise Refused(409, "Somebody else is labelling this item.")
            return None
        if id in me.again or (id in self._items and self._mine(me, id) is not None):
            return self._said[id]
        request = self._asked()
        if id in self._said or any(annotation.id == id for annotation in request.history):
            raise Refused(409, "This item has been labelled meanwhile.")
        raise Refused(404, "The run has not asked for this item.")

    def _write(self, request: Request, annotation: Annotation) -> None:
        try:
            request.record([annotation])
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise

    def _keep(self, me: Session, annotation: Annotation) -> None:
        id = annotation.id
        self._said[id], self._by[id] = annotation, me
        if annotation.cost > 0:
            self._paid.add(id)
        me.again = [other for other in me.again if other != id]
        me.done = [*(other for other in me.done if other != id), id][-UNDO:]

    def _give_away(self) -> None:
        """The batch is the model's."""
        self._taken = True
        for session in self._sessions.values():
            # Taken back at the very moment at which the batch was taken: to be asked once more all the same.
            session.again += [id for id in session.page if id in self._open and id in self._said]
            session.page.clear()
        self._open.clear()
        self._changed.notify_all()


def _label(request: Request, given: object) -> int | float | None:
    """A label as the page may give it: a number of the right kind, or None; what Python takes for one is not enough."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or (request.classes and given == -1):
        raise Refused(400, f"This is no label: {str(given)[:40]!r}.")
    try:
        return request.target.label(given)
    except UserError as error:
        raise Refused(400, f"This is no label: {error}") from None
