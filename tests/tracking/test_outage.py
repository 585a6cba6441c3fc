"""MLflow that fails at any call, whether it did what it was asked for or not: in the end each point is there once.

The store is a double that keeps all it is told, so that a point sent twice is two; test_outage_server.py has the real
server.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activebdl.build import build, resolved
from activebdl.errors import Waiting
from activebdl.rounds import Round
from activebdl.spec import RunSpec, read_spec
from activebdl.tracking.outbox import Outbox
from activebdl.tracking.store import MlflowTracking
from activebdl.tracking.told import flat, metrics_of
from tests.tracking.mlflow_double import WRITES, Store


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return resolved(read_spec("digits-small", {"budget": 60, "posterior.training.steps": 5}))


@pytest.fixture(scope="module")
def rounds(spec: RunSpec) -> list[Round]:
    rounds = list(build(spec))
    return [*rounds[:-1], replace(rounds[-1], stopped="enough")]


@pytest.fixture(scope="module")
def data(spec: RunSpec) -> Any:
    return build(spec).dataset


@pytest.fixture(scope="module", autouse=True)
def no_drawing() -> Iterator[None]:
    """Pictures take longer than all else: their names stand for them."""

    def named(dataset: Any, round: Round, is_last: bool) -> dict[str, Callable[[], bytes]]:
        names = [f"asked/{round.n_labels}.png"] + ["confusion_matrix.png", "reliability.png"] * is_last
        return {name: f"{name} with {round.n_labels} labels".encode for name in names}

    def write(file: Path, to: Path, model_id: str) -> None:
        to.mkdir()
        (to / "MLmodel").write_text(f"{file.read_text()}, {model_id}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("activebdl.tracking.run.pictures_of", named)
        patch.setattr("activebdl.tracking.model.write_model", write)
        yield


@pytest.fixture(scope="module", autouse=True)
def model(tmp_path_factory: pytest.TempPathFactory) -> None:
    Case.model = tmp_path_factory.mktemp("model") / "model.pkl"
    Case.model.write_text("learned")


class Case:
    """Two runs of a comparison, or one by itself, told to a store by one process after the other.

    A round takes `step` seconds by the outbox's clock: MLflow is tried again with each round, or at the end alone.
    """

    model: Path

    def __init__(self, spec: RunSpec, rounds: list[Round], data: Any, names: tuple[str, ...], step: float) -> None:
        self.spec, self.rounds, self.data, self.names, self.step = spec, rounds, data, names, step
        self.now = 0.0

    def go(self, store: Store) -> None:
        """One process, from the beginning or what is left."""
        tracking: Any = MlflowTracking(store, "0", outbox=Outbox(lambda: self.now))
        if len(self.names) == 1:
            self._one(tracking, self.names[0])
            return
        with tracking.comparison("both", "uid-both") as child:
            for name in self.names:
                self._one(child, name)

    def _one(self, tracking: Any, name: str) -> None:
        with tracking.run(self.spec, name, f"uid-{name}", self.model) as track:
            for round in self.rounds:
                self.now += self.step
                track(self.data, round)

    def check(self, store: Store) -> None:
        """All is there, once."""
        runs = {run.name: run for run in store.active()}
        assert sorted(run.name for run in store.active()) == sorted(self.names + ("both",) * (len(self.names) > 1))
        assert {run.status for run in runs.values()} == {"FINISHED"}
        for name in self.names:
            points = Counter(runs[name].points)
            assert set(points.values()) == {1}
            accuracy = sorted((step, value) for key, step, value, _ in points if key == "accuracy")
            assert accuracy == [(round.n_labels, round.metrics["accuracy"]) for round in self.rounds]
            assert len(points) == sum(len(metrics_of(round, self.data.target)) for round in self.rounds)
            assert runs[name].params == flat(self.spec)
            assert runs[name].tags["stopped"] == "at 60 labels: enough"
            assert set(runs[name].files) == {
                "asked/20.png", "asked/40.png", "asked/60.png",
                "confusion_matrix.png", "reliability.png", "selections.csv", "spec.yaml",
            }  # fmt: skip
            assert runs[name].files["selections.csv"].count(b"\n") == 61
            assert [given.tags[0].value for given in runs[name].inputs] == ["pool", "test"]
            (model,) = [model for model in store.models if model.source_run_id == runs[name].run_id]
            assert (model.status, model.tags["n_labels"]) == ("READY", "60")
            assert model.files == {"MLmodel": f"learned, {model.model_id}"}
            assert [(out.model_id, out.step) for out in runs[name].outputs] == [(model.model_id, 60)]
            if len(self.names) > 1:
                assert runs[name].tags["mlflow.parentRunId"] == runs["both"].run_id


@pytest.fixture(params=[("one",), ("x", "y")], ids=["run", "comparison"])
def names(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


@pytest.mark.parametrize("step", [1000.0, 0.0], ids=["tried again each round", "tried again at the end"])
@pytest.mark.parametrize("fate", ["refused", "lost"])
def test_a_call_that_fails_is_made_up_whichever_it_is(
    spec: RunSpec, rounds: list[Round], data: Any, names: tuple[str, ...], fate: str, step: float,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    case, store = Case(spec, rounds, data, names, step), Store()
    case.go(store)
    case.check(store)
    n_calls = len(store.calls)
    assert n_calls >= 20
    last_try = max(i for i, call in enumerate(store.calls) if call == "set_terminated")
    capsys.readouterr()
    for i in range(n_calls):
        store = Store(iter(["ok"] * i + [fate]))
        case.go(store)
        told = capsys.readouterr().out
        at_end = i >= last_try  # how it ended, and then its model, after which it is not tried again
        assert ("activebdl resume" in told) is at_end
        assert told.count("MLflow fails") == told.count("MLflow is back") == (0 if at_end else 1)
        if not at_end:
            case.check(store)
        case.go(store)
        case.check(store)


@pytest.mark.parametrize("fate", ["refused", "lost"])
@pytest.mark.parametrize("n_tries", [2, 3, 4, 1000])
def test_an_outage_from_any_call_on_is_made_up(
    spec: RunSpec, rounds: list[Round], data: Any, fate: str, n_tries: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of so many tries; the last is never made up in the same process."""
    case, store = Case(spec, rounds, data, ("one",), 1000.0), Store()
    case.go(store)
    n_calls = len(store.calls)
    assert "MLflow" not in capsys.readouterr().out
    made_up = 0
    for i in range(n_calls):
        store = Store(iter(["ok"] * i + [fate] * n_tries))
        case.go(store)
        told = capsys.readouterr().out
        if "activebdl resume" not in told:
            made_up += 1
            case.check(store)
        store.fate = iter(())
        case.go(store)
        case.check(store)
        assert "MLflow" not in capsys.readouterr().out
    # The try that fails first and those that follow are of the beginning, the three rounds and the end, so that
    # a shorter outage that begins with the first call is over in time, and an endless one never.
    assert (made_up > 0) == (n_tries < 1000)


