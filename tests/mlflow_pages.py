"""MLflow's pages in Chromium, as somebody sees them who was never there."""

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WAIT = 120_000  # milliseconds, after which something is amiss


@contextmanager
def ui(runs: Path) -> Generator[str]:
    """`activebdl ui` on a folder of runs; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "activebdl", "ui", "--port", str(port), "--runs", str(runs)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not _answers(url):
            if server.poll() is not None:
                raise RuntimeError(f"activebdl ui ended with {server.returncode}")
            time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


class Visitor:
    """Somebody at MLflow's pages for the first time; counts the clicks."""

    def __init__(self, browser: "Browser", url: str) -> None:
        self.clicks = 0
        context = browser.new_context(viewport={"width": 1500, "height": 1000})
        context.set_default_timeout(WAIT)
        self.page: Page = context.new_page()
        self.page.goto(f"{url}/#/experiments")

    def finds_curves(self, experiment: str) -> None:
        """From the list of experiments to the charts."""
        self._click("link", re.compile(f"^{re.escape(experiment)}$"))
        self._click("button", "Got it")  # MLflow explains something of its own, the first time
        with self.page.context.expect_page() as tab:
            self._click("link", re.compile("against labels"))
        self.page = tab.value
        self.page.locator(".scatterlayer .trace").first.wait_for(state="attached")

    def closes_what_is_of_no_use_here(self) -> None:
        """MLflow's assistant and what it says of views, for a picture."""
        for name in ("Close", "Close Assistant"):
            for button in self.page.get_by_role("button", name=name, exact=True).all():
                if button.is_visible():
                    button.click()
        self.page.wait_for_timeout(3000)

    def sees(self, chart: int = 0) -> dict[str, Any]:
        """A chart: its legend, how many curves are drawn and how many areas, and what the x axis says."""
        plot = self.page.locator(".js-plotly-plot").nth(chart)
        plot.wait_for()
        found = plot.evaluate(
            """plot => {
                let card = plot;
                while (!/\\(\\w+\\)/.test(card.innerText)) card = card.parentElement;
                return {
                    legend: card.innerText.split("\\n").filter(line => /\\(\\w+\\)$/.test(line)),
                    curves: plot.querySelectorAll(".scatterlayer .trace path.js-line").length,
                    points: plot.querySelectorAll(".scatterlayer .trace .points path.point").length,
                    areas: [...plot.querySelectorAll(".scatterlayer path.js-fill")]
                        .filter(path => path.getBoundingClientRect().height > 1).length,
                    ticks: [...plot.querySelectorAll(".xtick text")].map(tick => tick.textContent),
                    shapes: [...plot.querySelectorAll(".scatterlayer path.js-line")]
                        .map(path => path.getAttribute("d")),
                };
            }"""
        )
        return cast(dict[str, Any], found)

    def _click(self, role: Any, name: "str | re.Pattern[str]") -> None:
        self.page.get_by_role(role, name=name).first.click()
        self.clicks += 1
