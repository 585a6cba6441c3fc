"""Data sets as MLflow shows them: the digest tells one from another, and costs little."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from activebdl import ActiveDataset, Numbers
from activebdl.data.inputs import MappedInputs, StreamedInputs
from activebdl.mlflow_data import LOOKS, dataset_inputs, digest, profile
from activebdl.spec import RunSpec

ITEMS = np.arange(400, dtype=np.float32).reshape(100, 4)


class Counted(Dataset[Any]):
    def __init__(self, items: np.ndarray[Any, Any]) -> None:
        self.items, self.read = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, id: int) -> Any:
        self.read += 1
        return self.items[id]


@pytest.mark.parametrize("at", [0, 17, 99])
def test_the_digest_is_of_every_item_in_memory(at: int) -> None:
    items, labels = torch.from_numpy(ITEMS), torch.arange(100)
    before = digest("pool", items, labels)
    assert digest("pool", items.clone(), labels.clone()) == before and len(before) == 16
    other = items.clone()
    other[at, 2] += 1
    relabelled = labels.clone()
    relabelled[at] += 1
    all_of_them = {
        before, digest("pool", other, labels), digest("pool", items, relabelled), digest("test", items, labels),
        digest("pool", items.view(100, 2, 2), labels), digest("pool", items, None),
    }  # fmt: skip
    assert len(all_of_them) == 6


def test_of_what_is_not_in_memory_some_items_are_read(tmp_path: Path) -> None:
    large = np.repeat(ITEMS, 10, axis=0)
    source = Counted(large)
    streamed = StreamedInputs(source)
    before, _ = digest("pool", streamed, None), source.read
    assert source.read <= LOOKS + 1  # and the first once more, for its shape
    np.save(tmp_path / "pool.npy", large)
    assert digest("pool", MappedInputs.open(tmp_path / "pool.npy"), None) == before  # wherever it lies
    for at in (0, len(large) - 1):
        other = large.copy()
        other[at] += 1
        assert digest("pool", StreamedInputs(Counted(other)), None) != before
    assert profile(streamed, None, Numbers())["digest_of"] == f"{LOOKS} of 1000 items"


def test_the_profile_counts_items_by_class_and_tells_numbers_apart() -> None:
    labels = torch.tensor([0, 2, 2])
    data = ActiveDataset.from_arrays(torch.zeros(3, 5), labels, torch.ones(2, 5), torch.tensor([0, 1]), name="mine")
    pool, test = dataset_inputs(data, RunSpec.model_validate({}))
    assert [(each.tags[0].key, each.tags[0].value) for each in (pool, test)] == [
        ("mlflow.data.context", "pool"), ("mlflow.data.context", "test"),
    ]  # fmt: skip
    assert json.loads(pool.dataset.profile) == {
        "num_rows": 3, "num_elements": 15, "item_shape": [5], "labels": "classes", "classes": 3,
        "items_by_class": {"0": 1, "1": 0, "2": 2},
    }  # fmt: skip
    assert pool.dataset.name == "mine" and pool.dataset.digest != test.dataset.digest
    told = profile(torch.zeros(4, 2), torch.tensor([1.0, 2.0, 3.0, 6.0]).double(), Numbers())
    assert (told["mean"], told["min"], told["max"]) == (3.0, 1.0, 6.0) and told["sd"] == pytest.approx(3.5**0.5)
    assert profile(torch.zeros(4, 2), None, data.target)["labels"] == "asked for"