@pytest.mark.parametrize("fate", ["refused", "lost", "stopped"])
def test_of_a_run_that_went_on_with_more_nothing_is_left_of_its_earlier_end(
    spec: RunSpec, rounds: list[Round], data: Any, fate: str
) -> None:
    poor = spec.model_copy(update={"max_cost": 40.0})
    short = Case(poor, [rounds[0], replace(rounds[1], stopped="no more money")], data, ("one",), 1000.0)
    whole = Case(spec, [*rounds[:2], replace(rounds[2], stopped=None)], data, ("one",), 1000.0)
    n_calls = 1
    for i in range(100):
        store = Store()
        short.go(store)
        (run,) = store.runs
        assert run.tags["stopped"] == "at 40 labels: no more money"
        assert run.files["reliability.png"] == b"reliability.png with 40 labels"
        before = len(store.calls)
        store.fate = iter(["ok"] * i + [fate])
        with contextlib.suppress(KeyboardInterrupt):
            whole.go(store)
        n_calls = len(store.calls) - before
        store.fate = iter(())
        whole.go(store)
        assert "stopped" not in run.tags and run.tags["max_cost now"] == flat(spec)["max_cost"]
        for name in ("confusion_matrix.png", "reliability.png"):
            assert run.files[name] == f"{name} with 60 labels".encode()
        assert sorted(step for key, step, _, _ in run.points if key == "accuracy") == [20, 40, 60]
        if i > n_calls:
            break
    assert n_calls > 10


@settings(max_examples=60)
@given(
    fates=st.lists(st.sampled_from(["ok", "ok", "ok", "refused", "lost", "stopped"]), max_size=80),
    step=st.sampled_from([0.0, 3.0, 8.0, 1000.0]),
)
def test_whatever_fails_when_each_point_is_there_once(
    spec: RunSpec, rounds: list[Round], data: Any, fates: list[str], step: float
) -> None:
    case, store = Case(spec, rounds, data, ("x", "y"), step), Store(iter(fates))
    for _ in fates:  # each process ends, or is stopped by a key
        try:
            case.go(store)
        except KeyboardInterrupt:
            continue
    store.fate = iter(())
    case.go(store)
    case.check(store)


