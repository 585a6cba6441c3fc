"""The cycle with stopping rules, validation items and a stop set."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import (
    MAP,
    ActiveDataset,
    ActiveLearning,
    Annotation,
    CostLimit,
    LabelLimit,
    MCDropout,
    Numbers,
    OverallUncertainty,
    Query,
    Request,
    Round,
    Selection,
    StablePredictions,
    StoppingRule,
    Training,
    UserError,
    ValidationAccuracy,
    WallTime,
)
from activebdl.journal import Journal
from activebdl.journal_reading import read_rounds
from activebdl.oracles.function import FunctionOracle
from activebdl.randomness import generator
from activebdl.strategies import Strategy
from tests.conftest import SlowOracle

Network = Callable[[], nn.Module]
COUNTS = (15, 20, 26, 32, 40)
NEVER = OverallUncertainty(below=1e-9)


def cycle(dataset: ActiveDataset, network: Network, **options: Any) -> ActiveLearning:
    fast = MCDropout(Training(steps=30, learning_rate=0.01))
    options = {"counts": COUNTS, "posterior": fast, "draws": 8, "test_draws": 8, "device": "cpu"} | options
    return ActiveLearning(dataset, network, **options)


def timeless(rounds: Sequence[Round]) -> list[Round]:
    return [replace(round, seconds={}, written_ms=0) for round in rounds]


def validation_ids(path: Path) -> list[int]:
    with Journal(path) as journal:
        asked = journal.request(-1, 0)
    assert asked is not None
    return list(asked.ids)


# ---- where it ends ----


def test_a_rule_ends_the_run_after_its_round_and_changes_nothing_before(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    whole = timeless(list(cycle(dataset, network)))
    path = tmp_path / "journal.sqlite"
    rounds = timeless(list(cycle(dataset, network, stop=LabelLimit(26), journal=path)))
    assert [round.n_labels for round in rounds] == [15, 20, 26]
    assert [round.stopped for round in rounds] == [None, None, "there are 26 labels, of 26 that were wanted"]
    assert [replace(round, stopped=None) for round in rounds] == whole[:3]
    with Journal(path) as journal:
        assert journal.request(3, 0) is None  # nobody was asked for labels that are not wanted


def test_any_rule_of_a_list_ends_it_and_the_budget_where_none_does(dataset: ActiveDataset, network: Network) -> None:
    ended = list(cycle(dataset, network, stop=[WallTime(1000), LabelLimit(20)]))
    assert [round.n_labels for round in ended] == [15, 20]
    whole = list(cycle(dataset, network, stop=[WallTime(1000), NEVER]))
    assert [round.n_labels for round in whole] == list(COUNTS) and whole[-1].stopped is None


@pytest.mark.parametrize("moment", ["after a round", "before asking", "before recording", "before recording the last"])
def test_a_resumed_run_stops_where_an_uninterrupted_one_does(
    dataset: ActiveDataset, network: Network, tmp_path: Path, moment: str
) -> None:
    priced = replace(dataset, costs=torch.linspace(0.1, 3, 120).double())
    options: dict[str, Any] = {"stop": NEVER, "validation": 10, "strategy": "power_bald"}
    kappas = [round.watch["kappa"] for round in list(cycle(priced, network, **options))[1:]]
    means = [(a + b) / 2 for a, b in itertools.pairwise(kappas)]  # after rounds 2, 3 and 4
    options["stop"] = StablePredictions(kappa=max(means[:2]), rounds=2) & CostLimit(1)
    whole = timeless(list(cycle(priced, network, **options)))
    assert len(whole) == (3 if means[0] >= means[1] else 4) and whole[-1].stopped is not None

    path = tmp_path / "journal.sqlite"
    run = cycle(priced, network, journal=path, **options)
    rounds = iter(run)
    for _ in range(len(whole) - 1 if moment.endswith("last") else 2):
        next(rounds)

    class Killed(Exception):
        pass

    def fail(*_: object, **__: object) -> Any:
        raise Killed

    if moment == "before asking":
        run.oracle.submit = fail  # type: ignore[method-assign]
    elif moment != "after a round":
        run._record = fail  # type: ignore[method-assign]
    if moment != "after a round":
        with pytest.raises(Killed):
            next(rounds)
    rounds.close()  # type: ignore[attr-defined]
    resumed = list(cycle(priced, network, journal=path, **options))
    assert timeless(resumed) == whole
    assert list(cycle(priced, network, journal=path, **options)) == resumed


def test_what_is_recorded_is_not_asked_of_the_rule_again(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    """Also a rule that would think otherwise today."""
    asked: list[int] = []

    @dataclass(frozen=True)
    class Fickle(StoppingRule):
        def reason(self, rounds: Sequence[Round]) -> str | None:
            asked.append(len(rounds))
            return "today" if len(rounds) == 3 else None

    path = tmp_path / "journal.sqlite"
    first = list(cycle(dataset, network, stop=Fickle(), journal=path))
    assert asked[-3:] == [1, 2, 3] and len(first) == 3
    asked.clear()
    assert list(cycle(dataset, network, stop=Fickle(), journal=path)) == first
    assert 3 not in asked  # but for the trial on made-up rounds


# ---- validation items ----


class Recording(MAP):
    """Tells what it was trained on."""

    def fit(self, network: Network, labelled: Any, **options: Any) -> Any:
        trained_on.append(labelled.inputs)
        return super().fit(network, labelled, **options)


trained_on: list[Tensor] = []


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
    with pytest.raises(UserError, match=r"poll failed: ConnectionError: gone \(test_loop_stopping.py, line \d+\)"):
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


def test_costs_add_up_and_the_time_of_validation_is_the_first_rounds(dataset: ActiveDataset, network: Network) -> None:
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


# ---- the stop set ----


def test_the_stop_set_changes_no_choice_and_no_choice_changes_it(dataset: ActiveDataset, network: Network) -> None:
    plain = timeless(list(cycle(dataset, network)))
    watched = cycle(dataset, network, stop=NEVER, stop_set=30)
    rounds = timeless(list(watched))
    assert [replace(round, watch={}) for round in rounds] == plain and all(round.watch for round in rounds)
    assert len(watched.watched) == 30
    assert torch.equal(cycle(dataset, network, stop=NEVER, stop_set=30, strategy="random").watched, watched.watched)
    assert not torch.equal(cycle(dataset, network, stop=NEVER, stop_set=30, seed=1).watched, watched.watched)
    assert len(cycle(dataset, network, stop=NEVER).watched) == 120  # no more than the pool has
    assert len(cycle(dataset, network, stop=WallTime(1)).watched) == 0  # nobody looks
    assert all(round.watch == {} for round in plain)


def test_what_is_watched_is_what_the_model_predicts(dataset: ActiveDataset, network: Network, tmp_path: Path) -> None:
    """The pool is the test set too, so that the confusion tells how often each class is predicted in it."""
    assert dataset.labels is not None
    both = replace(dataset, test=dataset.pool, test_labels=dataset.labels)
    path = tmp_path / "journal.sqlite"
    rounds = list(cycle(both, network, stop=NEVER, journal=path))
    predicted = [torch.tensor(record.results["predicted"]) for record in read_rounds(path)]
    for round, classes in zip(rounds, predicted, strict=True):
        assert classes.bincount(minlength=3).tolist() == [sum(row[c] for row in round.confusion) for c in range(3)]
        assert round.metrics["accuracy"] == pytest.approx(float((classes == dataset.labels).double().mean()))
        assert 0 < round.watch["uncertainty"] < torch.tensor(3.0).log()
    assert "kappa" not in rounds[0].watch
    for round, (before, now) in zip(rounds[1:], itertools.pairwise(predicted), strict=True):
        agreed = float((before == now).double().mean())
        by_chance = sum(float((before == c).double().mean() * (now == c).double().mean()) for c in range(3))
        assert round.watch["kappa"] == pytest.approx((agreed - by_chance) / (1 - by_chance))


def test_numbers_have_an_uncertainty_and_a_validation_error_in_their_own_units() -> None:
    x = 4 * torch.rand(60, 1, generator=torch.Generator().manual_seed(0)) - 2
    data = ActiveDataset.from_arrays(x, 500 + 100 * x[:, 0], x, 500 + 100 * x[:, 0], numbers=Numbers())

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

    options: dict[str, Any] = {"validation": 8, "strategy": "gaussian_bald"}
    rounds = list(cycle(data, network, stop=OverallUncertainty(1e-3), **options))
    assert all(round.watch.keys() == {"uncertainty"} and 5 < round.watch["uncertainty"] < 300 for round in rounds)
    assert {"rmse", "nll", "size"} <= rounds[0].validation.keys()
    for rule in (StablePredictions(), ValidationAccuracy(0.9)):
        with pytest.raises(UserError, match=f"'{type(rule).__name__}' is for classes, and the labels are numbers"):
            cycle(data, network, stop=rule, **options)


# ---- journals, and mistakes ----


def test_a_journal_of_an_older_version_goes_on(dataset: ActiveDataset, network: Network, tmp_path: Path) -> None:
    priced = replace(dataset, costs=torch.linspace(1, 9, 120).double())
    whole = timeless(list(cycle(priced, network)))
    path = tmp_path / "journal.sqlite"
    rounds = iter(cycle(priced, network, journal=path))
    next(rounds)
    next(rounds)
    rounds.close()  # type: ignore[attr-defined]
    with Journal(path) as journal:
        identity = journal.about("identity")
        for key in ("stop", "validation", "stop_set", "costs", "scoring"):
            del identity[key]
        journal.note("identity", identity)
        for record in (journal.round(0), journal.round(1)):
            assert record is not None and record.results["cost"] > 0
        journal._database.execute("UPDATE rounds SET results = json_remove(results, '$.cost', '$.stopped')")
    for options, what in (
        ({"stop": LabelLimit(30)}, "stop is None"),
        ({"validation": 5}, "validation is 0, not 5"),
        ({"scoring": "race"}, "scoring is full"),
    ):
        with pytest.raises(UserError, match=f"its {what}"):
            next(iter(cycle(priced, network, journal=path, **options)))
    assert timeless(list(cycle(priced, network, journal=path))) == whole


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"stop": LabelLimit(30)}, "stop is LabelLimit"),
        ({"validation": 0}, "validation is 5, not 0"),
        ({"stop": OverallUncertainty(0.1)}, "stop is LabelLimit"),
        ({"dataset": torch.ones(120)}, "costs is None"),
    ],
)
def test_a_journal_of_another_rule_is_refused(
    dataset: ActiveDataset, network: Network, tmp_path: Path, options: dict[str, Any], what: str
) -> None:
    path = tmp_path / "journal.sqlite"
    first: dict[str, Any] = {"stop": LabelLimit(26), "validation": 5, "journal": path}
    next(iter(cycle(dataset, network, **first)))
    costs = options.pop("dataset", None)
    with pytest.raises(UserError, match=f"its {what}"):
        next(iter(cycle(replace(dataset, costs=costs), network, **{**first, **options})))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 15}, "The 15 validation labels count among the 15 of the first round.*more than 15 labels"),
        ({"validation": -1}, "validation items are 0 or more, not -1"),
        ({"stop_set": 0}, "stop set has 1 item or more, not 0"),
        ({"stop": "cost"}, "stop takes a stopping rule, such as CostLimit"),
        ({"stop": ValidationAccuracy(0.9)}, "looks at validation items, and there are none"),
        ({"stop": CostLimit(9)}, "counts what annotations cost, and these cost nothing"),
        ({"stop": StoppingRule()}, "'StoppingRule' failed: NotImplementedError"),
    ],
)
def test_mistakes_are_told_before_any_work(dataset: ActiveDataset, options: dict[str, Any], message: str) -> None:
    def network() -> nn.Module:
        raise AssertionError("work was done")

    with pytest.raises(UserError, match=message):
        cycle(dataset, network, **options)
