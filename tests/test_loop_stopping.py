"""The cycle with stopping rules and a stop set."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from activebdl import (
    ActiveDataset,
    CostLimit,
    LabelLimit,
    Numbers,
    OverallUncertainty,
    Round,
    StablePredictions,
    StoppingRule,
    UserError,
    ValidationAccuracy,
    WallTime,
)
from activebdl.journal import Journal
from activebdl.journal_reading import read_rounds
from tests.five_rounds import COUNTS, cycle
from tests.test_loop import Network, timeless

NEVER = OverallUncertainty(below=1e-9)


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
        ({"validation": -1}, "validation is a whole number, 0 or more, not -1"),
        ({"stop_set": 0}, "stop_set is a whole number, 1 or more, not 0"),
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
