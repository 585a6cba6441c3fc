import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import (
    MAP,
    ActiveDataset,
    ActiveLearning,
    Ensemble,
    MCDropout,
    Round,
    Training,
    UserError,
)
from activebdl.data.inputs import sketch
from activebdl.strategies import Query, Selection, Strategy

Network = Callable[[], nn.Module]
FAST = MCDropout(Training(steps=30, learning_rate=0.01))


def cycle(dataset: ActiveDataset, network: Network, **options: Any) -> ActiveLearning:
    options = {"counts": (5, 10, 18), "posterior": FAST, "draws": 8, "test_draws": 8, "device": "cpu"} | options
    return ActiveLearning(dataset, network, **options)


def timeless(rounds: Sequence[Round]) -> list[Round]:
    """What must be equal between two runs: all but the clock."""
    return [replace(round, seconds={}, written_ms=0) for round in rounds]


def test_every_count_is_met_and_no_item_is_asked_for_twice(dataset: ActiveDataset, network: Network) -> None:
    rounds = list(cycle(dataset, network))
    assert [round.n_labels for round in rounds] == [5, 10, 18]
    assert [len(round.ids) for round in rounds] == [5, 5, 8]
    ids = [id for round in rounds for id in round.ids]
    assert len(set(ids)) == 18
    assert dataset.labels is not None
    for round in rounds:
        assert list(round.labels) == dataset.labels[list(round.ids)].tolist()
        assert sum(map(sum, round.confusion)) == 60
        assert set(round.metrics) == {"accuracy", "nll", "ece", "brier"}
        assert round.metrics["accuracy"] == sum(round.confusion[c][c] for c in range(3)) / 60


def test_it_learns(dataset: ActiveDataset, network: Network) -> None:
    method = MCDropout(Training(steps=200, learning_rate=0.01))
    rounds = list(cycle(dataset, network, counts=(3, 60), posterior=method))
    assert rounds[-1].metrics["accuracy"] > 0.8  # three blobs; one in three by guessing


def test_the_seed_decides_everything(dataset: ActiveDataset, network: Network) -> None:
    first = timeless(list(cycle(dataset, network)))
    torch.rand(7)  # the global generator has no say
    assert timeless(list(cycle(dataset, network))) == first
    assert timeless(list(cycle(dataset, network, seed=1))) != first


def test_strategies_share_the_start_and_its_network(dataset: ActiveDataset, network: Network) -> None:
    bald, random = (list(cycle(dataset, network, strategy=name)) for name in ("bald", "random"))
    assert timeless(bald[:1]) == timeless(random[:1])
    assert bald[1].ids != random[1].ids


def seeing(seen: list[list[int]]) -> Strategy:
    """A strategy that takes the first items there are, and tells what it was shown."""

    def select(query: Query) -> Selection:
        seen.append(query.unlabelled.tolist())
        return Selection(query.unlabelled[: query.quantity])

    return Strategy("seeing", joint=select)


def test_candidates_are_all_that_a_strategy_sees(dataset: ActiveDataset, network: Network) -> None:
    seen: list[list[int]] = []
    rounds = list(cycle(dataset, network, counts=(5, 7, 9, 40), strategy=seeing(seen), candidates=6))
    assert [len(ids) for ids in seen] == [6, 6, 31]  # never fewer than are asked for
    labelled: set[int] = set()
    for before, ids in zip(rounds, seen, strict=False):
        labelled |= set(before.ids)
        assert ids == sorted(set(ids)) and not labelled & set(ids)
    assert seen[0] != seen[1]


def test_a_joint_strategy_gets_predictions_features_and_items(dataset: ActiveDataset, network: Network) -> None:
    shapes: list[tuple[int, ...]] = []

    def look(query: Query) -> Tensor:
        ids = query.unlabelled[:7]
        assert isinstance(dataset.pool, Tensor)
        assert torch.equal(query.items(ids), dataset.pool[ids])
        shapes.extend([tuple(query.model.predictions(ids).shape), tuple(query.model.features(ids).shape)])
        return ids[: query.quantity]

    list(cycle(dataset, network, counts=(5, 7), strategy=look))
    assert shapes == [(7, 8, 3), (7, 16)]


def test_candidates_beyond_the_pool_are_the_pool(dataset: ActiveDataset, network: Network) -> None:
    whole = timeless(list(cycle(dataset, network)))
    assert timeless(list(cycle(dataset, network, candidates=len(dataset.pool)))) == whole
    few = timeless(list(cycle(dataset, network, candidates=8)))
    assert few[0] == whole[0] and few[1].ids != whole[1].ids


def test_the_network_is_fresh_in_every_round(dataset: ActiveDataset) -> None:
    made: list[nn.Module] = []

    def network() -> nn.Module:
        made.append(nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 3)))
        return made[-1]

    list(cycle(dataset, network))
    assert len(made) == len(set(map(id, made)))
    assert len(made) >= 3


