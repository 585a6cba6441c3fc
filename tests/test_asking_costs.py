"""Budgets in cost: never overspent, and nothing left that they could pay."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from activebdl import ActiveDataset, Annotation, UserError
from activebdl.journal import Journal
from tests.conftest import SlowOracle
from tests.scripted import Scripted, truth_of
from tests.test_loop import Network, cycle, timeless

pytestmark = pytest.mark.usefixtures("quick_looks")


@pytest.mark.parametrize("abstains", [0.0, 0.4])
@pytest.mark.parametrize("max_cost", [1.0, 7.3, 20.0, 60.0])
@pytest.mark.parametrize("strategy", ["bald", "random"])
def test_a_budget_in_cost_is_never_overspent_and_no_label_is_left_that_it_could_pay(
    dataset: ActiveDataset, network: Network, tmp_path: Path, max_cost: float, abstains: float, strategy: str
) -> None:
    truth, path = truth_of(dataset), tmp_path / "journal.sqlite"
    prices = 1 + 2 * torch.rand(120, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    refuses = {id for id in range(120) if torch.rand(1, generator=torch.Generator().manual_seed(id)) < abstains}

    class Charging(Scripted):
        def price(self, ids: Sequence[int]) -> Sequence[float]:
            return prices[list(ids)].tolist()

        def poll(self, ticket: str) -> Sequence[Annotation]:
            return [
                Annotation(id, None if id in refuses else int(truth[id]), "ann", float(prices[id]))
                for id in self.requests[-1].ids
            ]

    options: dict[str, Any] = {"counts": (5, 10, 15, 20), "max_cost": max_cost, "strategy": strategy}
    oracle = Charging(truth)
    if max_cost < float(prices.min()) or max_cost == 1.0:
        with pytest.raises(UserError, match=r"The budget in cost of 1 pays no label: the cheapest may cost 1\.0"):
            cycle(dataset, network, oracle=oracle, journal=path, **options)
        return
    rounds = list(cycle(dataset, network, oracle=oracle, journal=path, **options))
    asked = {id for request in oracle.requests for id in request.ids}
    paid = sum(float(prices[id]) for id in asked)
    assert paid <= max_cost
    with Journal(path) as journal:
        assert journal.paid() == pytest.approx(paid)
        ended = journal.about("ended") or rounds[-1].stopped
    if rounds[-1].n_labels < 20:
        assert paid + min(float(prices[id]) for id in range(120) if id not in asked) > max_cost
        assert ended is not None and f"budget in cost of {max_cost:g} is spent" in ended
    labelled = {id for round in rounds for id in round.ids}
    assert labelled == asked - refuses
    assert [round.n_labels for round in rounds[:-1]] == [5, 10, 15, 20][: len(rounds) - 1]
    assert timeless(list(cycle(dataset, network, oracle=Charging(truth), journal=path, **options))) == timeless(rounds)


def test_tenths_pay_for_as_many_labels_as_they_should(dataset: ActiveDataset, network: Network) -> None:
    """Ten times .1 is 1, though not in floats; and a budget that pays all that is wanted stops nothing."""

    class Tenths(Scripted):
        def price(self, ids: Sequence[int]) -> Sequence[float]:
            return [0.1] * len(ids)

        def poll(self, ticket: str) -> Sequence[Annotation]:
            return [replace(answer, cost=0.1) for answer in super().poll(ticket)]

    oracle = Tenths(truth_of(dataset))
    rounds = list(cycle(dataset, network, oracle=oracle, max_cost=1.0, counts=range(1, 12), strategy="random"))
    assert [round.n_labels for round in rounds] == list(range(1, 11))
    assert rounds[-1].stopped == "the budget in cost of 1 is spent: 1 paid"
    exactly = list(cycle(dataset, network, oracle=oracle, max_cost=1.0, counts=(5, 10)))
    assert [round.stopped for round in exactly] == [None, None]
    everything = list(cycle(dataset, network, oracle=oracle, max_cost=99.0, counts=(5, 120), strategy="random"))
    assert [round.stopped for round in everything] == [None, None]


def test_an_oracle_that_takes_more_than_its_price_is_told(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    class Dear(Scripted):
        def price(self, ids: Sequence[int]) -> Sequence[float]:
            return [1.0] * len(ids)

        def poll(self, ticket: str) -> Sequence[Annotation]:
            return [replace(answer, cost=1.5) for answer in super().poll(ticket)]

    path = tmp_path / "journal.sqlite"
    with pytest.raises(UserError, match=r"answers to item \d+ cost 1\.5, where the oracle's price for it is 1\."):
        list(cycle(dataset, network, oracle=Dear(truth_of(dataset)), max_cost=9.0, journal=path))
    with Journal(path) as journal:
        assert len(journal.annotations(0, 0)) == 5
    with pytest.raises(UserError, match="where the oracle's price for it is 1"):  # of the next request: once for each
        list(cycle(dataset, network, oracle=Dear(truth_of(dataset)), max_cost=99.0, journal=path))
    with Journal(path) as journal:
        assert len(journal.annotations(1, 0)) == 5


def test_a_budget_in_cost_needs_prices(dataset: ActiveDataset, network: Network) -> None:
    truth = truth_of(dataset)
    with pytest.raises(
        UserError, match=r"needs to know what an answer may cost; give the oracle a method price\(ids\)"
    ):
        cycle(dataset, network, oracle=SlowOracle(truth), max_cost=5.0)
    with pytest.raises(UserError, match="these annotations cost nothing"):
        cycle(dataset, network, max_cost=5.0)
    for prices in ([1.0], [-1.0] * 120, "abc", None, [float("nan")] * 120):
        oracle = SlowOracle(truth)
        oracle.price = lambda ids, prices=prices: prices  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=r"price\(ids\) must give one number for each id, 0 or more"):
            cycle(dataset, network, oracle=oracle, max_cost=5.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="'max_cost' is a number above 0"):
            cycle(dataset, network, max_cost=wrong)
        with pytest.raises(UserError, match="'time_limit' is a number above 0"):
            cycle(dataset, network, time_limit=wrong)
