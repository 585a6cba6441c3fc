"""Who is shown what, with a clock of the test's own and no web."""

import contextlib
import threading

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from activebdl import Annotation, Numbers
from activebdl.oracles.web.queue import GRID, LEASE, SESSIONS, Queue, Refused
from tests.oracles.web.conftest import Book, ask


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def shown(queue: Queue, session: str, grid: bool = False) -> list[int]:
    return [each.id for each in queue.look(session, grid)]


def say(queue: Queue, session: str, id: int, label: object, name: str = "web") -> str:
    return queue.answer(session, id, label, name, 1.0)


def opened(book: Book, count: int = 10, **options: float) -> tuple[Queue, Clock]:
    clock = Clock()
    queue = Queue(clock=clock, grace=0.0, **options)
    queue.open(ask(book, range(count)))
    return queue, clock


def test_two_pages_never_show_the_same_item(book: Book) -> None:
    queue, _ = opened(book)
    assert (shown(queue, "a"), shown(queue, "b")) == ([0], [1])
    assert (shown(queue, "a"), shown(queue, "b")) == ([0], [1])  # and looking again changes nothing
    say(queue, "a", 0, 3)
    assert (shown(queue, "a"), shown(queue, "b")) == ([2], [1])
    with pytest.raises(Refused, match="Somebody else is labelling"):
        say(queue, "a", 1, 3)
    with pytest.raises(Refused, match="has been labelled meanwhile"):
        say(queue, "b", 0, 3)
    assert [row.id for row in book.rows] == [0]


def test_a_grid_holds_a_page_of_items_and_leaves_the_others(book: Book) -> None:
    queue, _ = opened(book, GRID + 5)
    assert shown(queue, "a", grid=True) == list(range(GRID))
    assert shown(queue, "b", grid=True) == list(range(GRID, GRID + 5))
    for id in range(GRID - 1):
        say(queue, "a", id, id % 10)
    assert shown(queue, "a", grid=True) == list(range(GRID))  # those that are labelled stay to be looked over
    assert queue.look("a", True)[3].said == Annotation(3, 3, "web", seconds=1.0)
    assert shown(queue, "a") == [GRID - 1]
    assert shown(queue, "c") == []


def test_a_grid_that_is_done_gives_way_to_the_next(book: Book) -> None:
    queue, _ = opened(book, GRID + 5)
    for id in shown(queue, "a", grid=True):
        say(queue, "a", id, 0)
    assert shown(queue, "a", grid=True) == list(range(GRID, GRID + 5))


def test_what_is_labelled_in_the_grid_can_be_labelled_otherwise(book: Book) -> None:
    queue, _ = opened(book)
    shown(queue, "a", grid=True)
    assert say(queue, "a", 4, 1) == say(queue, "a", 4, 2) == ""
    assert [(row.id, row.label) for row in book.rows] == [(4, 1), (4, 2)]
    queue.settle()
    assert queue.is_open() and book.effective()[4].label == 2


def test_the_same_answer_again_is_not_written_again(book: Book) -> None:
    queue, _ = opened(book, 2)
    for _ in range(3):  # its acknowledgement was lost
        say(queue, "a", 0, 7)
    assert len(book.rows) == 1
    say(queue, "a", 1, 7)
    queue.settle()
    assert not queue.is_open()
    assert say(queue, "a", 1, 7) == ""  # also when the batch was taken meanwhile
    assert len(book.rows) == 2


def test_a_lease_ends_when_a_page_is_not_heard_of(book: Book) -> None:
    queue, clock = opened(book, 1)
    assert shown(queue, "a") == [0]
    clock.now += LEASE - 1
    assert shown(queue, "b") == []
    assert shown(queue, "a") == [0]  # renewed
    clock.now += LEASE
    assert shown(queue, "b") == []
    clock.now += 1
    assert shown(queue, "b") == [0]
    with pytest.raises(Refused, match="Somebody else is labelling"):
        say(queue, "a", 0, 1)
    assert shown(queue, "a") == []


def test_a_page_that_was_away_may_still_answer_what_nobody_else_has(book: Book) -> None:
    queue, clock = opened(book, 1)
    shown(queue, "a")
    clock.now += 10 * LEASE
    say(queue, "a", 0, 1)
    assert book.effective()[0].label == 1