def test_random_needs_no_draws_over_the_pool(dataset: ActiveDataset, network: Network) -> None:
    looked_at: list[int] = []

    class Counting:
        def __init__(self, x: Tensor) -> None:
            self.x = x

        def __len__(self) -> int:
            return len(self.x)

        def __getitem__(self, ids: Tensor) -> Tensor:
            looked_at.extend(ids.tolist())
            return self.x[ids]

    counting = replace(dataset, pool=Counting(dataset.pool[torch.arange(120)]))
    sketch(counting.pool)
    known_by = set(looked_at)
    looked_at.clear()
    rounds = list(cycle(counting, network, strategy="random"))
    asked = {id for round in rounds for id in round.ids}
    assert len(known_by) == 16 and set(looked_at) <= asked | known_by  # by which the journal knows the pool again


def test_the_test_set_touches_no_choice(dataset: ActiveDataset, network: Network) -> None:
    other = replace(dataset, test=dataset.test[torch.arange(60)] + 100, test_labels=dataset.test_labels.flip(0))
    chosen = [[round.ids for round in cycle(data, network)] for data in (dataset, other)]
    assert chosen[0] == chosen[1]


# ---- stopping and going on ----


@pytest.mark.parametrize("strategy", ["bald", "power_bald", "random"])
@pytest.mark.parametrize("stop", ["after 1 round", "after 2 rounds", "before asking", "before recording"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    dataset: ActiveDataset, network: Network, tmp_path: Path, stop: str, strategy: str
) -> None:
    whole = timeless(list(cycle(dataset, network, strategy=strategy)))
    path = tmp_path / "journal.sqlite"
    interrupted = cycle(dataset, network, strategy=strategy, journal=path)
    _interrupt(interrupted, stop)
    resumed = list(cycle(dataset, network, strategy=strategy, journal=path))
    assert timeless(resumed) == whole
    again = list(cycle(dataset, network, strategy=strategy, journal=path))
    assert again == resumed  # nothing is left to do, and the clock too is the journal's


def _interrupt(run: ActiveLearning, stop: str) -> None:
    class Stop(Exception):
        pass

    def fail(*_: object, **__: object) -> Any:
        raise Stop

    rounds = iter(run)
    next(rounds)
    if stop == "after 2 rounds":
        next(rounds)
    elif stop == "before asking":
        run.oracle.submit = fail  # type: ignore[method-assign]
    elif stop == "before recording":
        run._record = fail  # type: ignore[method-assign]
    if stop.startswith("before"):
        with pytest.raises(Stop):
            next(rounds)
    rounds.close()  # type: ignore[attr-defined]


def test_a_journal_of_another_run_is_refused(dataset: ActiveDataset, network: Network, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    next(iter(cycle(dataset, network, journal=path)))
    with pytest.raises(UserError, match="its seed is 0, not 1"):
        next(iter(cycle(dataset, network, journal=path, seed=1)))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"posterior": MCDropout(Training(steps=31, learning_rate=0.01))}, "posterior"),
        ({"draws": 9}, "draws"),
        ({"start": "balanced"}, "start"),
        ({"network": lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 3))}, "network"),
    ],
)
def test_a_journal_of_another_protocol_is_refused(
    dataset: ActiveDataset, network: Network, tmp_path: Path, options: dict[str, Any], what: str
) -> None:
    path = tmp_path / "journal.sqlite"
    next(iter(cycle(dataset, network, journal=path)))
    with pytest.raises(UserError, match=f"its {what} is"):
        next(iter(cycle(dataset, options.pop("network", network), journal=path, **options)))


def test_a_network_or_score_that_cannot_work_costs_no_label(dataset: ActiveDataset, network: Network) -> None:
    def oracle(items: Tensor) -> list[int]:
        raise AssertionError("a label was asked for")

    for bad, message in (
        (lambda: nn.Linear(2, 3), "no nn.Dropout module"),
        (lambda: nn.Sequential(nn.Dropout(), nn.Linear(2, 4)), "one column per class"),
        (lambda: nn.Sequential(nn.Dropout(), nn.Linear(5, 3)), "cannot read items of shape"),
    ):
        with pytest.raises(UserError, match=message):
            cycle(dataset, bad, oracle=oracle)
    for score, message in (
        (lambda log_probs: log_probs[:, 0], "one number per item"),
        (lambda log_probs: log_probs.foo, "fails on predictions"),
    ):
        with pytest.raises(UserError, match=message):
            cycle(dataset, network, oracle=oracle, strategy=score)


