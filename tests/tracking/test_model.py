"""A run's model in MLflow: anybody's tools load it, and it says what the run said."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from activebdl.build import build, resolved
from activebdl.predictor import load_model
from activebdl.report import Curve
from activebdl.runs import resume, start
from activebdl.spec import RunSpec, read_spec
from activebdl.tracking.model import write_model
from activebdl.tracking.store import MlflowTracking, store_uri


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tmp_path_factory.mktemp("models") / "runs"


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return resolved(read_spec("digits-small", {"budget": 40, "posterior.training.steps": 20, "draws": 2}))


@pytest.fixture(scope="module")
def tracking(runs: Path) -> MlflowTracking:
    return MlflowTracking.prepare(runs, "digits")


@pytest.fixture(scope="module")
def curve(runs: Path, spec: RunSpec, tracking: MlflowTracking) -> Curve:
    return start(spec, runs / "mine", tracking=tracking)


def told(tracking: MlflowTracking, name: str) -> Any:
    (run,) = tracking.client.search_runs([tracking.experiment_id], f"attributes.run_name = '{name}'")
    return run


def place_of(tracking: MlflowTracking, model_id: str) -> str:
    location: str = tracking.client.get_logged_model(model_id).artifact_location
    return location.removeprefix("file://")


def test_the_model_says_of_the_test_set_what_was_logged(
    runs: Path, spec: RunSpec, tracking: MlflowTracking, curve: Curve
) -> None:
    import mlflow

    run = told(tracking, "mine")
    (output,) = run.outputs.model_outputs
    assert output.step == 40
    dataset = build(spec).dataset
    model: Any = mlflow.pyfunc.load_model(place_of(tracking, output.model_id))
    table = model.predict(np.asarray(dataset.test))
    assert list(table.columns[:4]) == ["label", "confidence", "entropy", "mutual_information"]
    assert list(table.columns[4:]) == [f"probability_{c}" for c in range(10)]
    assert (table["label"] == [str(int(y)) for y in dataset.test_labels]).mean() == run.data.metrics["accuracy"]
    here = load_model(runs / "mine").predict(np.asarray(dataset.test))
    np.testing.assert_allclose(table.to_numpy()[:, 4:].astype(float), here["probabilities"], rtol=1e-6)
    np.testing.assert_allclose(table["mutual_information"], here["mutual_information"], atol=1e-9)
    np.testing.assert_allclose(table.iloc[:, 4:].sum(axis=1), 1, atol=1e-6)
    (inputs,) = model.metadata.get_input_schema().inputs
    assert (inputs.type, inputs.shape) == (np.dtype("uint8"), (-1, 1, 8, 8))
    assert model.metadata.get_output_schema().input_names() == list(table.columns)
    with pytest.raises(Exception, match="incompatible|shape"):
        model.predict(np.zeros((2, 1, 8, 9), np.uint8))


def test_its_requirements_are_to_be_had_from_a_public_index(
    runs: Path, tracking: MlflowTracking, curve: Curve, tmp_path: Path
) -> None:
    from importlib.metadata import version

    write_model(runs / "mine" / "model.pkl", tmp_path / "model")
    lines = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert lines == [
        f"{name}=={version(name).partition('+')[0]}" for name in ("cloudpickle", "mlflow", "numpy", "torch")
    ]  # not activebdl, which lies beside them
    assert (tmp_path / "model" / "code" / "activebdl" / "predictor.py").is_file()
    example = json.loads((tmp_path / "model" / "input_example.json").read_text())
    assert np.shape(example) == (3, 1, 8, 8)


def test_nothing_is_doubled_by_a_resume_and_a_model_that_was_lost_is_sent_again(
    runs: Path, spec: RunSpec, tracking: MlflowTracking, curve: Curve
) -> None:
    client = tracking.client
    resume(runs / "mine", tracking=MlflowTracking.prepare(runs, "digits"))
    run = told(tracking, "mine")
    assert len(run.outputs.model_outputs) == 1 and len(run.inputs.dataset_inputs) == 2
    (model,) = client.search_logged_models([tracking.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert (model.name, str(model.status), model.tags["n_labels"]) == ("model", "READY", "40")
    client.delete_logged_model(model.model_id)
    resume(runs / "mine", tracking=MlflowTracking.prepare(runs, "digits"))
    (again,) = client.search_logged_models([tracking.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert again.model_id != model.model_id and str(again.status) == "READY"


def test_an_upload_that_fails_stops_no_run_and_is_tried_again(
    runs: Path, spec: RunSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = MlflowTracking.prepare(runs, "digits")

    def fail(*_: object) -> None:
        raise ConnectionError("no place for models")

    with monkeypatch.context() as patch:
        patch.setattr(tracking.client, "log_model_artifacts", fail)
        start(spec, runs / "unlucky", tracking=tracking)
    assert (
        "MLflow misses something (no place for models); once that is mended, this sends it: activebdl resume unlucky"
        in (capsys.readouterr().out)
    )
    run = told(tracking, "unlucky")
    assert run.info.status == "FINISHED" and run.outputs.model_outputs == []
    resume(runs / "unlucky", tracking=tracking)
    assert "MLflow" not in capsys.readouterr().out
    (output,) = told(tracking, "unlucky").outputs.model_outputs
    models = tracking.client.search_logged_models(
        [tracking.experiment_id], f"source_run_id = '{told(tracking, 'unlucky').info.run_id}'"
    )
    assert [(model.model_id, str(model.status)) for model in models] == [(output.model_id, "READY")]


def test_numbers_come_with_their_two_kinds_of_doubt_also_from_a_table(runs: Path, tmp_path: Path) -> None:
    import mlflow
    import pandas as pd

    changes = {"budget": 20, "posterior.training.steps": 5, "draws": 3, "test_draws": 3}
    spec = resolved(read_spec("diabetes", changes))
    start(spec, tmp_path / "run")
    write_model(tmp_path / "run" / "model.pkl", tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    items = np.asarray(build(spec).dataset.test)
    here = load_model(tmp_path / "run").predict(items)
    for given in (items, pd.DataFrame(items)):
        table = model.predict(given)
        assert list(table.columns) == ["mean", "sd", "aleatoric", "epistemic"]
        for name, values in here.items():
            np.testing.assert_allclose(table[name], values, rtol=1e-6)


def test_system_metrics_are_told_where_mlflows_own_switch_is_on(
    runs: Path, spec: RunSpec, tracking: MlflowTracking, curve: Curve, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psutil")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    start(spec, runs / "watched", tracking=tracking)
    resume(runs / "watched", tracking=tracking)
    run = told(tracking, "watched")
    history = tracking.client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    steps = [point.step for point in history]
    assert steps == list(range(len(steps))) and steps  # a resume goes on where it was
    assert run.data.metrics["accuracy"] == curve.metrics["accuracy"][-1]
    assert not [key for key in told(tracking, "mine").data.metrics if key.startswith("system/")]


LOAD = """
import importlib.util, sys
import mlflow, numpy as np
assert importlib.util.find_spec("activebdl") is None
model = mlflow.pyfunc.load_model(sys.argv[1])
import activebdl
assert activebdl.__file__.endswith("/code/activebdl/__init__.py"), activebdl.__file__
table = model.predict(np.load(sys.argv[2]))
table.to_csv(sys.argv[3], index=False)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_is_loaded_in_an_empty_environment_of_its_own_requirements(
    runs: Path, spec: RunSpec, tracking: MlflowTracking, curve: Curve, tmp_path: Path
) -> None:
    """Torch comes from the index: 5 GB, and minutes."""
    import pandas as pd

    run = told(tracking, "mine")
    place = place_of(tracking, run.outputs.model_outputs[0].model_id)
    dataset = build(spec).dataset
    np.save(tmp_path / "test.npy", np.asarray(dataset.test))
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["MLFLOW_TRACKING_URI"] = store_uri(runs)
    home = tmp_path / "environment"
    python = home / "bin" / "python"
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    make = [uv, "venv", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    fill = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    try:
        subprocess.run([*make, str(home)], check=True, env=environment)
        subprocess.run([*fill, "-r", f"{place}/requirements.txt"], check=True, env=environment)
        model = f"runs:/{run.info.run_id}/model"
        command = [str(python), "-c", LOAD, model, str(tmp_path / "test.npy"), str(tmp_path / "told.csv")]
        subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    table: Any = pd.read_csv(tmp_path / "told.csv", dtype={"label": str})
    accuracy = (table["label"] == [str(int(y)) for y in dataset.test_labels]).mean()
    assert accuracy == curve.metrics["accuracy"][-1] == run.data.metrics["accuracy"]
    here = load_model(runs / "mine").predict(np.asarray(dataset.test))
    for column, values in (("entropy", "entropy"), ("mutual_information", "mutual_information")):
        np.testing.assert_allclose(table[column], here[values], atol=1e-5)
    np.testing.assert_allclose(table.iloc[:, 4:], here["probabilities"], atol=1e-5)
