"""A picture of MLflow's page with the curves of a comparison, for the README: Chromium without a window.

    python -m benchmarks.mlflow_page runs mnist-1000 runs/reference/mlflow.png

It takes playwright and Chromium (make test-browser installs both), and goes the way that a newcomer goes.
"""

import sys
from pathlib import Path

from tests.mlflow_pages import Visitor, ui
from tests.oracles.web.chromium import chromium


def main(runs: str, experiment: str, to: str) -> None:
    """Takes the picture of an experiment in a folder of all runs."""
    with ui(Path(runs)) as url, chromium() as browser:
        visitor = Visitor(browser, url)
        visitor.finds_curves(experiment)
        print(f"{visitor.clicks} clicks; {visitor.sees()['legend']}")
        visitor.closes_what_is_of_no_use_here()
        visitor.page.screenshot(path=to)
    print(f"{to}  {Path(to).stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("python -m benchmarks.mlflow_page RUNS EXPERIMENT OUT.png")
    main(*sys.argv[1:])