def test_a_score_that_fails_later_is_told(dataset: ActiveDataset, network: Network) -> None:
    """What two made-up items do not show."""

    def late(log_probs: Tensor) -> Tensor:
        return log_probs[:, 0, 0] if len(log_probs) == 2 else log_probs[10_000]

    with pytest.raises(
        UserError, match=r"'late' fails on predictions \[\d+, 8, 3\]: IndexError: .*\(test_loop.py, line"
    ):
        list(cycle(dataset, network, strategy=late))


def softened() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3), nn.LogSoftmax(dim=1))


class WithoutModule(MAP):
    """An inference method whose posterior has no network."""

    has_features = False


def looks(query: Query) -> Tensor:
    return query.unlabelled[query.model.features(query.unlabelled)[:, 0].argsort()[: query.quantity]]


@pytest.mark.parametrize("strategy", ["k_centre", "badge", "bait", Strategy("looks", joint=looks, needs=("features",))])
def test_features_that_there_will_not_be_cost_no_label(
    dataset: ActiveDataset, network: Network, strategy: str | Strategy
) -> None:
    def oracle(items: Tensor) -> list[int]:
        raise AssertionError("a label was asked for")

    name = strategy if isinstance(strategy, str) else strategy.name
    for posterior in (FAST, MAP(Training(steps=3)), Ensemble(members=2)):
        with pytest.raises(UserError, match=f"'{name}' looks at what the last layer reads: .*without softmax behind"):
            cycle(dataset, softened, oracle=oracle, strategy=strategy, posterior=posterior)
    with pytest.raises(UserError, match=f"'{name}' looks at .*: WithoutModule has no module"):
        cycle(dataset, network, oracle=oracle, strategy=strategy, posterior=WithoutModule(Training(steps=3)))
    cycle(dataset, network, strategy=strategy)
    for other in ("bald", "batchbald", "random"):
        cycle(dataset, softened, strategy=other)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": (5, 121)}, "budget of 121 labels is above the pool, which has 120 items"),
        ({"counts": (5, 5)}, "must rise"),
        ({"counts": ()}, "must rise"),
        ({"counts": (0, 5)}, "must rise from at least 1"),
        ({"draws": 1}, "'bald' measures how much draws of the posterior disagree"),
        ({"draws": 1, "strategy": "batchbald"}, "'batchbald' measures how much draws of the posterior disagree"),
        ({"draws": 0}, "draws is a whole number, 1 or more, not 0"),
        ({"candidates": 0}, "at least 1 of the candidates, not 0"),
        ({"posterior": MAP()}, "those of MAP never do"),
        ({"strategy": "balt"}, "Unknown strategy 'balt'"),
        ({"oracle": "oracel"}, "Unknown oracle 'oracel'"),
        ({"start": "warm"}, "Unknown start 'warm'"),
        ({"device": "tpu9000"}, "device 'tpu9000' cannot be used here"),
    ],
)
def test_mistakes_are_told_before_any_work(dataset: ActiveDataset, options: dict[str, Any], message: str) -> None:
    def network() -> nn.Module:
        raise AssertionError("work was done")

    with pytest.raises(UserError, match=message):
        cycle(dataset, network, **options)


def test_a_balanced_start_has_as_many_of_each_class(dataset: ActiveDataset, network: Network) -> None:
    first = next(iter(cycle(dataset, network, counts=(7, 9), start="balanced")))
    assert sorted(first.labels.count(c) for c in range(3)) == [2, 2, 3]


class Talkative(MAP):
    """Tells of each fit how many labels it had."""

    def fit(self, network: Network, labelled: Any, **options: Any) -> Any:
        posterior = super().fit(network, labelled, **options)
        object.__setattr__(posterior, "diagnostics", {"labels": float(len(labelled))})
        return posterior


def test_what_a_fit_tells_of_itself_is_recorded(dataset: ActiveDataset, network: Network, tmp_path: Path) -> None:
    options: dict[str, Any] = {"posterior": Talkative(Training(steps=2)), "strategy": "margin"}
    rounds = list(cycle(dataset, network, journal=tmp_path / "journal", **options))
    assert [round.diagnostics for round in rounds] == [{"labels": 5.0}, {"labels": 10.0}, {"labels": 18.0}]
    again = list(cycle(dataset, network, journal=tmp_path / "journal", **options))
    assert again == rounds
    assert all(round.diagnostics == {} for round in cycle(dataset, network))


def test_what_a_later_version_recorded_beside_is_passed_over(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    rounds = list(cycle(dataset, network, journal=tmp_path / "journal"))
    with contextlib.closing(sqlite3.connect(tmp_path / "journal", isolation_level=None)) as db:
        db.execute("UPDATE rounds SET results = json_set(results, '$.regret', 0.5)")
    assert list(cycle(dataset, network, journal=tmp_path / "journal")) == rounds
