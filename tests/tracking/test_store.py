"""MLflow against a real store: each point once, whatever happened in between; and the run goes on without it."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from activebdl import UserError
from activebdl.build import build, resolved
from activebdl.errors import Waiting
from activebdl.rounds import Round
from activebdl.spec import RunSpec, read_spec
from activebdl.targets import Classes
from activebdl.tracking.store import UID, MlflowTracking, store_uri
from activebdl.tracking.ui import VIEW, VIEW_TAG, charts_url


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in it: making one takes seconds."""
    folder = tmp_path_factory.mktemp("tracked") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        MlflowTracking.prepare(folder, "digits")
    return folder


@pytest.fixture(autouse=True)
def no_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return resolved(read_spec("digits-small", {"budget": 60, "posterior.training.steps": 5}))


@pytest.fixture(scope="module")
def rounds(spec: RunSpec) -> list[Round]:
    return list(build(spec))


@pytest.fixture(scope="module")
def data(spec: RunSpec) -> Any:
    return build(spec).dataset


def points(tracking: MlflowTracking, uid: str) -> dict[str, list[tuple[int, float]]]:
    (run,) = tracking.client.search_runs([tracking.experiment_id], f"tags.`{UID}` = '{uid}'")
    return {
        key: [(point.step, point.value) for point in tracking.client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }


def test_each_round_is_one_point_at_its_number_of_labels(
    runs: Path, spec: RunSpec, rounds: list[Round], data: Any
) -> None:
    tracking = MlflowTracking.prepare(runs, "digits")
    with tracking.run(spec, "one", "uid-one") as track:
        for round in rounds:
            track(data, round)
    history = points(tracking, "uid-one")
    assert history["accuracy"] == [(round.n_labels, round.metrics["accuracy"]) for round in rounds]
    assert {"nll", "ece", "brier", "time/fit", "time/select", "asked/class_7", "asked/mean_score"} <= set(history)
    assert [step for step, _ in history["asked/mean_score"]] == [40, 60]  # the first items have no score
    (run,) = tracking.client.search_runs([tracking.experiment_id], f"tags.`{UID}` = 'uid-one'")
    assert run.info.status == "FINISHED"
    assert run.data.params["strategy"] == "bald"
    assert run.data.params["posterior.training.steps"] == "5"
    assert run.data.tags["device"].startswith("cpu (")  # what "auto" was on this machine
    assert run.data.tags["torch"] == torch.__version__
    assert run.data.tags["threads"] == str(torch.get_num_threads())
    files = {entry.path for entry in tracking.client.list_artifacts(run.info.run_id)}
    assert files == {"asked", "confusion_matrix.png", "reliability.png", "selections.csv", "spec.yaml"}
    assert len(tracking.client.list_artifacts(run.info.run_id, "asked")) == 3
    selections = Path(tracking.client.download_artifacts(run.info.run_id, "selections.csv")).read_text().splitlines()
    assert [int(line.split(",")[2]) for line in selections[1:]] == [id for round in rounds for id in round.ids]


def test_classes_of_any_name_reach_the_store(runs: Path, spec: RunSpec, rounds: list[Round], data: Any) -> None:
    names = ("cat (small)", "dog, big", "C++", "C--", "\N{SNOWMAN}", "a/../b", "zwölf", "x" * 300, "cat [small]", "8")
    tracking = MlflowTracking.prepare(runs, "digits")
    with tracking.run(spec, "named", "uid-named") as track:
        track(replace(data, target=Classes(names)), rounds[0])
    history = points(tracking, "uid-named")
    told = {key.removeprefix("asked/class_") for key in history if key.startswith("asked/class_")}
    assert told == {
        "cat _small__0", "dog_ big_1", "C___2", "C--", "__4", "a_.._b_5", "zwölf", f"{'x' * 100}_7", "cat _small__8",
        "8",
    }  # fmt: skip
    assert sum(history[f"asked/class_{name}"][0][1] for name in told) == pytest.approx(1)


def test_steps_are_integers_in_the_database(runs: Path, spec: RunSpec, rounds: list[Round], data: Any) -> None:
    import numpy as np

    tracking = MlflowTracking.prepare(runs, "digits")
    with tracking.run(spec, "numpy", "uid-numpy") as track:
        track(data, replace(rounds[0], n_labels=np.int64(20)))  # type: ignore[arg-type]
    db = sqlite3.connect(runs / "mlflow.db")
    kinds = db.execute("SELECT DISTINCT typeof(step) FROM metrics").fetchall()
    db.close()
    assert kinds == [("integer",)]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_goes_on_in_the_same_run_and_doubles_no_point(
    runs: Path, spec: RunSpec, rounds: list[Round], data: Any, stop: int
) -> None:
    class Killed(Exception):
        pass

    uid = f"uid-stop-{stop}"
    tracking = MlflowTracking.prepare(runs, "digits")

    def begin() -> None:
        with tracking.run(spec, "stopped", uid) as track:
            for round in rounds[:stop]:
                track(data, round)
            raise Killed

    with pytest.raises(Killed):
        begin()
    (run,) = tracking.client.search_runs([tracking.experiment_id], f"tags.`{UID}` = '{uid}'")
    assert run.info.status == "FAILED"
    again = MlflowTracking.prepare(runs, "digits")
    with again.run(spec, "stopped", uid) as track:
        for round in rounds:  # a resumed run tells all its rounds
            track(data, round)
    assert points(again, uid)["accuracy"] == [(round.n_labels, round.metrics["accuracy"]) for round in rounds]
    (run,) = tracking.client.search_runs([tracking.experiment_id], f"tags.`{UID}` = '{uid}'")
    assert run.info.status == "FINISHED"
    db = sqlite3.connect(runs / "mlflow.db")
    counted = db.execute(
        "SELECT count(*), count(DISTINCT step) FROM metrics WHERE run_uuid = ? AND key = 'nll'", (run.info.run_id,)
    ).fetchone()
    db.close()
    assert counted == (3, 3)


def test_what_the_store_has_is_not_sent_again(runs: Path, spec: RunSpec, rounds: list[Round], data: Any) -> None:
    """A database knows a doubled point, another kind of store may not."""
    tracking = MlflowTracking.prepare(runs, "digits")
    with tracking.run(spec, "again", "uid-again") as track:
        track(data, rounds[0])
    sent: list[int] = []
    log_batch = tracking.client.log_batch

    def listen(run_id: str, metrics: Any = (), **rest: Any) -> None:
        sent.extend({metric.step for metric in metrics})
        log_batch(run_id, metrics=metrics, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking.client, "log_batch", listen)
        with tracking.run(spec, "again", "uid-again") as track:
            for round in rounds:
                track(data, round)
    assert sent == [round.n_labels for round in rounds[1:]]


def test_runs_of_a_comparison_are_children_of_one_parent(
    runs: Path, spec: RunSpec, rounds: list[Round], data: Any
) -> None:
    tracking = MlflowTracking.prepare(runs, "compared")
    for _ in range(2):  # a comparison that goes on keeps its parent
        with tracking.comparison("both", "uid-both") as child:
            for name in ("x", "y"):
                with child.run(spec, name, f"uid-{name}") as track:
                    track(data, rounds[0])
    found = tracking.client.search_runs([tracking.experiment_id])
    by_name = {run.info.run_name: run for run in found}
    assert sorted(by_name) == ["both", "x", "y"]
    assert len(found) == 3
    for name in ("x", "y"):
        assert by_name[name].data.tags["mlflow.parentRunId"] == by_name["both"].info.run_id


def test_a_store_that_fails_stops_no_run_and_is_made_up_for(
    runs: Path, spec: RunSpec, rounds: list[Round], data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = MlflowTracking.prepare(runs, "digits")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the server is away\nfor long")

    with tracking.run(spec, "fails", "uid-fails") as track:
        track(data, rounds[0])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tracking.client, "log_batch", fail)
            track(data, rounds[1])
        track(data, rounds[2])
    told = capsys.readouterr().out
    assert told.count("MLflow fails (the server is away)") == 1
    assert told.count("MLflow is back") == 1 and "activebdl resume" not in told
    assert len(points(tracking, "uid-fails")["accuracy"]) == 3


def test_a_run_that_waits_for_labels_is_scheduled_until_it_goes_on(
    runs: Path, spec: RunSpec, rounds: list[Round], data: Any
) -> None:
    tracking = MlflowTracking.prepare(runs, "digits")

    def begin() -> None:
        with tracking.run(spec, "waits", "uid-waits") as track:
            track(data, rounds[0])
            raise Waiting("12 items wait for labels")

    with pytest.raises(Waiting):
        begin()
    (run,) = tracking.client.search_runs([tracking.experiment_id], f"tags.`{UID}` = 'uid-waits'")
    assert (run.info.status, run.info.end_time) == ("SCHEDULED", None)
    with MlflowTracking.prepare(runs, "digits").run(spec, "waits", "uid-waits") as track:
        assert tracking.client.get_run(run.info.run_id).info.status == "RUNNING"
        for round in rounds:
            track(data, round)
    assert tracking.client.get_run(run.info.run_id).info.status == "FINISHED"
    assert [step for step, _ in points(tracking, "uid-waits")["accuracy"]] == [20, 40, 60]


def test_a_store_that_cannot_be_written_is_told_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"MLflow's store 'sqlite:.*cannot be written: .*--no-mlflow"):
        MlflowTracking.prepare(tmp_path / "file" / "runs", "digits")


