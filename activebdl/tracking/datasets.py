"""A run's data sets as MLflow shows them beside it: what they are called, where they come from, what is in them.

N: items.
"""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from activebdl.data import ActiveDataset
from activebdl.data.inputs import Inputs, known_by
from activebdl.spec import RunSpec
from activebdl.targets import Target

LOOKS = 64
"""Items by which inputs outside of memory are known."""


def dataset_inputs(dataset: ActiveDataset, spec: RunSpec) -> list[Any]:
    """The pool and the test set, as MLflow's ``DatasetInput``."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # No call loads them again; this is what to say to `activebdl data` or in a YAML file.
    source = CodeDatasetSource({"activebdl.dataset": spec.dataset.model_dump_json()})
    found: list[Any] = []
    for context, inputs, labels in (
        ("pool", dataset.pool, dataset.labels),
        ("test", dataset.test, dataset.test_labels),
    ):
        first = inputs[torch.tensor([0])].numpy()
        schema = TensorDatasetSchema(_tensor(first.dtype, first.shape[1:]), _tensor(dataset.target.dtype, ()))
        found.append(
            DatasetInput(
                Dataset(
                    dataset.name,
                    digest(context, inputs, labels),
                    source._get_source_type(),
                    source.to_json(),
                    json.dumps(schema.to_dict()),
                    json.dumps(profile(inputs, labels, dataset.target)),
                ),
                [InputTag("mlflow.data.context", context)],
            )
        )
    return found


def digest(context: str, inputs: Inputs, labels: Tensor | None) -> str:
    """Tells one data set from another by its items and their labels, or by `LOOKS` of its items and all labels."""
    count = len(inputs)
    seen = known_by(inputs, LOOKS)
    found = hashlib.blake2b(f"{context} {count} {seen.dtype} {list(seen.shape[1:])} ".encode(), digest_size=8)
    found.update(seen.contiguous().numpy().data)
    if labels is not None:
        found.update(labels.contiguous().numpy().data)
    return found.hexdigest()


def profile(inputs: Inputs, labels: Tensor | None, target: Target) -> dict[str, Any]:
    """What is in it, in numbers."""
    shape = list(inputs[torch.tensor([0])].shape[1:])
    told: dict[str, Any] = {"num_rows": len(inputs), "num_elements": len(inputs) * torch.Size(shape).numel()}
    told |= {"item_shape": shape, "labels": target.kind if labels is not None else "asked for"}
    if not isinstance(inputs, Tensor):
        told["digest_of"] = f"{min(LOOKS, len(inputs))} of {len(inputs)} items"
    if target.names:
        told["classes"] = len(target.names)
    if labels is not None and target.names:
        told["items_by_class"] = dict(zip(target.names, labels.bincount(minlength=target.width).tolist(), strict=True))
    elif labels is not None:
        told |= {"mean": float(labels.mean()), "sd": float(labels.std(correction=0))}
        told |= {"min": float(labels.min()), "max": float(labels.max())}
    return told


def _tensor(dtype: Any, item_shape: tuple[int, ...]) -> Any:
    import numpy as np
    from mlflow.types.schema import Schema, TensorSpec

    kind = torch.empty(0, dtype=dtype).numpy().dtype if isinstance(dtype, torch.dtype) else np.dtype(dtype)
    return Schema([TensorSpec(kind, (-1, *item_shape))])
