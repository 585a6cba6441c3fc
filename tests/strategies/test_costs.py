"""What a label costs: scores for each unit of it, and who is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from activebdl import ActiveDataset, ActiveLearning, MCDropout, Normalise, Query, Training, UserError, resolve
from activebdl.journal import Journal
from activebdl.listings import listings
from activebdl.scoring import Scorer
from activebdl.strategies import strategy_names
from activebdl.strategies.bald import bald
from tests.conftest import KnownDraws

N, LABELLED = 12, [5, 8]
REST = torch.tensor([i for i in range(N) if i not in LABELLED])
seeds = st.integers(0, 10_000)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(seed: int = 0) -> Tensor:
    return (2 * torch.randn(N, 4, 3, generator=seeded(seed), dtype=torch.double)).log_softmax(-1)


def query(costs: Tensor | None, quantity: int = 3, seed: int = 0) -> Query:
    scorer = Scorer(KnownDraws(table(seed)), torch.arange(N)[:, None], Normalise(), torch.device("cpu"), 4)
    return Query(REST, torch.tensor(LABELLED), quantity, seeded(seed), scorer, costs=costs)


@st.composite
def prices(draw: st.DrawFn) -> Tensor:
    return torch.tensor(draw(st.lists(st.floats(1e-3, 1e3), min_size=N, max_size=N)), dtype=torch.double)


@given(costs=prices(), seed=seeds, quantity=st.integers(1, len(REST)))
def test_the_score_is_divided_by_the_items_own_cost(costs: Tensor, seed: int, quantity: int) -> None:
    chosen = resolve("per_cost_bald").select(query(costs, quantity, seed))
    ratio = bald(table(seed)) / costs  # by id, as costs are
    assert chosen.scores is not None
    torch.testing.assert_close(chosen.scores, ratio[chosen.ids], rtol=1e-12, atol=0)
    assert len(chosen.ids.unique()) == quantity and not set(chosen.ids.tolist()) & set(LABELLED)
    torch.testing.assert_close(chosen.scores, ratio[REST].sort(descending=True).values[:quantity], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("rule", "score"), [("", "bald"), ("", "margin"), ("power_", "bald"), ("softrank_", "margin")])
@given(cost=st.floats(1e-3, 1e3), seed=seeds)
def test_equal_costs_change_nothing(rule: str, score: str, cost: float, seed: int) -> None:
    costs = torch.full((N,), cost, dtype=torch.double)
    chosen = resolve(f"{rule}per_cost_{score}").select(query(costs, 4, seed))
    assert chosen.ids.tolist() == resolve(f"{rule}{score}").select(query(None, 4, seed)).ids.tolist()


def test_a_rule_weighs_the_score_per_cost() -> None:
    """With one item asked for, the power rule takes each in proportion to (score / cost) ^ beta."""
    costs = torch.linspace(1, 5, N, dtype=torch.double)
    trials, count = 1500, torch.zeros(N)
    asked = query(costs, 1)
    for seed in range(trials):
        count[resolve("power_per_cost_bald", beta=2).select(replace(asked, generator=seeded(seed))).ids] += 1
    weights = (bald(table()) / costs) ** 2
    expected = torch.where(torch.isin(torch.arange(N), REST), weights, 0.0)
    expected = expected / expected.sum()
    sd = (expected * (1 - expected) / trials).sqrt()
    assert bool(((count / trials - expected).abs() <= 4.5 * sd + 1e-12).all())


def test_what_must_never_be_asked_stays_last_and_negative_scores_are_refused() -> None:
    def never(log_probs: Tensor) -> Tensor:
        return torch.where(torch.arange(len(log_probs)) == 0, -torch.inf, log_probs[:, 0, 0].exp())

    costs = torch.linspace(1, 5, N, dtype=torch.double)
    asked = query(costs, len(REST))
    strategy = replace(resolve(never), needs_costs=True)
    scores = strategy.select(asked).scores
    assert scores is not None and scores[-1] == -torch.inf and bool((scores[:-3] > 0).all())
    negative = replace(resolve(lambda log_probs: -log_probs[:, 0, 0].exp()), needs_costs=True)
    with pytest.raises(UserError, match="must not be negative"):
        negative.select(asked)
    rounding = replace(resolve(lambda log_probs: log_probs[:, 0, 0].exp() * 0 - 1e-9), needs_costs=True)
    found = rounding.select(asked).scores
    assert found is not None and found.abs().max() == 0


def test_names_with_the_prefix() -> None:
    assert {"per_cost_bald", "power_per_cost_bald", "softrank_per_cost_gaussian_bald"} <= set(strategy_names())
    assert "per_cost_random" not in strategy_names() and "per_cost_typiclust" not in strategy_names()
    found = resolve("power_per_cost_bald", beta=4)
    assert found.needs_costs and found.needs_disagreement and found.label == "power_per_cost_bald(beta=4)"
    assert not resolve("power_bald").needs_costs
    assert "per_cost_" in dict(listings()["strategies"]())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("per_cost_random", "'random' has no scores, so 'per_cost_' cannot be put in front of it"),
        ("power_per_cost_typiclust", "'typiclust' has no scores"),
        ("per_cost_balt", "Unknown strategy 'balt'"),
        ("per_cost_power_bald", "'per_cost_' stands behind the rule: power_per_cost_bald"),
    ],
)
def test_names_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(name)


def test_a_query_without_costs_is_told() -> None:
    with pytest.raises(UserError, match="no costs, by which 'per_cost_bald' divides"):
        resolve("per_cost_bald").select(query(None))


# ---- the data set, the loop and the oracle ----


X, Y = torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])
BAD: list[tuple[Any, str]] = [
    ([1.0, 0.0, 2.0, 3.0], "Costs are positive .* and that of item 1 is 0.0"),
    ([1.0, 2.0, 3.0, float("nan")], "that of item 3 is nan"),
    ([1.0, 2.0, float("inf"), 1.0], "that of item 2 is inf"),
    ([-1.0, 2.0, 3.0, 1.0], "that of item 0 is -1.0"),
    ([1.0, 2.0, 3.0], "one for each of the 4 pool items, and 3 were given"),
    ([[1.0, 2.0, 3.0, 4.0]], "costs must be one number per item"),
]


@pytest.mark.parametrize(("costs", "message"), BAD)
def test_costs_that_cannot_be(costs: Any, message: str) -> None:
    whole, items = TensorDataset(X, Y), TensorDataset(X)
    for some in (np.array(costs), torch.tensor(costs)):
        with pytest.raises(UserError, match=message):
            ActiveDataset.from_arrays(X, Y, X, Y, costs=some)
        with pytest.raises(UserError, match=message):
            ActiveDataset.from_datasets(items, whole, classes=["a", "b", "c"], costs=some)
    with pytest.raises(UserError, match=message):
        replace(ActiveDataset.from_arrays(X, Y, X, Y), costs=torch.tensor(costs))


def test_costs_are_kept_in_float64() -> None:
    for some in (np.array([1, 2, 3, 4]), torch.tensor([1.0, 2.0, 3.0, 4.0])):
        data = ActiveDataset.from_arrays(X, Y, X, Y, costs=some)
        assert data.costs is not None
        assert data.costs.dtype == torch.double and data.costs.tolist() == [1, 2, 3, 4]
    data = ActiveDataset.from_datasets(TensorDataset(X), TensorDataset(X, Y), classes="abc", costs=np.ones(4))
    assert data.costs is not None and data.costs.tolist() == [1, 1, 1, 1]
    assert ActiveDataset.from_arrays(X, Y, X, Y).costs is None


def cycle(dataset: ActiveDataset, network: Callable[[], nn.Module], **options: Any) -> ActiveLearning:
    method = MCDropout(Training(steps=20, learning_rate=0.01))
    return ActiveLearning(
        dataset, network, counts=(5, 9), posterior=method, draws=8, test_draws=4, device="cpu", **options
    )


def test_without_costs_no_work_is_done(dataset: ActiveDataset) -> None:
    def network() -> nn.Module:
        raise AssertionError("work was done")

    with pytest.raises(UserError, match="'power_per_cost_bald' divides by .* the data set 'blobs' has no costs"):
        cycle(dataset, network, strategy="power_per_cost_bald")


def test_the_loop_buys_what_is_cheap_and_writes_down_what_it_paid(
    dataset: ActiveDataset, network: Callable[[], nn.Module], tmp_path: Path
) -> None:
    costs = torch.where(torch.arange(120) % 2 == 0, 1e-6, 1e6).double()
    dear = replace(dataset, costs=costs)
    rounds = list(cycle(dear, network, strategy="per_cost_max_entropy", journal=tmp_path / "journal"))
    assert all(id % 2 == 0 for id in rounds[1].ids)
    with Journal(tmp_path / "journal") as journal:
        for number, found in enumerate(rounds):
            paid = journal.annotations(number, 0)
            assert {id: paid[id].cost for id in found.ids} == {id: float(costs[id]) for id in found.ids}
    with Journal(tmp_path / "free") as journal:
        list(cycle(dataset, network, strategy="max_entropy").run(journal))
        assert {answer.cost for answer in journal.annotations(0, 0).values()} == {0.0}
