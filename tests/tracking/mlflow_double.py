"""A double of MLflow's client that keeps all it is told, so that what is sent twice is there twice, and that fails."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from activebdl.tracking.run import UID

WRITES = {
    "create_run",
    "update_run",
    "set_terminated",
    "delete_run",
    "log_batch",
    "set_tag",
    "delete_tag",
    "log_text",
    "log_artifact",
    "log_inputs",
    "create_logged_model",
    "log_model_artifacts",
    "log_outputs",
    "finalize_logged_model",
    "delete_logged_model",
}


@dataclass
class Run:
    run_id: str
    name: str
    tags: dict[str, str]
    status: str = "RUNNING"
    params: dict[str, str] = field(default_factory=dict[str, str])
    points: list[tuple[str, int, float, int]] = field(default_factory=list[tuple[str, int, float, int]])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    inputs: list[Any] = field(default_factory=list[Any])
    outputs: list[Any] = field(default_factory=list[Any])
    deleted: bool = False


@dataclass
class Model:
    model_id: str
    source_run_id: str
    tags: dict[str, str]
    params: dict[str, str]
    status: str = "PENDING"
    files: dict[str, str] = field(default_factory=dict[str, str])


class Store:
    """The calls of MLflow's client that we use, of which chosen ones fail.

    Args:
        fate: Of each call in turn: "ok", "refused", "lost" (it is done, and the answer does not come) or "stopped"
            (done, when a key stops the process); "ok" after the last.
    """

    def __init__(self, fate: Iterator[str] | None = None) -> None:
        self.runs: list[Run] = []
        self.models: list[Model] = []
        self.calls: list[str] = []
        self.fate: Iterator[str] = fate or iter(())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        do = getattr(type(self), f"do_{name}")

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            fate = next(self.fate, "ok")
            if fate == "refused":
                raise ConnectionError("the server is away")
            answer = do(self, *args, **kwargs)
            if fate == "lost":
                raise ConnectionError("the answer was lost")
            if fate == "stopped":
                raise KeyboardInterrupt
            return answer

        return call

    def run(self, run_id: str) -> Run:
        (run,) = [run for run in self.runs if run.run_id == run_id and not run.deleted]
        return run

    def active(self) -> list[Run]:
        return [run for run in self.runs if not run.deleted]

    def do_search_runs(self, experiments: list[str], filter_string: str) -> list[Any]:
        match = re.fullmatch(rf"tags\.`{re.escape(UID)}` = '(.*)'", filter_string)
        assert match is not None
        return [
            SimpleNamespace(
                info=SimpleNamespace(run_id=run.run_id, status=run.status),
                data=SimpleNamespace(
                    params=dict(run.params),
                    metrics={key: value for key, _, value, _ in run.points},
                    tags=dict(run.tags),
                ),
            )
            for run in self.active()
            if run.tags[UID] == match[1]
        ]

    def do_create_run(self, experiment_id: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        self.runs.append(Run(f"run-{len(self.runs)}", run_name, dict(tags)))
        return SimpleNamespace(info=SimpleNamespace(run_id=self.runs[-1].run_id))

    def do_update_run(self, run_id: str, status: str) -> None:
        self.run(run_id).status = status

    def do_set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self.run(run_id).status = status

    def do_delete_run(self, run_id: str) -> None:
        self.run(run_id).deleted = True

    def do_log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        run = self.run(run_id)
        run.points += [(m.key, m.step, m.value, m.timestamp) for m in metrics]
        for param in params:
            assert run.params.get(param.key, param.value) == param.value  # MLflow lets nobody change one
            run.params[param.key] = param.value

    def do_get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [SimpleNamespace(step=step) for name, step, _, _ in self.run(run_id).points if name == key]

    def do_set_tag(self, run_id: str, key: str, value: str) -> None:
        self.run(run_id).tags[key] = value

    def do_delete_tag(self, run_id: str, key: str) -> None:
        del self.run(run_id).tags[key]

    def do_list_artifacts(self, run_id: str, folder: str | None) -> list[Any]:
        names = self.run(run_id).files
        return [
            SimpleNamespace(path=name, file_size=1) for name in names if ("asked" if "/" in name else None) == folder
        ]

    def do_log_text(self, run_id: str, text: str, name: str) -> None:
        self.run(run_id).files[name] = text.encode()

    def do_log_artifact(self, run_id: str, file: str, folder: str | None) -> None:
        name = Path(file).name if folder is None else f"{folder}/{Path(file).name}"
        self.run(run_id).files[name] = Path(file).read_bytes()

    def do_get_run(self, run_id: str) -> Any:
        run = self.run(run_id)
        return SimpleNamespace(
            info=SimpleNamespace(run_id=run_id, experiment_id="0"),
            data=SimpleNamespace(tags=dict(run.tags)),
            inputs=SimpleNamespace(dataset_inputs=list(run.inputs)),
            outputs=SimpleNamespace(model_outputs=list(run.outputs)),
        )

    def do_log_inputs(self, run_id: str, datasets: list[Any]) -> None:
        self.run(run_id).inputs += datasets

    def do_search_logged_models(self, experiments: list[str], filter_string: str) -> list[Any]:
        match = re.fullmatch(r"source_run_id = '(.*)'", filter_string)
        assert match is not None
        return [replace(model) for model in self.models if model.source_run_id == match[1]]

    def do_create_logged_model(
        self, experiment_id: str, name: str, source_run_id: str, tags: dict[str, str], params: dict[str, str]
    ) -> Any:
        self.models.append(Model(f"m-{len(self.calls)}", source_run_id, tags, params))
        return replace(self.models[-1])

    def do_log_model_artifacts(self, model_id: str, folder: str) -> None:
        self.model(model_id).files |= {file.name: file.read_text() for file in Path(folder).iterdir()}

    def do_log_outputs(self, run_id: str, models: list[Any]) -> None:
        self.run(run_id).outputs += models

    def do_finalize_logged_model(self, model_id: str, status: str) -> None:
        self.model(model_id).status = status

    def do_delete_logged_model(self, model_id: str) -> None:
        self.models.remove(self.model(model_id))

    def model(self, model_id: str) -> Model:
        (model,) = [model for model in self.models if model.model_id == model_id]
        return model
