"""Where a batch becomes the model's: real threads, a real journal, and undo at the worst moments."""

import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from activebdl import Annotation
from activebdl.annotations import standing
from activebdl.journal import Asked, Journal
from activebdl.oracles.web import WebOracle
from activebdl.oracles.web.queue import Queue, Refused
from tests.oracles.web.conftest import Book, Serve, ask


class Desk:
    """A journal with a request of two items, whose writing can be held up before or after it is on the disk."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.queue = journal, Queue(cost=1.0, grace=60.0)
        self.hold = ""  # "before" or "after"
        self.held, self.go_on = threading.Event(), threading.Event()
        journal.write_request(0, 0, Asked((0, 1), (None, None)))
        self.queue.open(ask(Book(), (0, 1)))
        assert self.queue.request is not None
        object.__setattr__(self.queue.request, "record", self.record)
        self.queue.answer("a", 0, 3, "ann", 1.0)

    def record(self, annotations: Sequence[Annotation]) -> None:
        for moment in ("before", "after"):
            if self.hold == moment:
                self.held.set()
                assert self.go_on.wait(20)
            if moment == "before":
                self.journal.write_annotations(annotations)

    def labels(self) -> dict[int, Any]:
        return {id: said.label for id, said in standing(self.journal.history()).items()}

    def poll_and_take(self) -> tuple[threading.Thread, list[bool]]:
        """As the loop does, in a thread of its own."""
        taken: list[bool] = []

        def loop() -> None:
            self.queue.settle()
            taken.append(self.journal.take(0, 0))

        return started(loop), taken


def started(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def desk(tmp_path: Path) -> Generator[Desk]:
    with Journal(tmp_path / "journal.sqlite") as journal:
        yield Desk(journal)


def test_the_last_answer_can_be_taken_back_although_it_was_being_written_when_the_loop_looked(desk: Desk) -> None:
    desk.hold = "after"
    answer = started(lambda: desk.queue.answer("a", 1, 4, "ann", 1.0))
    assert desk.held.wait(20)
    assert desk.labels() == {0: 3, 1: 4}  # the loop would find them all
    poll, taken = desk.poll_and_take()
    poll.join(0.2)
    assert taken == []
    desk.hold = ""
    desk.go_on.set()
    answer.join(20)
    poll.join(0.2)
    assert taken == []  # the grace
    assert desk.queue.undo("a") == ""
    poll.join(20)
    assert taken == [False] and desk.queue.is_open()
    assert desk.labels() == {0: 3} and desk.journal.paid() == 2.0


def test_a_batch_is_not_taken_while_its_last_answer_is_being_withdrawn(desk: Desk) -> None:
    desk.queue.answer("a", 1, 4, "ann", 1.0)
    poll, taken = desk.poll_and_take()
    desk.hold = "before"
    undo = started(lambda: desk.queue.undo("a"))
    assert desk.held.wait(20)
    assert desk.labels() == {0: 3, 1: 4}
    poll.join(0.2)
    assert taken == []
    desk.go_on.set()
    undo.join(20)
    poll.join(20)
    assert taken == [False] and desk.labels() == {0: 3}
    desk.hold = ""
    desk.queue.answer("a", 1, 5, "ann", 1.0)
    assert desk.journal.take(0, 0)
    assert desk.labels() == {0: 3, 1: 5} and desk.journal.paid() == 2.0


def test_what_poll_gives_brings_nothing_back_that_is_undone_before_the_loop_writes_it(desk: Desk) -> None:
    oracle = WebOracle(cost=1.0)
    oracle._queue = desk.queue
    given = oracle.poll("round-0")
    desk.queue.undo("a")
    desk.journal.write_annotations(given)
    assert desk.labels() == {} and desk.journal.paid() == 1.0


@pytest.mark.parametrize("sign", ["progress", "told"])
def test_a_batch_is_the_models_as_soon_as_the_computer_works(desk: Desk, sign: str) -> None:
    """However the loop came by it: nothing is withdrawn then."""
    from tests.oracles.web.test_server import round_with

    oracle = WebOracle()
    oracle._queue = desk.queue
    desk.queue.answer("a", 1, 4, "ann", 1.0)
    assert desk.journal.take(0, 0)
    if sign == "told":
        oracle.told(round_with(2, 0.5))
    else:
        with oracle.progress("fit", 10):
            pass
    assert not desk.queue.is_open()
    assert "next round" in desk.queue.undo("a")
    assert desk.labels() == {0: 3, 1: 4} and desk.journal.lines() == 2


def test_an_answer_that_came_from_elsewhere_is_asked_of_nobody(desk: Desk) -> None:
    assert [each.id for each in desk.queue.look("a", False)] == [1]
    desk.journal.write_annotations([Annotation(1, 7, "a file")])
    desk.queue.take()
    assert desk.queue.look("a", False) == [] and desk.queue.counts() == (2, 2, 1)
    with pytest.raises(Refused):
        desk.queue.answer("a", 1, 4, "ann", 1.0)
    assert desk.labels() == {0: 3, 1: 7}


def test_an_undo_that_is_sent_again_is_done_once(book: Book, serve: Serve) -> None:
    _, client = serve(ask(book, range(3)))
    client.label(0, 4)
    client.label(1, 5)
    for _ in range(2):  # its acknowledgement was lost
        status, told = client.post("undo", nonce="wish-1")
        assert status == 200 and told["items"][0]["id"] == 1
    assert [row.id for row in book.rows if row.role == "withdrawn"] == [1]
    assert client.post("undo", nonce="wish-2")[1]["items"][0]["id"] == 0
    assert client.post("undo", nonce="wish-2")[0] == 200
    assert client.post("undo", nonce="wish-3")[0] == 409
    assert client.post("undo", nonce=["x"])[0] == client.post("undo", nonce="x" * 65)[0] == 400
    assert [row.id for row in book.rows if row.role == "withdrawn"] == [1, 0]


def test_an_undo_after_the_batch_was_taken_is_done_once_too(book: Book, serve: Serve) -> None:
    oracle, client = serve(ask(book, range(2)))
    for id in range(2):
        client.label(id, 4)
    oracle.poll("round-0")
    for _ in range(2):
        assert [item["id"] for item in client.post("undo", nonce="wish")[1]["items"]] == [1]


def test_nothing_is_promised_that_does_not_come(book: Book, serve: Serve) -> None:
    """An abstention's item is set aside for good; and after the last round there is no next."""
    oracle, client = serve(ask(book, (0, 1), n_labels=4, budget=6))
    client.label(0, 3)
    client.label(1, None)
    oracle.poll("round-0")
    assert "another item was asked for in its place" in client.post("undo")[1]["notice"]
    assert "another item was asked for in its place" in client.label(1, 5)[1]["notice"]
    oracle.submit(ask(book, (2,), n_labels=5, budget=6))
    client.label(2, 3)
    oracle.poll("round-0")
    assert "last round" in client.post("undo")[1]["notice"]
    told = client.label(2, 4)[1]["notice"]
    assert "last round" in told and "next round" not in told


def test_an_answer_whose_acknowledgement_was_lost_when_the_run_was_killed_is_taken_for_what_it_is(
    book: Book, serve: Serve
) -> None:
    _, client = serve(ask(book, (1,), batch=(0, 1), history=(Annotation(0, 3, "ann"),)))
    assert client.label(0, 3, annotator="ann")[0] == 200
    assert client.label(0, 3, annotator="bob")[0] == client.label(0, 4, annotator="ann")[0] == 409
    assert book.rows == []


def test_a_batch_that_was_begun_before_a_restart_counts_as_a_whole(book: Book, serve: Serve) -> None:
    history = (Annotation(0, 3), Annotation(1, None), Annotation(2, 4), Annotation(3, 5, role="vote"), Annotation(9, 1))
    request = ask(book, (3, 4, 5), batch=tuple(range(6)), history=history, n_labels=10, budget=20)
    _, client = serve(request)
    told = client.post("state")[1]
    assert told["batch"] | {"pages": 0} == {"size": 6, "answered": 3, "pages": 0} and told["run"]["labels"] == 12
    told = client.label(3, 1)[1]
    assert told["batch"]["answered"] == 4 and told["run"]["labels"] == 13
