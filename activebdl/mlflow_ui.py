"""MLflow's own pages: the view that they open on, and the server that shows them on this machine."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from activebdl.errors import UserError
from activebdl.progress import say

VIEW = "curves"
"""The view of an experiment that `share_view` puts in MLflow's UI."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"


@dataclass(frozen=True)
class Charts:
    """What the view shows.

    Args:
        headline: The metric of the first chart, and of the view's name.
        zoom: Lowest and highest value of a second chart of it, under a name of its own.
        others: Further metrics, a chart each.
    """

    headline: str
    zoom: tuple[str, float, float] | None
    others: tuple[str, ...]


CLASSES = Charts("accuracy", ("above 90 %", 0.9, 1.0), ("nll", "ece", "brier"))
NUMBERS = Charts("rmse", None, ("nll", "coverage_50", "coverage_90"))


def share_view(client: Any, experiment_id: str, charts: Charts = CLASSES) -> None:
    """Puts a view in MLflow's UI: each strategy's mean curve against labels, with a band over its seeds.

    MLflow has no call for it; its UI keeps its views, which its menu "Views" lists, in tags of the experiment.
    """

    def chart(name: str, metric: str, lowest: float | None = None, highest: float | None = None) -> dict[str, Any]:
        return {
            "type": "LINE", "uuid": name, "metricSectionId": "test", "deleted": False, "isGenerated": lowest is None,
            "displayName": name, "metricKey": metric, "selectedMetricKeys": [metric], "lineSmoothness": 0,
            "scaleType": "linear", "xAxisKey": "step", "xAxisScaleType": "linear", "useGlobalXaxisKey": True,
            "range": {} if lowest is None else {"yMin": lowest, "yMax": highest}, "runsCountToCompare": 100,
        }  # fmt: skip

    shown = [chart(charts.headline, charts.headline)]
    if charts.zoom is not None:
        name, lowest, highest = charts.zoom
        shown.append(chart(name, charts.headline, lowest, highest))
    shown += [chart(metric, metric) for metric in charts.others]
    state = {
        # The runs, without the comparisons they are part of; sorted by date, MLflow would add those again.
        "searchFilter": "params.strategy LIKE '%'",
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": "label"}]},
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",  # not only the first 10
        "isAccordionReordered": True,  # or the section below would be put last
        "compareRunSections": [
            {
                "uuid": "test",
                "name": "Model metrics",
                "display": True,
                "isReordered": True,
                "columns": 1,  # in half the width, the legend has two lines for any number of strategies
                "cardHeight": 330,
            },
        ],
        "compareRunCharts": shown,
    }
    view = {"name": f"{charts.headline} against labels", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    client.set_experiment_tag(experiment_id, VIEW_TAG, json.dumps(view))
    client.set_experiment_tag(experiment_id, "mlflow.experimentKind", "custom_model_development")


def charts_url(base: str, experiment_id: str) -> str:
    """The page of MLflow's UI that shows the view of `share_view`."""
    view = f"viewStateShareKey={VIEW}&compareRunsMode=CHART&workflowType=machine_learning"
    return f"{base}/#/experiments/{experiment_id}/runs?{view}"


def serve(uri: str, port: int, experiments: Mapping[str, str]) -> None:
    """Runs MLflow's server on this machine until it is stopped from the keyboard.

    Args:
        uri: Of the store.
        port: On this machine.
        experiments: Their ids by name, whose pages are told.

    Raises:
        UserError: The port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(f"Port {port} is taken on this machine; name another with --port.") from None
    base = f"http://127.0.0.1:{port}"
    for name, experiment_id in experiments.items():
        say(f"{name}: {charts_url(base, experiment_id)}")
    say("Stop with Ctrl-C.")
    # Without this MLflow starts seven more processes, for jobs that nobody here gives it.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([*command, "--port", str(port), "--workers", "1"], stderr=log, env=environment)

        def stop(*_: object) -> None:  # what kills this process would leave the server behind
            server.terminate()

        signal.signal(signal.SIGTERM, stop)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
        if server.wait() > 0:  # below 0 it was stopped, as it should be
            log.seek(0)
            words = log.read().decode(errors="replace").strip().splitlines()
            raise UserError(f"MLflow's server ended by itself: {words[-1] if words else 'without a word'}")