def test_a_page_that_leaves_lets_go_at_once(book: Book) -> None:
    queue, _ = opened(book, 1)
    shown(queue, "a")
    queue.leave("a")
    assert shown(queue, "b") == [0]


def test_a_skipped_item_comes_last_and_is_not_annotated(book: Book) -> None:
    queue, _ = opened(book, 3)
    assert shown(queue, "a") == [0]
    assert queue.skip("a", 0) == ""
    order = []
    for _ in range(3):
        (id,) = shown(queue, "a")
        order.append(id)
        say(queue, "a", id, 0)
    assert order == [1, 2, 0]
    assert len(book.rows) == 3


def test_skipping_the_only_item_left_says_so(book: Book) -> None:
    queue, _ = opened(book, 1)
    shown(queue, "a")
    assert "only item" in queue.skip("a", 0)
    assert shown(queue, "a") == [0]


def test_undo_withdraws_and_gives_the_item_back(book: Book) -> None:
    queue, _ = opened(book, 3)
    for label in (5, 6):
        say(queue, "a", shown(queue, "a")[0], label, "ann")
    assert shown(queue, "a") == [2]
    assert queue.undo("a") == "" and queue.undo("a") == ""
    assert book.rows[2:] == [Annotation(1, None, "ann", role="withdrawn"), Annotation(0, None, "ann", role="withdrawn")]
    queue.settle()
    assert queue.is_open() and book.effective() == {}
    assert (shown(queue, "a"), shown(queue, "b")) == ([0, 1], [2])  # both came back to this page and no other
    with pytest.raises(Refused, match="nothing to undo"):
        queue.undo("a")
    say(queue, "a", 0, 1)
    assert shown(queue, "a")[0] == 1


def test_an_abstention_is_an_answer_and_can_be_undone(book: Book) -> None:
    queue, _ = opened(book, 1)
    say(queue, "a", 0, None)
    assert book.rows == [Annotation(0, None, "web", seconds=1.0)]
    assert queue.counts() == (1, 1, 0)
    queue.undo("a")
    assert queue.counts() == (1, 0, 0)


def test_undo_after_the_batch_was_taken_makes_a_revision_by_the_same_annotator(book: Book) -> None:
    queue, _ = opened(book, 2)
    say(queue, "a", 0, 1, "ann")
    say(queue, "b", 1, 2, "bob")
    queue.settle()
    assert "next round" in queue.undo("a")
    (again,) = queue.look("a", False)
    assert (again.id, again.again) == (0, True)
    assert shown(queue, "b") == []
    assert len(book.rows) == 2  # the old answer stands until there is a new one
    queue.open(ask(book, range(2, 4), key="round-1"))
    assert shown(queue, "a") == [0, 2]
    assert "next round" in say(queue, "a", 0, 9, "somebody new")
    assert book.rows[-1] == Annotation(0, 9, "ann", seconds=1.0)
    assert shown(queue, "a") == [2]
    assert queue.counts() == (2, 0, 0)  # and it is none of the open batch's


def test_an_item_shown_once_more_may_keep_its_answer(book: Book) -> None:
    queue, _ = opened(book, 1)
    say(queue, "a", 0, 1)
    queue.settle()
    queue.undo("a")
    assert "stands" in queue.skip("a", 0)
    assert shown(queue, "a") == [] and len(book.rows) == 1
    queue.undo("a")
    assert shown(queue, "a") == [0]
    say(queue, "a", 0, 1)  # the same label by the same annotator: nothing is revised, and the journal knows it
    assert shown(queue, "a") == []


def test_the_last_answer_of_a_batch_can_be_taken_back_while_poll_waits(book: Book) -> None:
    queue = Queue(grace=60.0)
    queue.open(ask(book, range(1)))
    say(queue, "a", 0, 1)
    polled: list[bool] = []
    poll = threading.Thread(target=lambda: polled.append(queue.settle() is None), daemon=True)
    poll.start()
    queue.undo("a")
    poll.join(20)
    assert polled == [True]
    assert queue.is_open()


