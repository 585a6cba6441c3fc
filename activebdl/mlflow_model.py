"""A run's model as MLflow keeps one: with a signature, an example, what it needs installed, and our code.

    model = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    model.predict(images)    # a table, a row for each: label, confidence, entropy, mutual_information, ...

Where it is loaded nobody needs activebdl.
"""

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from activebdl import __file__ as _package
from activebdl.portable import pinned, requirements
from activebdl.predictor import Predictor, load_model

if TYPE_CHECKING:
    import pandas as pd

NAME = "model"
"""What a run's model is called: it is found as ``runs:/RUN_ID/model``."""
LABELS = "n_labels"


def send_model(client: Any, run: Any, file: Path, n_labels: int, params: Mapping[str, str]) -> None:
    """Gives a run its model, unless it has it; what failed half way is done to its end.

    Args:
        client: Of the store.
        run: In the store, as ``client.get_run`` gives it.
        file: From `Predictor.save`.
        n_labels: The labels that it learned from: a run that went on has another model than before.
        params: What is told of the model.
    """
    from mlflow.entities import LoggedModelOutput

    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    mine = [model for model in found if model.tags.get(LABELS) == str(n_labels)]
    ready = [model for model in mine if model.status == "READY"]
    if not ready:
        kept = mine[0] if mine else client.create_logged_model(
            experiment_id, NAME, source_run_id=run_id, tags={LABELS: str(n_labels)}, params=dict(params)
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            write_model(file, Path(folder) / NAME, kept.model_id)
            client.log_model_artifacts(kept.model_id, str(Path(folder) / NAME))
        if kept.model_id not in [model.model_id for model in run.outputs.model_outputs]:
            client.log_outputs(run_id, [LoggedModelOutput(kept.model_id, step=n_labels)])
        client.finalize_logged_model(kept.model_id, "READY")
        ready = [kept]
    for other in mine:  # a server that hung may have made it when nobody waited any more
        if other.model_id != ready[0].model_id:
            client.delete_logged_model(other.model_id)


def write_model(file: Path, to: Path, model_id: str | None = None) -> None:
    """Writes a model's file as a folder that MLflow's own tools can load and serve."""
    with warnings.catch_warnings():  # of types of MLflow's own, when it is first imported
        warnings.simplefilter("ignore")
        from mlflow.models import Model, ModelSignature
        from mlflow.pyfunc import save_model
    from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec

    model = PyfuncModel(load_model(file, "cpu"))
    example = model.predictor.example.numpy()
    told = model.predict(example)
    kinds = {name: DataType.string if name == "label" else DataType.double for name in told.columns}
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "activebdl"
        shutil.copytree(Path(_package).parent, code, ignore=_all_but_code)
        save_model(
            str(to),
            loader_module=__name__,
            data_path=str(file),
            code_paths=[str(code)],
            mlflow_model=Model(model_id=model_id),
            signature=ModelSignature(
                Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
                Schema([ColSpec(kinds[name], name) for name in told.columns]),
            ),
            input_example=example,
            pip_requirements=sorted({*requirements(file), pinned("mlflow")}),
        )


class PyfuncModel:
    """What MLflow calls.

    Args:
        predictor: That answers.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: Any, params: object = None) -> "pd.DataFrame":
        """A row for each item.

        Args:
            model_input: ``[B, ...]`` raw items, as the data set has them; of items with one axis also a DataFrame.
            params: None are known.

        Returns:
            Of classes: "label", the name of the most probable, "confidence", "entropy" and "mutual_information" in
            nats, and "probability_NAME" of each. Of numbers: "mean", "sd", "aleatoric" and "epistemic".
        """
        import numpy as np
        import pandas as pd

        del params
        x = torch.as_tensor(np.array(model_input)).to(self.predictor.example.dtype)
        told = self.predictor.predict(x)
        names = self.predictor.target.names
        if not names:
            return pd.DataFrame(told)
        probabilities = told.pop("probabilities")
        told["label"] = np.array(names, dtype=object)[told["label"]]
        told |= {f"probability_{name}": probabilities[:, c] for c, name in enumerate(names)}
        return pd.DataFrame(told)


def _load_pyfunc(data_path: str) -> PyfuncModel:  # pyright: ignore[reportUnusedFunction]
    """MLflow calls it by this name."""
    return PyfuncModel(load_model(data_path))


def _all_but_code(folder: str, names: list[str]) -> set[str]:
    """What is left out of a copy of the package."""
    return {
        name for name in names if name == "__pycache__" or not (name.endswith(".py") or (Path(folder) / name).is_dir())
    }
