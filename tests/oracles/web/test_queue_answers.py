"""What is said at the queue: written once and paid once, undone, revised, refused."""

import threading
from typing import Any

import pytest

from activebdl import Annotation, Numbers
from activebdl.oracles.web.queue import Queue, Refused
from tests.oracles.web.conftest import Book, ask
from tests.oracles.web.queues import opened, say, shown

# ---- answers ----


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


# ---- undo ----


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


def test_the_last_answer_of_a_batch_can_be_taken_back_while_poll_waits(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(grace=60.0)
    queue.open(ask(book, range(1)))
    say(queue, "a", 0, 1)
    polled: list[bool] = []
    waits, wait_for = threading.Event(), queue._changed.wait_for

    def told(*condition: Any) -> Any:
        waits.set()  # which nobody else can change before the wait begins
        return wait_for(*condition)

    monkeypatch.setattr(queue._changed, "wait_for", told)
    poll = threading.Thread(target=lambda: polled.append(queue.settle() is None), daemon=True)
    poll.start()
    assert waits.wait(20)
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


# ---- what is refused ----


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
