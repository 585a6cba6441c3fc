"""People at the page, in Chromium."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import activebdl
from activebdl import ActiveDataset, Annotation, Classes, Numbers, UserError
from activebdl.journal import Journal
from activebdl.oracles.web import WebOracle
from tests.oracles.web.chromium import Person, chromium
from tests.oracles.web.conftest import Book, Client, ask

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

Serve = Callable[..., tuple[WebOracle, Client]]

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
def browser() -> Generator["Browser"]:
    with chromium() as found:
        yield found


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
        """The label of each item that the run went by, and how many lines the journal has for each item."""
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


def test_a_batch_at_a_glance(book: Book, serve: Serve, browser: "Browser") -> None:
    oracle, client = serve(ask(book, range(30)))
    ann = Person(browser, oracle.url)
    ann.sees()
    ann.press("g")
    ann.page.locator(".thumb").nth(23).wait_for()
    assert ann.page.locator(".thumb").count() == 24
    assert [item["id"] for item in client.post("state", session="session-2")[1]["items"]] == [24]
    ann.press("ArrowRight", "ArrowRight", "5")  # the third
    ann.press("6", " ")  # and on: the fourth, and the fifth nobody can tell
    ann.page.locator(".thumb.said").nth(2).wait_for()
    ann.press("ArrowLeft", "ArrowLeft", "7")  # the fourth again, for 6 was wrong
    ann.page.wait_for_function("() => document.querySelectorAll('.thumb')[3].innerText.includes('7')")
    style = "getComputedStyle(document.querySelector('#many'))"
    columns = ann.page.evaluate(f"{style}.gridTemplateColumns.split(' ').length")
    ann.page.locator(".thumb").nth(0).click()
    ann.press("ArrowDown", "1")
    ann.page.wait_for_function(f"() => document.querySelectorAll('.thumb')[{columns}].classList.contains('said')")
    ann.press("u")
    ann.page.wait_for_function(f"() => !document.querySelectorAll('.thumb')[{columns}].classList.contains('said')")
    ann.press("9")
    ann.page.wait_for_function(f"() => document.querySelectorAll('.thumb')[{columns}].innerText.includes('9')")
    labels = {id: row.label for id, row in book.effective().items()}
    assert labels == {2: 5, 3: 7, 4: None, columns: 9}
    ann.press("g")
    assert ann.sees() == 0
    assert ann.page.locator("#single img").is_visible()
    ann.leaves()


def test_what_the_model_thinks_can_be_hidden(book: Book, serve: Serve, browser: "Browser") -> None:
    predictions = torch.full((10, 10), 0.1)
    oracle, _ = serve(ask(book, predictions=predictions), predictions="hidden")
    ann = Person(browser, oracle.url)
    ann.sees()
    assert not ann.page.locator("#model").is_visible()
    ann.press("p")
    ann.page.locator("#model").wait_for()
    ann.hears("2.30")
    ann.page.reload()
    ann.sees()
    assert ann.page.locator("#model").is_visible()  # the page remembers
    ann.press("p")
    assert not ann.page.locator("#model").is_visible()
    ann.leaves()


def test_numbers_are_typed(book: Book, serve: Serve, browser: "Browser") -> None:
    predictions = torch.tensor([[1.5, 0.25]] * 3)
    request = ask(book, range(3), target=Numbers(), items=torch.rand(3, 5), predictions=predictions)
    oracle, _ = serve(request)
    ann = Person(browser, oracle.url)
    ann.sees()
    ann.hears("1.5 ± 0.25")
    assert ann.page.locator("#single td").count() == 5
    for doubtful in ("1,000", "12,345", "1,234,567.5"):
        ann.page.locator("#value-of-it").fill(doubtful)
        ann.press("Enter")
        ann.hears(f"The comma in {doubtful} may mean thousands")
    ann.press(" ")
    ann.hears("empty the field first")
    ann.page.locator("#value-of-it").fill("")
    ann.page.keyboard.type("-2,123456")
    ann.press("Enter")
    ann.sees(other_than=0)
    ann.hears("Item 0 is -2.123456")
    ann.page.keyboard.type("abc")
    ann.press("Enter")
    ann.hears("Type a number")
    ann.page.locator("#value-of-it").fill("1e3")
    ann.press("Enter")
    ann.sees(other_than=1)
    ann.press(" ")
    ann.hears("on its way to the model")
    assert [row.label for row in book.rows] == [-2.123456, 1000.0, None]
    ann.leaves()


def test_an_item_that_another_has_labelled_is_passed_by_kindly(book: Book, serve: Serve, browser: "Browser") -> None:
    oracle, client = serve(ask(book, range(3)))
    ann = Person(browser, oracle.url)
    assert ann.sees() == 0
    oracle._queue.leave(str(ann.page.evaluate("sessionStorage.session")))  # as after a long time of silence
    assert client.label(0, 4)[0] == 200
    ann.press("7")
    assert ann.sees(other_than=0) in (1, 2)
    assert [(row.id, row.label) for row in book.rows] == [(0, 4)]
    ann.complaints = [each for each in ann.complaints if "409" not in each]
    ann.leaves()


def test_script_in_class_names_is_text(book: Book, serve: Serve, browser: "Browser") -> None:
    evil = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "javascript:alert(1)", "'\"`${alert(1)}")
    predictions = torch.full((10, 4), 0.25)
    oracle, _ = serve(ask(book, target=Classes(evil), predictions=predictions))
    ann = Person(browser, oracle.url)
    ann.sees()
    assert [ann.page.locator("#classes span").nth(i).inner_text() for i in range(4)] == list(evil)
    ann.press("2")
    ann.hears("<img src=x onerror=alert(1)>")
    ann.press("g")
    ann.page.locator(".thumb").first.wait_for()
    assert ann.page.locator("main img[src='x'], main script").count() == 0
    assert book.rows[0].label == 1
    ann.leaves()  # no dialog, no complaint, nothing asked of elsewhere


def test_a_hundred_classes_can_be_searched(book: Book, serve: Serve, browser: "Browser") -> None:
    names = tuple(f"kind {i:02}" for i in range(100))
    oracle, _ = serve(ask(book, target=Classes(names)))
    ann = Person(browser, oracle.url)
    first = ann.sees()
    ann.page.locator("#find").fill("kind 7")
    assert ann.page.locator("#classes button:visible").count() == 10
    ann.page.locator("#find").fill("kind 77")
    ann.press("Enter")
    ann.sees(other_than=first)
    assert book.rows[0].label == 77
    ann.leaves()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_can_be_used_by_everyone(book: Book, serve: Serve, browser: "Browser", scheme: str, width: int) -> None:
    """Landmarks, names, focus, contrast (WCAG 2.1 AA: 4.5 to 1), sizes that a thumb can hit, nothing cut off."""
    oracle, _ = serve(ask(book, predictions=torch.full((10, 10), 0.1), n_labels=20, budget=100))
    size = {"width": width, "height": 740}
    ann = Person(browser, oracle.url, viewport=size, color_scheme=scheme, has_touch=width == 360)
    ann.sees()
    for role in ("banner", "main", "navigation"):
        assert ann.page.get_by_role(role).count() == 1  # type: ignore[arg-type]
    assert ann.page.locator("html").get_attribute("lang") == "en"
    assert ann.page.locator("[aria-live=polite], [role=status]").count() >= 3
    assert re.fullmatch(r"Item \d+", ann.page.locator("#single img").get_attribute("alt") or "")
    for button in ann.page.get_by_role("button").all():
        box = button.bounding_box()
        assert button.inner_text().strip() and box is not None and box["height"] >= 36
    for i in range(10):
        box = ann.page.locator("#classes button").nth(i).bounding_box()
        assert box is not None and min(box["height"], box["width"]) >= 44
    assert ann.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert ann.page.evaluate(CONTRASTS) == []
    ann.press("Tab", "Tab")
    outline = ann.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    ann.leaves()


# Every element with text of its own: its contrast against the background behind it, when that is too little.
CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(":disabled, svg, .hidden, .jump, noscript")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([element.outerHTML.slice(0, 80), ratio]);
  }
  return poor;
}"""
