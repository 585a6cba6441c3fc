"""People at the page, in Chromium, when something does not go as it should."""

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.oracles.web.chromium import Person
from tests.oracles.web.conftest import Book, Serve, ask

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

pytestmark = pytest.mark.browser


def in_the_grid(ann: Person) -> None:
    ann.sees()
    ann.press("g")
    ann.page.locator(".thumb").first.wait_for()


def would_warn(ann: Person) -> Any:
    """Whether somebody who closes the page is asked first."""
    return ann.page.evaluate("() => !dispatchEvent(new Event('beforeunload', { cancelable: true }))")


def test_a_label_has_its_tick_when_the_server_has_it(book: Book, serve: Serve, browser: "Browser") -> None:
    oracle, _ = serve(ask(book, range(5)))
    ann = Person(browser, oracle.url)
    in_the_grid(ann)
    ann.page.route("**/api/*", lambda route: route.abort("connectionfailed"))
    ann.press("7", "8")
    ann.hears("2 labels are not sent yet")
    assert ann.page.locator(".thumb.said").count() == 0 and ann.page.get_by_text("✓").count() == 0
    assert ann.page.locator(".thumb").nth(1).get_attribute("aria-label") == "Item 1, 8, not sent yet"
    assert would_warn(ann) and book.rows == []
    ann.page.unroute("**/api/*")
    ann.page.locator(".thumb.said").nth(1).wait_for()
    assert [(row.id, row.label) for row in book.rows] == [(0, 7), (1, 8)]
    assert not would_warn(ann)
    ann.page.locator("#notice:empty").wait_for(state="attached")
    ann.leaves()


LOSE_ONE_UNDO = """() => {
    const ask = window.fetch;
    window.lost = [];
    window.fetch = async (...what) => {
        const answer = await ask(...what);
        if (what[0] !== "/api/undo" || lost.length) return answer;
        lost.push(answer.status);
        throw new TypeError("Failed to fetch");
    };
}"""


def test_an_undo_whose_acknowledgement_is_lost_is_done_once(book: Book, serve: Serve, browser: "Browser") -> None:
    oracle, _ = serve(ask(book, range(5)))
    ann = Person(browser, oracle.url)
    ann.labels(str, 2)
    assert ann.sees(other_than=1) == 2
    ann.page.evaluate(LOSE_ONE_UNDO)
    ann.press("u")
    assert ann.sees(other_than=2) == 1
    assert ann.page.evaluate("() => lost") == [200]
    assert sum(url.endswith("/api/undo") for url in ann.requests) == 2
    assert [row.id for row in book.rows if row.role == "withdrawn"] == [1]
    ann.leaves()


def test_a_refusal_is_told_also_in_the_middle_of_fast_labelling(book: Book, serve: Serve, browser: "Browser") -> None:
    oracle, client = serve(ask(book, range(5)))
    ann = Person(browser, oracle.url)
    in_the_grid(ann)
    ann.page.locator(".thumb").nth(4).wait_for()
    looks: list[Route] = []
    ann.page.route("**/api/state", lambda route: looks.append(route))  # so that it does not know of what the other does
    with ann.page.expect_request("**/api/state"):
        pass
    oracle._queue.leave(str(ann.page.evaluate("sessionStorage.session")))
    assert client.label(0, 4)[0] == 200
    client.post("leave")  # what it was shown next
    ann.press("7", "8")
    ann.hears("labelled meanwhile")
    ann.page.wait_for_function("() => !document.querySelector('.thumb[aria-label*=sent]')")
    assert [(row.id, row.label) for row in book.rows] == [(0, 4), (1, 8)]
    for look in looks:
        look.continue_()
    assert ann.page.locator("#last").inner_text() == "Item 1 is 8"
    ann.forgives("409")
    ann.leaves()


def test_what_is_chosen_in_the_grid_is_an_item_and_not_a_place(book: Book, serve: Serve, browser: "Browser") -> None:
    oracle, _ = serve(ask(book, range(5)))
    ann = Person(browser, oracle.url)
    in_the_grid(ann)
    ann.press("ArrowRight", "ArrowRight")
    oracle._queue.skip(str(ann.page.evaluate("sessionStorage.session")), 0)
    ann.page.wait_for_function("() => document.querySelector('.thumb').ariaLabel.startsWith('Item 1,')")
    assert ann.page.locator(".thumb[aria-selected=true]").get_attribute("aria-label") == "Item 2, open"
    ann.press("6")
    ann.page.locator(".thumb.said").first.wait_for()
    assert [(row.id, row.label) for row in book.rows] == [(2, 6)]
    ann.leaves()


def test_the_last_answer_is_undone_with_the_mouse(book: Book, serve: Serve, browser: "Browser") -> None:
    oracle, _ = serve(ask(book, range(1)))
    ann = Person(browser, oracle.url)
    ann.labels(str, 1)
    ann.hears("on its way to the model")
    for name in ("abstain", "skip"):
        assert ann.page.locator(f"#{name}").is_disabled()
    assert not ann.page.locator("#classes").is_visible()
    ann.page.locator("#undo").click()
    assert ann.sees() == 0 and ann.page.locator("#classes").is_visible()
    assert book.effective() == {}
    ann.leaves()


def test_an_item_whose_picture_does_not_come_can_be_passed_by(book: Book, serve: Serve, browser: "Browser") -> None:
    oracle, _ = serve(ask(book, range(3)))
    ann = Person(browser, oracle.url)
    ann.page.route("**/image/1*", lambda route: route.fulfill(status=404))
    ann.labels(str, 1)
    ann.hears("The picture of item 1 cannot be shown; skip it or abstain.")
    ann.press("5")  # nobody has seen it
    ann.press(" ")
    assert ann.sees(other_than=0) == 2
    assert [(row.id, row.label) for row in book.rows] == [(0, 0), (1, None)]
    ann.forgives("404")
    ann.leaves()


def test_a_tab_that_is_duplicated_is_another_page(book: Book, serve: Serve, browser: "Browser") -> None:
    oracle, _ = serve(ask(book, range(3)))
    ann = Person(browser, oracle.url)
    assert ann.sees() == 0
    with ann.context.expect_page() as opened:
        ann.page.evaluate("() => { window.open('/'); }")  # which copies the session's storage too
    opened.value.locator("#stage[data-seen]").wait_for()
    assert opened.value.locator("#stage").get_attribute("data-seen") == "1"
    ann.leaves()


def test_screen_readers_hear_each_thing_once(book: Book, serve: Serve, browser: "Browser") -> None:
    oracle, _ = serve(ask(book, range(3), predictions=torch.full((3, 10), 0.1)))
    ann = Person(browser, oracle.url)
    ann.labels(lambda id: "7", 1)
    ann.sees(other_than=0)
    assert ann.page.locator("#live").inner_text() == "Item 0 is 7. Item 1. 1 of 3 are labelled."
    ann.page.evaluate(
        """() => {
            window.changes = [];
            new MutationObserver((all) => changes.push(...all.map((each) => each.target.id)))
              .observe(document.body, { childList: true, characterData: true, subtree: true });
        }"""
    )
    for _ in range(2):
        with ann.page.expect_response("**/api/state"):
            pass
    changed = ann.page.evaluate("window.changes")
    assert not {"live", "notice", "belief", "spark", "curve", "happens", "explains", "single"} & set(changed)
    ann.leaves()
