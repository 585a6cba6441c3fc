"""From MLflow's list of experiments to each strategy's curve with its band, in Chromium."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tracking.mlflow_pages import Visitor, ui

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

STRATEGIES = ["bald", "margin", "power_bald", "random"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ui")
    command = [sys.executable, "-m", "activebdl", "compare", "digits-small", "--strategies", ",".join(STRATEGIES)]
    command += ["--seeds", "3", "--set", "posterior.training.steps=20", "--set", "keep_model=false"]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    return folder / "runs"


def test_three_clicks_lead_to_four_curves_with_bands(browser: "Browser", runs: Path) -> None:
    with ui(runs) as url:
        visitor = Visitor(browser, url)
        visitor.finds_curves("digits-small-custom")
        assert visitor.clicks == 3
        seen = visitor.sees()
        labels, rest = zip(*(line.split(", mc_dropout, ") for line in seen["legend"]), strict=True)
        assert sorted(label.partition("(")[0] for label in labels) == STRATEGIES
        assert len(set(rest)) == 1 and rest[0].endswith(" (accuracy)")  # the protocol, which is not the preset's own
        assert seen["areas"] == 4  # from the lowest to the highest seed
        assert seen["points"] == 4 * 3 * 5  # mean, lowest and highest at 20, 40, 60, 80, 100 labels
        assert {"20", "100"} <= set(seen["ticks"])
        curves = [shape for shape in seen["shapes"] if shape and "Z" not in shape]
        assert not [shape for shape in curves if "C" in shape or "Q" in shape]  # straight from point to point
