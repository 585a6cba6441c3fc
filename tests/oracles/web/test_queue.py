"""Who is shown what: one item to one page, grids, leases, skipped items; with a clock of the test's own and no web."""

import pytest
import torch

from activebdl import Annotation
from activebdl.oracles.web.queue import GRID, LEASE, SESSIONS, Refused
from tests.oracles.web.conftest import Book, ask
from tests.oracles.web.queues import opened, say, shown


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
