"""The outbox alone: when it tries again, whom a failure keeps waiting, and what it says."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from activebdl.tracking.outbox import Outbox, reason


@dataclass
class Clock:
    """Stands still but for what a test does."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Letter:
    """Fails while it is told to, after so many seconds, and remembers when it was tried."""

    clock: Clock
    takes: float = 0.0
    fails: bool = False
    is_closed: bool = False
    tried: list[float] = field(default_factory=list[float])

    def send(self) -> None:
        self.tried.append(self.clock.now)
        self.clock.now += self.takes
        if self.fails:
            raise ConnectionError("refused.\nand more")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def each_second(outbox: Outbox, clock: Clock, until: float) -> None:
    """As a run with rounds of a second would."""
    while clock.now < until:
        outbox.send()
        clock.now += 1.0


def test_pauses_double_up_to_ten_minutes(clock: Clock) -> None:
    outbox, letter = Outbox(clock), Letter(clock, fails=True)
    outbox.add(letter)
    each_second(outbox, clock, 4000.0)
    gaps = [b - a for a, b in zip(letter.tried, letter.tried[1:], strict=False)]
    assert gaps == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600, 600, 600]


@pytest.mark.parametrize("takes", [20.0, 60.0, 120.0])
def test_a_server_that_hangs_takes_a_tenth_of_the_time_at_most(clock: Clock, takes: float) -> None:
    outbox, letter = Outbox(clock), Letter(clock, takes=takes, fails=True)
    outbox.add(letter)
    each_second(outbox, clock, 50_000.0)
    gaps = [b - (a + takes) for a, b in zip(letter.tried, letter.tried[1:], strict=False)]
    assert min(gaps) >= 10 * takes
    assert max(gaps) <= max(600.0, 10 * takes) + 1.0


def test_after_success_the_pauses_begin_anew(clock: Clock) -> None:
    outbox, letter = Outbox(clock), Letter(clock, fails=True)
    outbox.add(letter)
    each_second(outbox, clock, 100.0)
    letter.fails = False
    each_second(outbox, clock, 160.0)
    letter.fails = True
    letter.tried.clear()
    each_second(outbox, clock, 180.0)
    assert [b - a for a, b in zip(letter.tried, letter.tried[1:], strict=False)] == [5, 10]


def test_each_change_is_said_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    outbox, letter = Outbox(clock), Letter(clock)
    outbox.add(letter)
    each_second(outbox, clock, 10.0)
    assert capsys.readouterr().out == ""
    for _ in range(2):
        letter.fails = True
        each_second(outbox, clock, clock.now + 100.0)
        told = capsys.readouterr().out.splitlines()
        assert len(told) == 1 and told[0].startswith("  MLflow fails (refused); the run goes on")
        letter.fails = False
        each_second(outbox, clock, clock.now + 200.0)
        assert capsys.readouterr().out == "  MLflow is back: sent what it missed\n"
    outbox.close("activebdl resume mine")
    assert capsys.readouterr().out == ""


def test_at_the_end_it_tries_at_once_and_names_the_command(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for comes_back in (True, False):
        outbox, letter = Outbox(clock), Letter(clock, fails=True)
        outbox.add(letter)
        outbox.send()
        letter.fails = not comes_back
        outbox.send()  # too early
        assert len(letter.tried) == 1
        capsys.readouterr()
        outbox.close("activebdl resume mine")
        assert len(letter.tried) == 2
        told = capsys.readouterr().out
        assert ("activebdl resume mine\n" in told) is not comes_back
        assert ("MLflow is back" in told) is comes_back
        assert len(told.splitlines()) == 1
        outbox.send()  # nothing is left: the journal has it
        assert len(letter.tried) == 2


def test_one_that_fails_by_itself_stops_no_other(clock: Clock) -> None:
    outbox = Outbox(clock)
    letters = [Letter(clock, fails=i == 1) for i in range(3)]
    for letter in letters:
        outbox.add(letter)
    outbox.send()
    assert [len(letter.tried) for letter in letters] == [1, 1, 1]


def test_a_slow_failure_is_waited_for_once(clock: Clock) -> None:
    """Or a server that hangs would hold up a comparison for as long as it has runs."""
    outbox = Outbox(clock)
    letters = [Letter(clock, takes=20.0, fails=True) for _ in range(9)]
    for letter in letters:
        outbox.add(letter)
    outbox.send()
    assert [len(letter.tried) for letter in letters] == [0] * 8 + [1]  # the newest is the one that runs
    slow = Outbox(clock)
    fine = [Letter(clock, takes=20.0) for _ in range(3)]
    for letter in fine:
        slow.add(letter)
    slow.send()
    assert [len(letter.tried) for letter in fine] == [1, 1, 1]


def test_what_is_closed_and_sent_is_let_go(clock: Clock) -> None:
    outbox, closed, open_ = Outbox(clock), Letter(clock, fails=True, is_closed=True), Letter(clock)
    outbox.add(closed)
    outbox.add(open_)
    outbox.send()
    closed.fails = False
    clock.now += 10.0
    outbox.send()
    outbox.send()
    assert (len(closed.tried), len(open_.tried)) == (2, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda: ValueError("a.\nb"), "a"), (lambda: ValueError(), "ValueError"), (lambda: OSError(" \n"), "OSError")],
)
def test_a_reason_is_one_line(make: Callable[[], Exception], words: str) -> None:
    assert reason(make()) == words