@pytest.mark.parametrize("n_refused", [0, 1])
@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED"), (Waiting, "SCHEDULED")]
)
def test_how_a_run_ended_is_made_up_too(
    spec: RunSpec, rounds: list[Round], data: Any, error: type[BaseException], status: str, n_refused: int
) -> None:
    """The store is away when the comparison begins, and back for the last try."""
    store = Store(iter(["refused"] * n_refused))
    tracking = MlflowTracking(store, "0", outbox=Outbox(lambda: 0.0))

    def begin() -> None:
        with tracking.comparison("both", "uid-both") as child, child.run(spec, "x", "uid-x") as track:
            track(data, rounds[0])
            raise error

    with pytest.raises(error):
        begin()
    assert [(run.name, run.status) for run in store.active()] == [("both", status), ("x", status)]


def test_a_run_that_the_server_made_after_all_is_deleted(
    spec: RunSpec, rounds: list[Round], data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hung does what it was asked for when nobody waits any more."""
    case, store = Case(spec, rounds, data, ("one",), 1000.0), Store()
    create, late = Store.do_create_run, list[tuple[Any, ...]]()

    def hang(store: Store, *args: Any, **kwargs: Any) -> Any:
        if not late:
            late.append((args, kwargs))
            raise TimeoutError("no answer")
        made = create(store, *args, **kwargs)
        create(store, *late[0][0], **late[0][1])  # it goes on, with what it was asked for first
        return made

    monkeypatch.setattr(Store, "do_create_run", hang)
    case.go(store)
    assert len(store.runs) == 2
    case.check(store)


def test_a_run_that_someone_deleted_stops_no_other(
    spec: RunSpec, rounds: list[Round], data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store()
    tracking = MlflowTracking(store, "0", outbox=Outbox(lambda: 0.0))
    with tracking.comparison("both", "uid-both") as child:
        with child.run(spec, "x", "uid-x") as track:
            track(data, rounds[0])
            store.runs[1].deleted = True
            for round in rounds[1:]:
                track(data, round)
        with child.run(spec, "y", "uid-y") as track:
            for round in rounds:
                track(data, round)
    assert {run.name: run.status for run in store.active()} == {"both": "FINISHED", "y": "FINISHED"}
    assert "activebdl resume both\n" in capsys.readouterr().out
    Case(spec, rounds, data, ("x", "y"), 0.0).go(store)
    Case(spec, rounds, data, ("x", "y"), 0.0).check(store)


def test_what_was_missed_is_there_as_soon_as_the_server_is(
    spec: RunSpec, rounds: list[Round], data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store, clock = Store(iter(["refused"] * 2)), [0.0]
    with MlflowTracking(store, "0", outbox=Outbox(lambda: clock[0])).run(spec, "one", "uid-one") as track:
        clock[0] += 100.0
        track(data, rounds[0])
        assert store.runs == []
        clock[0] += 9.0  # of the second pause's 10
        track(data, rounds[1])
        assert store.runs == []
        clock[0] += 1.0
        track(data, rounds[2])
        assert [step for key, step, _, _ in store.runs[0].points if key == "accuracy"] == [20, 40, 60]
        assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["fails", "is"]
    assert store.calls.count("create_run") == 1


def test_a_parameter_that_is_told_in_other_words_by_now_is_left_as_it_is(
    spec: RunSpec, rounds: list[Round], data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    case, store = Case(spec, rounds, data, ("one",), 0.0), Store()
    case.go(store)
    store.runs[0].params["label"] = "an older version's words"  # which MLflow lets nobody change
    case.go(store)
    assert "MLflow" not in capsys.readouterr().out
    assert store.runs[0].params["label"] == "an older version's words"


def test_what_the_store_has_is_not_written_again(spec: RunSpec, rounds: list[Round], data: Any) -> None:
    case, store = Case(spec, rounds, data, ("one",), 0.0), Store()
    case.go(store)
    n_calls = len(store.calls)
    case.go(store)
    writes = [call for call in store.calls[n_calls:] if call in WRITES]
    assert writes == [
        "update_run",
        "set_tag",
        "log_text",
        "set_terminated",
    ]  # it runs, why and what at its end, it ended
