"""What the machine does while a run goes on, where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING says so, MLflow's switch."""

import contextlib
from collections.abc import Generator
from typing import Any

from activebdl.progress import say


@contextlib.contextmanager
def watched(client: Any, run_id: str) -> Generator[None]:
    """Processors, memory, disk and network every ten seconds, as MLflow's metrics "system/..."; in a thread of its own.

    Their steps are looks, not labels.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

    monitor = None
    try:
        if run_id and MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=client.tracking_uri)
            monitor.start()
    except Exception as error:  # psutil is not there, above all
        say(f"  no system metrics: {error}; they need psutil: pip install 'activebdl[system-metrics]'")
    try:
        yield
    finally:
        if monitor is not None:
            monitor.finish()
