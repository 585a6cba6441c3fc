"""What is no network, posterior or number at all is told before a label is asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from activebdl import ActiveDataset, ActiveLearning, Laplace, MCDropout, Training, UserError
from activebdl.targets import Classes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": ([1.0], [0])}, "is an ActiveDataset, .* not a tuple"),
        ({"network": nn.Linear(2, 3)}, r"makes a fresh network .* lambda: Net\(10\), not a Linear"),
        ({"network": None}, "makes a fresh network .* not a NoneType"),
        ({"posterior": "laplace"}, "posterior is an inference method .* not 'laplace'"),
        ({"posterior": Training(steps=3)}, "posterior is an inference method .* not a Training"),
        ({"posterior": Laplace}, "not the class Laplace itself"),
        ({"start": lambda query: query.unlabelled}, "start is 'balanced', .* not a function"),
        ({"draws": 1.5}, "draws is a whole number, 1 or more, not 1.5"),
        ({"test_draws": 0}, "test_draws is a whole number, 1 or more, not 0"),
        ({"test_draws": True}, "test_draws is a whole number, 1 or more, not True"),
        ({"chunk": 2.5}, "chunk is a whole number, 1 or more, not 2.5"),
        ({"validation": -1}, "validation is a whole number, 0 or more, not -1"),
        ({"seed": "7"}, "seed is a whole number, 0 or more, not '7'"),
    ],
)
def test_what_cannot_be_is_told_before_a_label_is_asked_for(
    wrong: dict[str, Any], message: str, dataset: ActiveDataset, network: Callable[[], nn.Module]
) -> None:
    def oracle(items: Tensor, ids: Tensor) -> Tensor:
        raise AssertionError("a label was asked for")

    given: dict[str, Any] = {
        "dataset": dataset,
        "network": network,
        "counts": (10, 20),
        "oracle": oracle,
        "device": "cpu",
        **wrong,
    }
    with pytest.raises(UserError, match=message):
        ActiveLearning(**given)


def test_whole_numbers_of_any_library_will_do(dataset: ActiveDataset, network: Callable[[], nn.Module]) -> None:
    numbers: Any = {"draws": np.int64(4), "test_draws": torch.tensor(2), "seed": np.uint8(3)}
    posterior = MCDropout(Training(steps=2))
    run = ActiveLearning(dataset, network, counts=(10,), posterior=posterior, device="cpu", **numbers)
    assert (run.draws, run.test_draws, run.seed) == (4, 2, 3)
    assert [round.n_labels for round in run] == [10]


def test_classes_are_known_by_their_names() -> None:
    pool, labels = torch.rand(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])
    made = ActiveDataset.from_arrays(pool, labels, pool, labels, classes=[np.int64(0), 1])  # type: ignore[list-item]
    assert made.classes == ("0", "1")
    with pytest.raises(UserError, match="'cat' is the name of two"):
        Classes(("cat", "dog", "cat"))
