"""People at the page, in Chromium: what it shows, what can be typed and pressed, and that everyone can use it."""

import re
from typing import TYPE_CHECKING

import pytest
import torch

from activebdl import Classes, Numbers
from tests.oracles.web.chromium import Person
from tests.oracles.web.conftest import Book, Serve, ask

if TYPE_CHECKING:
    from playwright.sync_api import Browser


pytestmark = pytest.mark.browser


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
    ann.forgives("409")
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