def test_a_store_whose_making_was_interrupted_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(engine: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.store.db.utils._upgrade_db", killed)  # the first tables are there by then
        with pytest.raises(Killed):
            MlflowTracking.prepare(tmp_path, "digits")
    assert not (tmp_path / "mlflow.db").exists()
    MlflowTracking.prepare(tmp_path, "digits")
    assert (tmp_path / "mlflow.db").exists()
    assert list(tmp_path.glob("*.part*")) == []


def test_a_server_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert store_uri(tmp_path) == "http://127.0.0.1:9"
    with pytest.raises(UserError, match="MLflow's store 'http://127.0.0.1:9' cannot be written"):
        MlflowTracking.prepare(tmp_path, "digits")
    assert not (tmp_path / "mlflow.db").exists()


def test_an_experiment_that_was_deleted_is_told(runs: Path) -> None:
    tracking = MlflowTracking.prepare(runs, "gone")
    tracking.client.delete_experiment(tracking.experiment_id)
    with pytest.raises(UserError, match="'gone' was deleted there"):
        MlflowTracking.prepare(runs, "gone")


def test_the_experiment_has_the_view_and_a_link_to_it(runs: Path) -> None:
    tracking = MlflowTracking.prepare(runs, "digits")
    tags = tracking.client.get_experiment(tracking.experiment_id).tags
    view = json.loads(tags[VIEW_TAG])
    state = json.loads(view["state"])  # MLflow's menu lists a view that is wrapped like this, by its name
    assert view["name"] == "accuracy against labels"
    assert state["compareRunCharts"][0]["metricKey"] == "accuracy"
    assert state["compareRunCharts"][0]["xAxisKey"] == "step"
    assert state["runsHiddenMode"] == "SHOW_ALL"
    assert len(tags[VIEW_TAG]) < 5000  # MLflow's limit
    page = f"#/experiments/{tracking.experiment_id}/runs?viewStateShareKey={VIEW}&"
    assert charts_url("http://127.0.0.1:5000", tracking.experiment_id).startswith(f"http://127.0.0.1:5000/{page}")
    assert f"]({page}" in tags["mlflow.note.content"]


def test_numbers_have_a_view_of_their_own(runs: Path) -> None:
    spec = resolved(read_spec("diabetes", {"budget": 20, "posterior.training.steps": 5, "draws": 3, "test_draws": 3}))
    tracking = MlflowTracking.prepare(runs, "diabetes")
    dataset, rounds = build(spec).dataset, list(build(spec))
    with tracking.run(spec, "one", "numbers") as track:
        for round in rounds:
            track(dataset, round)
    told = points(tracking, "numbers")
    assert told["rmse"] == [(round.n_labels, round.metrics["rmse"]) for round in rounds]
    assert told["asked/mean_label"][1][1] == pytest.approx(sum(rounds[1].labels) / 10)
    MlflowTracking.prepare(runs, "diabetes")  # as the next run does, and leaves the view as it is
    tags = tracking.client.get_experiment(tracking.experiment_id).tags
    view = json.loads(tags[VIEW_TAG])
    shown = [chart["metricKey"] for chart in json.loads(view["state"])["compareRunCharts"]]
    assert view["name"] == "rmse against labels" and shown[0] == "rmse" and "accuracy" not in shown
    assert set(shown) <= set(told)


def test_a_description_of_the_user_is_kept(runs: Path) -> None:
    tracking = MlflowTracking.prepare(runs, "described")
    tracking.client.set_experiment_tag(tracking.experiment_id, "mlflow.note.content", "mine")
    MlflowTracking.prepare(runs, "described")
    assert tracking.client.get_experiment(tracking.experiment_id).tags["mlflow.note.content"] == "mine"


def test_what_is_not_finite_is_left_out(runs: Path, spec: RunSpec, rounds: list[Round], data: Any) -> None:
    tracking = MlflowTracking.prepare(runs, "digits")
    with tracking.run(spec, "infinite", "uid-infinite") as track:
        track(data, replace(rounds[0], metrics={**rounds[0].metrics, "nll": float("inf"), "ece": float("nan")}))
    told = points(tracking, "uid-infinite")
    assert len(told["accuracy"]) == 1
    assert not {"nll", "ece"} & set(told)


def test_a_store_that_is_away_when_a_run_begins_stops_it_no_more_than_later(
    runs: Path, spec: RunSpec, rounds: list[Round], data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = MlflowTracking.prepare(runs, "digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking.client, "search_runs", lambda *_, **__: 1 / 0)
        with tracking.run(spec, "away", "uid-away") as track:
            for round in rounds:
                track(data, round)
        told = capsys.readouterr().out
    assert told.count("MLflow fails (division by zero)") == 1
    assert told.count(f"this sends it: activebdl resume away --runs {runs}\n") == 1 and "MLflow is back" not in told
    assert tracking.client.search_runs([tracking.experiment_id], f"tags.`{UID}` = 'uid-away'") == []


def test_an_empty_address_is_none(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    tracking = MlflowTracking.prepare(runs, "empty")
    place = tracking.client.get_experiment(tracking.experiment_id).artifact_location
    assert place == (runs / "mlartifacts").resolve().as_uri()


def test_a_run_that_stops_early_has_its_last_pictures_and_says_why(
    runs: Path, spec: RunSpec, rounds: list[Round], data: Any
) -> None:
    tracking = MlflowTracking.prepare(runs, "digits")
    told: dict[str, Any] = {"validation": {"accuracy": 0.5, "size": 10}, "watch": {"kappa": 0.75, "uncertainty": 0.25}}
    early = [rounds[0], replace(rounds[1], stopped="enough", cost=7.5, **told)]  # of three
    for _ in range(2):
        with tracking.run(spec, "early", "uid-early") as track:
            for round in early:
                track(data, round)
    history = points(tracking, "uid-early")
    assert history["cost"] == [(20, 0.0), (40, 7.5)]
    assert history["validation/accuracy"] == [(40, 0.5)] and "validation/size" not in history
    assert history["stop/kappa"] == [(40, 0.75)] and history["stop/uncertainty"] == [(40, 0.25)]
    (run,) = tracking.client.search_runs([tracking.experiment_id], f"tags.`{UID}` = 'uid-early'")
    assert run.data.tags["stopped"] == "at 40 labels: enough"
    files = {entry.path for entry in tracking.client.list_artifacts(run.info.run_id)}
    assert {"confusion_matrix.png", "reliability.png"} <= files


def test_a_picture_that_was_being_sent_when_the_run_was_killed_is_sent_again(
    runs: Path, spec: RunSpec, rounds: list[Round], data: Any
) -> None:
    tracking = MlflowTracking.prepare(runs, "digits")

    def send() -> Path:
        with tracking.run(spec, "pictures", "uid-pictures") as track:
            for round in rounds:
                track(data, round)
        (run,) = tracking.client.search_runs([tracking.experiment_id], f"tags.`{UID}` = 'uid-pictures'")
        return runs / "mlartifacts" / run.info.run_id / "artifacts" / "reliability.png"

    picture = send()
    whole = picture.read_bytes()
    picture.write_bytes(b"")
    send()
    assert picture.read_bytes() == whole


def test_a_run_that_is_not_at_its_end_has_no_last_pictures(
    runs: Path, spec: RunSpec, rounds: list[Round], data: Any
) -> None:
    tracking = MlflowTracking.prepare(runs, "digits")
    with tracking.run(spec, "midway", "uid-midway") as track:
        for round in rounds[:2]:
            track(data, round)
    (run,) = tracking.client.search_runs([tracking.experiment_id], f"tags.`{UID}` = 'uid-midway'")
    assert "stopped" not in run.data.tags
    files = {entry.path for entry in tracking.client.list_artifacts(run.info.run_id)}
    assert not {"confusion_matrix.png", "reliability.png"} & files