def test_an_item_that_was_taken_back_while_its_batch_was_taken_is_asked_once_more(book: Book) -> None:
    queue = Queue(grace=60.0)
    queue.open(ask(book, range(2)))
    say(queue, "a", 0, 1)
    say(queue, "a", 1, 1)
    queue.undo("a")
    queue.open(ask(book, range(2, 4), key="round-1"))  # the loop had seen both answers
    assert shown(queue, "a") == [1, 2]
    assert "next round" in say(queue, "a", 1, 5)
    assert book.effective()[1].label == 5


def test_only_the_first_answer_to_an_item_costs(book: Book) -> None:
    queue, _ = opened(book, 3, cost=2.5)
    say(queue, "a", 0, 1)
    queue.undo("a")
    say(queue, "a", 0, 2)
    say(queue, "a", 0, 3)
    say(queue, "a", 1, None)
    assert sum(row.cost for row in book.rows) == 2 * 2.5
    again = Queue(cost=2.5)  # after a restart
    again.open(ask(book, [0, 2], history=tuple(book.rows)))
    say(again, "a", 0, 4)
    say(again, "a", 2, 4)
    assert sum(row.cost for row in book.rows) == 3 * 2.5


@pytest.mark.parametrize("label", [10, -1, -2, 1.5, True, "3", [3], {"a": 1}, 10**40])
def test_what_is_no_label_is_refused(book: Book, label: object) -> None:
    queue, _ = opened(book)
    with pytest.raises(Refused, match="no label") as refused:
        say(queue, "a", 0, label)
    assert refused.value.status == 400 and book.rows == []


@pytest.mark.parametrize("label", [float("inf"), float("nan"), False, "3", 10**400])
def test_what_is_no_number_is_refused(book: Book, label: object) -> None:
    queue = Queue()
    queue.open(ask(book, target=Numbers()))
    if label != label:
        assert say(queue, "a", 0, label) == "" and book.rows[0].label is None  # NaN abstains, as everywhere
    else:
        with pytest.raises(Refused, match="no label"):
            say(queue, "a", 0, label)
        assert book.rows == []
    say(queue, "a", 0, -1)
    assert book.rows[-1].label == -1.0


def test_an_unknown_item_is_refused(book: Book) -> None:
    queue, _ = opened(book)
    with pytest.raises(Refused, match="has not asked") as refused:
        say(queue, "a", 4711, 1)
    assert refused.value.status == 404
    queue.open(ask(book, [5], key="round-1", history=(Annotation(77, 3),)))
    with pytest.raises(Refused, match="labelled meanwhile"):
        say(queue, "a", 77, 1)
    with pytest.raises(Refused, match="not open here"):
        queue.skip("a", 77)


def test_what_cannot_be_written_is_not_acknowledged_and_ends_the_run(book: Book) -> None:
    queue, _ = opened(book, 2)
    say(queue, "a", 0, 1)
    book.failure = OSError("no space left on device")
    with pytest.raises(OSError, match="no space"):
        say(queue, "a", 1, 1)
    assert queue.counts() == (2, 1, 1)
    with pytest.raises(OSError, match="no space"):
        queue.undo("a")
    assert queue.counts() == (2, 1, 1) and queue.can_undo("a")
    with pytest.raises(OSError, match="no space"):
        queue.settle()
    book.failure = None
    queue.settle()
    assert queue.is_open()
    say(queue, "a", 1, 1)
    queue.settle()
    assert not queue.is_open() and len(book.effective()) == 2


def test_pages_are_bounded_and_old_ones_make_room(book: Book) -> None:
    queue, clock = opened(book, 3)
    for i in range(SESSIONS):
        queue.look(f"page {i}", False)
    with pytest.raises(Refused, match="pages are open") as refused:
        queue.look("one more", False)
    assert refused.value.status == 503
    clock.now += LEASE + 1
    queue.look("one more", False)
    assert queue.present() == 1


def test_items_are_known_while_they_are_open_or_can_be_undone(book: Book) -> None:
    queue, _ = opened(book, 2)
    say(queue, "a", 0, 1)
    say(queue, "b", 1, 1)
    queue.settle()
    queue.open(ask(book, [5], key="round-1"))
    assert [queue.item(id) is not None for id in (0, 1, 5, 6)] == [True, True, True, False]
    assert torch.equal(queue.item(5).input, torch.full((1, 8, 8), 5, dtype=torch.uint8))  # type: ignore[union-attr]


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
