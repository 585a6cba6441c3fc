from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from activebdl import ABSTAIN, ActiveDataset, Annotation, Request, UserError
from activebdl.oracles import make_oracle, sort_annotations
from activebdl.oracles.function import FunctionOracle
from activebdl.targets import Classes, Label, Numbers

REQUEST = Request("round-0", (7, 3, 5), torch.arange(6).view(3, 2), Classes(("a", "b", "c")))
NUMBERS = Request("round-0", (7, 3, 5), torch.zeros(3, 2), Numbers())


def ask(function: Any, request: Request = REQUEST) -> list[tuple[int, Label]]:
    oracle = FunctionOracle(function)
    return [(annotation.id, annotation.label) for annotation in oracle.poll(oracle.submit(request))]


@pytest.mark.parametrize(
    "labels", [[2, 0, 1], (2, 0, 1), np.array([2, 0, 1], dtype=np.uint8), torch.tensor([2, 0, 1], dtype=torch.int32)]
)
def test_labels_come_as_any_kind_of_integers(labels: Any) -> None:
    assert ask(lambda items: labels) == [(7, 2), (3, 0), (5, 1)]


def test_none_and_minus_one_abstain() -> None:
    assert ask(lambda items: [None, 1, -1]) == [(7, ABSTAIN), (3, 1), (5, ABSTAIN)]


@pytest.mark.parametrize(
    "labels", [[2.5, 0, None], np.array([2.5, 0, np.nan]), torch.tensor([2.5, 0, float("nan")], dtype=torch.float64)]
)
def test_numbers_come_as_any_kind_and_nan_abstains(labels: Any) -> None:
    assert ask(lambda items: labels, NUMBERS) == [(7, 2.5), (3, 0.0), (5, ABSTAIN)]


def test_minus_one_is_a_number_like_any_other() -> None:
    assert ask(lambda items: [-1, -1.0, 3], NUMBERS) == [(7, -1.0), (3, -1.0), (5, 3.0)]


def test_a_network_or_an_array_of_objects_may_be_the_oracle() -> None:
    scale = torch.ones(1, requires_grad=True)
    assert ask(lambda items: torch.arange(3) * scale, NUMBERS) == [(7, 0.0), (3, 1.0), (5, 2.0)]
    assert ask(lambda items: np.array([1.0, None, 2.0], dtype=object), NUMBERS) == [(7, 1.0), (3, ABSTAIN), (5, 2.0)]


@pytest.mark.parametrize("options", [{"cost": float("nan")}, {"seconds": None}, {"cost": "abc"}])
def test_a_cost_that_is_no_number_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"annotation's {next(iter(options))} is a finite number"):
        Annotation(7, 1, **options)


@pytest.mark.parametrize("label", [float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused(label: float) -> None:
    kept, mistake = sort_annotations([Annotation(7, label), Annotation(3, 1)], NUMBERS.ids, NUMBERS.target)
    assert kept == [Annotation(3, 1.0)]
    assert "item 7 the label" in mistake and "finite numbers" in mistake


def test_the_function_gets_the_items_and_the_ids_when_it_wants_them() -> None:
    seen: list[Any] = []

    def function(items: Tensor, ids: Tensor) -> list[int]:
        seen.extend([items.tolist(), ids.tolist()])
        return [0, 0, 0]

    ask(function)
    assert seen == [[[0, 1], [2, 3], [4, 5]], [7, 3, 5]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"asked for 3 labels and gave an answer of shape \[2\]"),
        ([[0], [1], [2]], r"shape \[3, 1\]"),
        (2, r"shape \[\]"),
        ([0.0, 1.0, 2.0], "labels of type float64; labels are integers"),
        (["a", "b", "c"], "labels are integers"),
        ([[0], [1, 2], 3], "no array"),
    ],
)
def test_answers_of_the_wrong_kind_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(lambda items: labels)


def test_a_function_that_raises_is_told_with_its_error() -> None:
    with pytest.raises(UserError, match="oracle 'function' failed: ZeroDivisionError: .*by zero"):
        ask(lambda items: 1 // 0)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([Annotation(4, 0)], "item 4, which it was not asked for"),
        ([Annotation(7, 3)], "item 7 the label 3; labels run from 0 to 2"),
        ([Annotation(7, -2)], "label -2"),
        ([Annotation(7, 2, cost=-0.5)], "answer for item 7 costs -0.5, less than nothing"),
        ([(7, 1)], "must give annotations, not tuple"),
    ],
)
def test_bad_answers_are_told_and_the_good_ones_kept(found: list[Any], message: str) -> None:
    good = [Annotation(3, 1), Annotation(5, ABSTAIN)]
    kept, mistake = sort_annotations([*found, *good], REQUEST.ids, REQUEST.target)
    assert kept == good
    assert message in mistake
    assert sort_annotations(good, REQUEST.ids, REQUEST.target) == (good, "")
    assert "not NoneType" in sort_annotations(None, REQUEST.ids, REQUEST.target)[1]


def test_annotations_hold_plain_numbers() -> None:
    annotation = Annotation(np.int64(7), torch.tensor(2), cost=np.float32(0.5))  # type: ignore[arg-type]
    assert [type(value) for value in (annotation.id, annotation.label, annotation.cost)] == [int, int, float]
    assert Annotation(7, -1) != Annotation(7, ABSTAIN)  # the target tells what -1 means, not the annotation
    for label in ("2", [1], 1j, np.zeros(2), torch.zeros(2)):
        with pytest.raises(UserError, match="An annotation's label is an integer"):
            Annotation(7, label)  # type: ignore[arg-type]


def test_what_the_data_set_says_it_costs_is_paid_to_ones_own_function(dataset: ActiveDataset) -> None:
    priced = replace(dataset, costs=torch.arange(1.0, len(dataset.pool) + 1))
    oracle = make_oracle(lambda items: [0, None, 0], priced)
    assert [annotation.cost for annotation in oracle.poll(oracle.submit(REQUEST))] == [8, 4, 6]
    free = make_oracle(lambda items: [0, 0, 0], dataset)
    assert [annotation.cost for annotation in free.poll(free.submit(REQUEST))] == [0, 0, 0]


def test_the_datasets_own_labels(dataset: ActiveDataset) -> None:
    oracle = make_oracle("dataset", dataset)
    request = Request("r", (11, 4), dataset.pool[torch.tensor([11, 4])], dataset.target)
    labels = {annotation.id: annotation.label for annotation in oracle.poll(oracle.submit(request))}
    assert dataset.labels is not None
    assert labels == {11: int(dataset.labels[11]), 4: int(dataset.labels[4])}


def test_a_dataset_without_labels_needs_another_oracle(dataset: ActiveDataset) -> None:
    bare = ActiveDataset.from_arrays(dataset.pool[torch.arange(9)], None, torch.zeros(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(UserError, match="has no labels of its own"):
        make_oracle("dataset", bare)


def test_what_is_no_oracle_is_refused(dataset: ActiveDataset) -> None:
    for given in (3, lambda: [1], object()):
        with pytest.raises(UserError, match="An oracle is a name, a function"):
            make_oracle(given, dataset)
