"""Pictures of the labelling page, for the README: real MNIST, a real run, and Chromium without a window.

    python benchmarks/label_page.py            # writes runs/reference/label-*.png

It takes playwright and Chromium (make test-browser installs both). The person at the page knows the true labels.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

import activebdl
from tests.oracles.web.chromium import CHROMIUM, Person

TO = Path(__file__).parents[1] / "runs" / "reference"
RUN = """
import sys
from dataclasses import replace
import activebdl
from activebdl.networks import make_network
from activebdl.oracles.web import WebOracle

data = activebdl.load("mnist")
data = replace(data, test=data.test[:1000], test_labels=data.test_labels[:1000])
cycle = activebdl.ActiveLearning(
    data, make_network("batchbald_cnn", data.input_shape, 10), counts=(20, 30, 40, 50, 60, 80, 120), device="cpu",
    strategy="power_bald", candidates=500, test_draws=10, oracle=WebOracle(folder=sys.argv[1]),
    posterior=activebdl.MCDropout(activebdl.Training(steps=300)),
)
for round in cycle:
    pass
"""


def main() -> None:
    """Labels some rounds, and takes a picture of each view on the way."""
    labels = activebdl.load("mnist").labels
    assert labels is not None
    truth: list[str] = [str(label) for label in labels.tolist()]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = subprocess.Popen([sys.executable, "-u", "-c", RUN, folder], stdout=subprocess.PIPE, text=True)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            assert run.stdout is not None
            visit(browser, run.stdout.readline().split()[-1], lambda id: truth[id])
        finally:
            browser.close()
            run.kill()
            run.wait()


def visit(browser: Browser, url: str, key: Callable[[int], str]) -> None:
    """A person's way through the run."""
    ann = Person(browser, url, viewport={"width": 1180, "height": 740})
    page = ann.page
    last = ann.labels(key, 20)[-1]
    for _ in range(3):
        last = ann.labels(key, 10, after=last)[-1]
    last = ann.labels(key, 4, after=last)[-1]
    ann.sees(other_than=last)
    picture(page, "single")
    page.emulate_media(color_scheme="dark")
    picture(page, "dark")
    page.emulate_media(color_scheme="light")
    last = ann.labels(key, 6, after=last)[-1]
    page.locator("#happens", has_text="The model is learning").wait_for()
    page.wait_for_function("() => document.querySelector('#share').value > 0.2")
    picture(page, "learning")
    ann.sees(other_than=last)
    ann.press("g")
    page.locator(".thumb").nth(19).wait_for()
    for i in range(7):
        page.wait_for_function(
            f"() => document.querySelectorAll('.thumb')[{i}].getAttribute('aria-selected') === 'true'"
        )
        source = page.locator(".thumb img").nth(i).get_attribute("src") or ""
        ann.press(key(int(source.rpartition("/")[2])))
    page.locator(".thumb.said").nth(6).wait_for()
    picture(page, "grid")
    ann.press("g")
    page.set_viewport_size({"width": 360, "height": 740})
    ann.sees()
    picture(page, "phone")


def picture(page: Page, name: str) -> None:
    """Writes what can be seen, when nothing moves any more."""
    page.wait_for_timeout(500)
    path = TO / f"label-{name}.png"
    page.screenshot(path=path)
    print(f"{path.name}  {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
