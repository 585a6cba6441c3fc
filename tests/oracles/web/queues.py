"""A queue without the web, with a clock of the test's own."""

from activebdl.oracles.web.queue import Queue
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
