"""The cycle with validation items: who they are, what they cost, and that nothing is trained on them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from activebdl import (
    MAP,
    ActiveDataset,
    Annotation,
    CostLimit,
    Query,
    Request,
    Round,
    Selection,
    Training,
    UserError,
    ValidationAccuracy,
)
from activebdl.journal import Journal
from activebdl.oracles.function import FunctionOracle
from activebdl.randomness import generator
from activebdl.strategies import Strategy
from tests.conftest import SlowOracle
from tests.five_rounds import COUNTS, cycle
from tests.test_loop import Network, timeless


def validation_ids(path: Path) -> list[int]:
    with Journal(path) as journal:
        asked = journal.request(-1, 0)
    assert asked is not None
    return list(asked.ids)


trained_on: list[Tensor] = []


class Recording(MAP):
    """Tells what it was trained on."""

    def fit(self, network: Network, labelled: Any, **options: Any) -> Any:
        trained_on.append(labelled.inputs)
        return super().fit(network, labelled, **options)


def test_validation_items_count_and_are_neither_trained_on_nor_chosen(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    shown: list[set[int]] = []

    def select(query: Query) -> Selection:
        shown.append({*query.unlabelled.tolist(), *query.labelled.tolist()})
        return Selection(query.unlabelled[: query.quantity])

    path = tmp_path / "journal.sqlite"
    trained_on.clear()
    options: dict[str, Any] = {"validation": 12, "posterior": Recording(Training(steps=3)), "journal": path}
    rounds = list(cycle(dataset, network, strategy=Strategy("first", joint=select), **options))
    held_out = validation_ids(path)
    assert len(set(held_out)) == 12
    assert [round.n_labels for round in rounds] == list(COUNTS)
    assert [len(round.ids) for round in rounds] == [3, 5, 6, 6, 8]
    assert len(shown) == 4 and not set.union(*shown) & set(held_out)
    assert [len(inputs) for inputs in trained_on] == [count - 12 for count in COUNTS]
    assert isinstance(dataset.pool, Tensor)
    secret = {tuple(item) for item in dataset.pool[held_out].tolist()}
    assert not secret & {tuple(item) for inputs in trained_on for item in inputs.tolist()}
    assert not {id for round in rounds for id in round.ids} & set(held_out)


def test_validation_metrics_are_those_of_a_test_set_of_the_same_items(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    path = tmp_path / "journal.sqlite"
    next(iter(cycle(dataset, network, validation=12, journal=path)))
    ids = torch.tensor(validation_ids(path))
    assert dataset.labels is not None
    same = replace(dataset, test=dataset.pool[ids], test_labels=dataset.labels[ids])
    for round in cycle(same, network, validation=12):
        assert round.validation.pop("size") == 12
        assert round.validation == pytest.approx(round.metrics)


def test_validation_items_depend_on_the_seed_alone(dataset: ActiveDataset, network: Network, tmp_path: Path) -> None:
    drawn: list[list[int]] = []
    for i, options in enumerate(({"strategy": "random"}, {"strategy": "bald", "start": "balanced"}, {"seed": 1})):
        next(iter(cycle(dataset, network, validation=12, journal=tmp_path / f"{i}", **options)))
        drawn.append(validation_ids(tmp_path / f"{i}"))
    assert drawn[0] == drawn[1] != drawn[2]
    for ids, seed in ((drawn[0], 0), (drawn[2], 1)):
        assert ids == torch.randperm(120, generator=generator(seed, 0, "validation"))[:12].tolist()


def test_validation_accuracy_ends_a_run(dataset: ActiveDataset, network: Network) -> None:
    seen = [round.validation["accuracy"] for round in cycle(dataset, network, validation=12)]
    rule = ValidationAccuracy(max(seen))
    rounds = list(cycle(dataset, network, validation=12, stop=rule))
    assert len(rounds) == seen.index(max(seen)) + 1
    stopped = rounds[-1].stopped
    assert stopped is not None and f"of 12 validation items are right; the target is {max(seen):g}" in stopped


@dataclass
class Charging(SlowOracle):
    """Charges for every answer; breaks down after some answers."""

    patience: int = 1000
    given: dict[int, float] = field(default_factory=dict)

    def poll(self, ticket: str) -> list[Annotation]:
        if len(self.given) >= self.patience:
            raise ConnectionError("gone")
        answers = super().poll(ticket)
        self.given |= {answer.id: 0.1 + answer.id / 7 for answer in answers}
        return [replace(answer, annotator="ann", cost=self.given[answer.id], seconds=0.5) for answer in answers]


@pytest.mark.usefixtures("quick_looks")
@pytest.mark.parametrize("patience", [4, 11, 13, 30])
def test_abstentions_are_replaced_and_paid_for_and_a_stop_in_the_middle_changes_nothing(
    dataset: ActiveDataset, network: Network, tmp_path: Path, patience: int
) -> None:
    assert dataset.labels is not None
    refuses = set(range(0, 120, 3))
    whole = Charging(dataset.labels, refuses=refuses)
    options: dict[str, Any] = {"validation": 12, "stop": CostLimit(300)}
    expected = timeless(list(cycle(dataset, network, oracle=whole, **options)))

    path = tmp_path / "journal.sqlite"
    breaking, mended = Charging(dataset.labels, refuses, patience=patience), Charging(dataset.labels, refuses=refuses)
    with pytest.raises(UserError, match=r"poll failed: ConnectionError: gone \(test_loop_validation.py, line \d+\)"):
        list(cycle(dataset, network, oracle=breaking, journal=path, **options))
    rounds = list(cycle(dataset, network, oracle=mended, journal=path, **options))
    assert timeless(rounds) == expected
    asked = [id for oracle in (breaking, mended) for id in oracle.given]
    assert len(asked) == len(set(asked)) and set(asked) == set(whole.given)
    assert [key.split("-attempt")[0] for key in dict.fromkeys(r.key for r in whole.requests)][:2] == ["validation"] * 2
    assert set(asked) & refuses
    labelled = {id for round in rounds for id in round.ids}
    assert not labelled & refuses and rounds[0].n_labels - len(rounds[0].ids) == 12
    assert rounds[-1].cost == pytest.approx(sum(0.1 + id / 7 for id in asked))


def test_costs_add_up_and_end_a_run_in_the_round_that_reaches_the_limit(
    dataset: ActiveDataset, network: Network
) -> None:
    assert dataset.labels is not None
    labels, costs = dataset.labels, torch.linspace(1, 9, 120).double()
    asked: list[int] = []

    def look_up(items: Tensor, ids: Tensor) -> Tensor:
        asked.extend(ids.tolist())
        return labels[ids]

    spent: list[float] = []
    rounds: list[Round] = []
    for round in cycle(dataset, network, oracle=FunctionOracle(look_up, costs=costs), validation=12):
        rounds.append(round)
        spent.append(float(costs[asked].sum()))
    assert len(asked) == 40
    assert [round.cost for round in rounds] == pytest.approx(spent)
    limit = (spent[1] + spent[2]) / 2
    options: dict[str, Any] = {"stop": CostLimit(limit), "validation": 12}
    ended = list(cycle(replace(dataset, costs=costs), network, **options))
    assert len(ended) == 3 and ended[1].cost < limit <= ended[2].cost


def test_the_annotators_time_for_validation_is_in_the_first_round(dataset: ActiveDataset, network: Network) -> None:
    assert dataset.labels is not None
    labels = dataset.labels.tolist()

    class Timed:
        def submit(self, request: Request) -> str:
            self.ids = request.ids
            return request.key

        def poll(self, ticket: str) -> list[Annotation]:
            return [Annotation(id, labels[id], seconds=2.0) for id in self.ids]

    rounds = list(cycle(dataset, network, oracle=Timed(), validation=12))
    assert [round.seconds["ask"] for round in rounds] == [30, 10, 12, 12, 16]
