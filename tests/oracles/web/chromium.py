"""Chromium, and a person at the page in it."""

import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 60_000  # milliseconds, after which a test has failed

SERVER_GONE = "net::ERR_"
"""What Chromium says of a request that no server answered; which of dozens of names follows depends on the moment."""


@contextmanager
def chromium() -> Generator["Browser"]:
    """A browser without a window; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: make test-browser, or apt-get install chromium")
    # Chromium's sandbox refuses to run as root.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Person:
    """Somebody at the page with a keyboard, who sees to it that nothing is asked of anywhere else.

    Args:
        browser: In which.
        url: Where the page is, with the token.
        name: What the person types when asked; nobody when empty.
        options: Of the browser's context, such as the size of its window.
    """

    def __init__(self, browser: "Browser", url: str, name: str = "", **options: Any) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.forgiven = [SERVER_GONE]
        options.setdefault("viewport", {"width": 1200, "height": 780})
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(WAIT)
        self.page: Page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._read)
        self.page.on("dialog", self._dismiss)
        self.origin = url.partition("/?")[0]
        self.page.goto(url)
        self.page.locator("#help[open]").wait_for()
        self.page.keyboard.type(name)
        self.press("Enter")

    def _read(self, message: "ConsoleMessage") -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _dismiss(self, dialog: "Dialog") -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def sees(self, *, other_than: int | None = None) -> int | None:
        """The item on the page, when it can be seen; None when there is none to label."""
        self.page.wait_for_function(
            """other => {
                const main = document.querySelector("main"), seen = document.querySelector("#stage").dataset.seen;
                if (["done", "stopped"].includes(main.dataset.doing)) return true;
                return !document.querySelector("#stage").hidden && seen !== undefined && seen !== other;
            }""",
            arg=None if other_than is None else str(other_than),
        )
        seen = self.page.locator("#stage").get_attribute("data-seen")
        ended = self.page.locator("main").get_attribute("data-doing") in ("done", "stopped")
        return None if ended or not seen else int(seen)

    def labels(self, key: Callable[[int], str], items: int, *, after: int | None = None) -> list[int]:
        """Labels so many items, one after the other, from the first on that is not ``after``; their ids."""
        ids: list[int] = []
        for _ in range(items):
            id = self.sees(other_than=ids[-1] if ids else after)
            assert id is not None
            self.press(key(id))
            ids.append(id)
        return ids

    def hears(self, text: str) -> None:
        """Waits until the text can be seen."""
        self.page.get_by_text(text).first.wait_for()

    def forgives(self, text: str) -> None:
        """Complaints with this in them are what the test has provoked, whenever Chromium comes to utter them."""
        self.forgiven.append(text)

    def leaves(self) -> None:
        """Closes the browser; all that was asked for was asked of our own server, and nothing was amiss."""
        self.context.close()
        foreign = [url for url in self.requests if not url.startswith(f"{self.origin}/")]
        assert foreign == [] and self.requests, foreign
        complaints = [each for each in self.complaints if not any(text in each for text in self.forgiven)]
        assert complaints == [], complaints
