"""People at the page of a whole run, in Chromium: alone or two at once, also when the run is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import activebdl
from activebdl import ActiveDataset, Annotation, UserError
from activebdl.journal import Journal
from tests.oracles.web.chromium import Person

if TYPE_CHECKING:
    from playwright.sync_api import Browser


pytestmark = pytest.mark.browser
RUN = """
import math
import sys
import time
from pathlib import Path
import torch
from torch import nn
import activebdl
from activebdl.oracles.web import WebOracle

class Held(WebOracle):
    def progress(self, phase, total):
        shown = super().progress(phase, total)
        while (self.folder / "hold").exists():
            time.sleep(0.01)
        return shown

folder, name = sys.argv[1:]
torch.set_num_threads(1)
data = activebdl.load(name)

def network():
    first = nn.Linear(math.prod(data.input_shape), 64)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))

cycle = activebdl.ActiveLearning(
    data, network, counts=(6, 12), candidates=200, test_draws=5, device="cpu", journal=folder + "/journal.sqlite",
    posterior=activebdl.MCDropout(activebdl.Training(steps=100)), oracle=Held(folder=folder, cost=0.5),
)
for round in cycle:
    pass
"""


@pytest.fixture(scope="module")
def digits() -> ActiveDataset:
    """MNIST where its bytes are at hand, else the small digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIVEBDL_OFFLINE", "1")
        try:
            return activebdl.load("mnist")
        except UserError:
            return activebdl.load("digits")


