"""Several people at one queue in any order that hypothesis can think of."""

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from activebdl.oracles.web.queue import LEASE, Queue, Refused
from tests.oracles.web.conftest import Book, ask
from tests.oracles.web.queues import Clock, say, shown


class People(RuleBasedStateMachine):
    """Several people at one queue do whatever comes to their mind, against a plain table of what should hold."""

    sessions = st.sampled_from(["a", "b", "c"])

    @initialize()
    def begin(self) -> None:
        self.book, self.clock, self.next = Book(), Clock(), 0
        self.queue = Queue(cost=1.0, clock=self.clock, grace=0.0)
        self.truth: dict[int, tuple[str, object]] = {}  # id -> who said what last
        self.pages: dict[str, list[int]] = {}
        self.batch()

    def batch(self) -> None:
        self.ids = range(self.next, self.next + 5)
        self.next += 5
        self.queue.open(ask(self.book, self.ids, key=f"round-{self.next}"))
        self.pages = {}

    @rule(session=sessions, grid=st.booleans())
    def look(self, session: str, grid: bool) -> None:
        self.pages[session] = shown(self.queue, session, grid)

    @rule(session=sessions, label=st.integers(0, 9), place=st.integers(0, 4))
    def label(self, session: str, label: int, place: int) -> None:
        """Of what a page shows, which may be out of date by now."""
        page = self.pages.get(session, [])
        if not page:
            return
        id = page[place % len(page)]
        rows = len(self.book.rows)
        try:
            say(self.queue, session, id, label, session)
        except Refused:
            assert len(self.book.rows) == rows
        else:
            assert self.truth.get(id, (session, 0))[0] == session  # nobody's answer was written over
            self.truth[id] = (session, label)

    @rule(session=sessions)
    def undo(self, session: str) -> None:
        rows = len(self.book.rows)
        try:
            self.queue.undo(session)
        except Refused:
            return
        for row in self.book.rows[rows:]:
            assert self.truth.pop(row.id)[0] == session

    @rule(session=sessions)
    def skip(self, session: str) -> None:
        rows = len(self.book.rows)
        for id in self.pages.get(session, [])[:1]:
            with contextlib.suppress(Refused):
                self.queue.skip(session, id)
        assert len(self.book.rows) == rows

    @rule(seconds=st.sampled_from([1.0, 20.0, LEASE + 1]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(session=sessions)
    def leave(self, session: str) -> None:
        self.queue.leave(session)

    @precondition(lambda self: all(id in self.truth for id in self.ids))
    @rule()
    def take(self) -> None:
        self.queue.settle()
        assert not self.queue.is_open()
        assert all(self.book.effective()[id].label == self.truth[id][1] for id in self.ids)
        self.batch()

    @invariant()
    def everything_is_written_and_nothing_twice(self) -> None:
        effective = {id: (row.annotator, row.label) for id, row in self.book.effective().items()}
        assert effective == self.truth
        assert sum(row.cost for row in self.book.rows) == len({row.id for row in self.book.rows})

    @invariant()
    def no_two_pages_hold_one_item(self) -> None:
        open = [id for id in self.ids if id not in self.truth]
        held = [id for each in self.queue._sessions.values() for id in each.page if id in open]
        assert len(held) == len(set(held))


People.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestPeople = People.TestCase