class Run:
    """The real loop in a process of its own, which may be killed."""

    def __init__(self, folder: Path, data: ActiveDataset) -> None:
        self.folder, self.data = folder, data
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """The page's address."""
        command = [sys.executable, "-u", "-c", RUN, str(self.folder), self.data.name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()[-1]

    def kill(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def ends(self) -> int:
        assert self.process is not None
        return self.process.wait(60)

    def truth(self, id: int) -> str:
        assert self.data.labels is not None
        return str(int(self.data.labels[id]))

    def history(self) -> list[Annotation]:
        with Journal(self.folder / "journal.sqlite") as journal:
            return journal.history()

    def counted(self) -> dict[int, Any]:
        """The label of each item that the run went by."""
        rows = self.history()
        return {row.id: str(row.label) for row in rows if row.role == "answer"}


@pytest.fixture
def run(tmp_path: Path, digits: ActiveDataset) -> Generator[Run]:
    one = Run(tmp_path, digits)
    yield one
    if one.process is not None and one.process.poll() is None:
        one.kill()
    elif one.process is not None and one.process.stdout is not None:
        one.process.stdout.close()


def test_a_persons_whole_run_with_the_keyboard(run: Run, browser: "Browser") -> None:
    ann = Person(browser, run.start(), "Ann")
    assert not ann.page.locator("#model").is_visible()  # nothing was fitted yet
    first, second = ann.labels(run.truth, 2)
    third = ann.sees(other_than=second)
    assert third is not None
    ann.press(str((int(run.truth(third)) + 1) % 10))  # a slip of the finger
    fourth = ann.sees(other_than=third)
    ann.press("u")
    assert ann.sees(other_than=fourth) == third
    ann.press(run.truth(third))
    assert ann.sees(other_than=third) == fourth
    ann.press("s")  # not now
    fifth = ann.sees(other_than=fourth)
    assert fifth is not None
    ann.press(" ")  # nobody can tell
    sixth = ann.sees(other_than=fifth)
    assert sixth is not None
    ann.press(run.truth(sixth))
    assert ann.sees(other_than=sixth) == fourth
    assert fourth is not None
    ann.press(run.truth(fourth))
    instead = ann.sees(other_than=fourth)  # of the one nobody could tell
    assert instead is not None and instead not in (first, second, third, fourth, fifth, sixth)
    (run.folder / "hold").touch()
    ann.press(run.truth(instead))
    ann.hears("The next batch will appear here by itself.")
    (run.folder / "hold").unlink()
    later = ann.sees(other_than=instead)
    assert ann.page.locator("#model").is_visible()
    ann.hears("nats")
    assert ann.page.locator("#labels").inner_text() == "6 of 12"
    last = ann.labels(run.truth, 6)
    assert last[0] == later
    ann.hears("All done")
    assert run.ends() == 0
    ann.leaves()
    ids = [first, second, third, fourth, fifth, sixth, instead, *last]
    assert len(set(ids)) == 13
    assert run.counted() == {id: "None" if id == fifth else run.truth(id) for id in ids}
    rows = run.history()
    assert {row.annotator for row in rows} == {"Ann"} and sum(row.cost for row in rows) == 13 * 0.5
    assert [row.role for row in rows if row.id == third] == ["answer", "withdrawn", "answer"]
    assert len(rows) == 15 and all(row.seconds > 0 for row in rows if row.role == "answer")


def test_two_browsers_at_once_never_do_the_same_item(run: Run, browser: "Browser") -> None:
    url = run.start()
    people = [Person(browser, url, "Ann"), Person(browser, url, "Bob")]
    seen: list[list[int]] = [[], []]
    for _ in range(3):
        both = [person.sees(other_than=(ids or [None])[-1]) for person, ids in zip(people, seen, strict=True)]
        assert None not in both and both[0] != both[1]
        for person, ids, id in zip(people, seen, both, strict=True):
            assert id is not None
            person.press(run.truth(id))
            ids.append(id)
    ids = sum(seen, [])
    assert len(set(ids)) == 6
    people[1].sees(other_than=seen[1][-1])
    people[1].page.goto("about:blank")  # who leaves lets go of what was open there
    seen.append(people[0].labels(run.truth, 6, after=seen[0][-1]))
    assert len(set(sum(seen, []))) == 12
    assert run.ends() == 0
    for person in people:
        person.leaves()
    rows = run.history()
    assert sorted(row.id for row in rows) == sorted(sum(seen, []))
    assert {row.id: row.annotator for row in rows if row.id in seen[1]} == dict.fromkeys(seen[1], "Bob")


def test_a_reload_in_the_middle_loses_nothing(run: Run, browser: "Browser") -> None:
    ann = Person(browser, run.start())
    done = ann.labels(run.truth, 2)
    open = ann.sees(other_than=done[-1])
    ann.page.reload()
    assert ann.sees() == open
    assert ann.page.locator("#count").inner_text() == "2 of 6"
    assert not ann.page.locator("#help").is_visible()  # the name is asked once
    ann.press("u")  # and undo reaches behind the reload
    assert ann.sees(other_than=open) == done[-1]
    done = done[:1] + ann.labels(run.truth, 5)
    done += ann.labels(run.truth, 6, after=done[-1])
    assert run.ends() == 0
    ann.leaves()
    assert run.counted() == {id: run.truth(id) for id in done} and len(set(done)) == 12


def test_a_server_killed_and_started_again_loses_no_label_and_asks_for_none_twice(run: Run, browser: "Browser") -> None:
    url = run.start()
    ann = Person(browser, url)
    done = ann.labels(run.truth, 3)
    open = ann.sees(other_than=done[-1])
    assert open is not None
    run.kill()
    ann.press(run.truth(open))  # into the void
    ann.hears("Connection lost, retrying. 1 label is not sent yet.")
    done.append(open)
    assert run.start() == url
    done += ann.labels(run.truth, 3)[1:]  # the first is still the one on the page, whose label is on its way
    run.kill()
    assert run.start() == url
    left = 12 - len(set(done))
    while left:
        id = ann.sees(other_than=done[-1])
        assert id is not None
        ann.press(run.truth(id))
        left -= id not in done
        done.append(id)
    assert run.ends() == 0
    ann.hears("All done")
    ann.leaves()
    rows = run.history()
    assert sorted(row.id for row in rows) == sorted(set(done))  # one line each
    assert run.counted() == {id: run.truth(id) for id in done}
