"""Prefilters: what a strategy is shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import ActiveLearning
from activebdl.build import make_candidates
from activebdl.candidates import Candidates
from activebdl.data import ActiveDataset, Normalise
from activebdl.errors import UserError
from activebdl.runs import start
from activebdl.scoring import Scorer
from activebdl.spec import read_spec
from activebdl.strategies import Query, Selection, Strategy
from tests.conftest import KnownDraws


def query(log_probs: Tensor, ids: Tensor, quantity: int, seed: int = 0) -> Query:
    inputs = torch.arange(len(log_probs)).float()[:, None]
    scorer = Scorer(KnownDraws(log_probs), inputs, Normalise(), torch.device("cpu"), chunk=3)
    return Query(ids, torch.empty(0, dtype=torch.long), quantity, torch.Generator().manual_seed(seed), scorer)


def binary(p: Tensor) -> Tensor:
    """One draw, two classes: ``[N] -> [N, 1, 2]``."""
    return torch.stack([p, 1 - p], dim=1)[:, None].log()


def test_the_top_of_a_score_is_what_is_most_unsure() -> None:
    p = torch.tensor([0.5, 0.9, 0.6, 0.99, 0.52, 0.7, 0.45, 0.8])
    ids = torch.tensor([0, 1, 2, 3, 5, 6])  # 4 and 7 have a label
    shown = Candidates(top=3).best(query(binary(p), ids, quantity=2))
    assert shown.tolist() == [0, 2, 6]
    assert Candidates(top=1).best(query(binary(p), ids, quantity=4)).tolist() == [0, 2, 5, 6]  # never fewer than asked
    assert Candidates(top=3, by="least_confidence").best(query(binary(p), ids, 1)).tolist() == [0, 2, 6]


def test_at_random_they_are_some_of_the_unlabelled() -> None:
    ids = torch.arange(10, 60)
    shown = [Candidates(random=7).some(query(binary(torch.rand(60)), ids, 2, seed)) for seed in range(200)]
    assert all(len(some.unique()) == 7 and bool(torch.isin(some, ids).all()) for some in shown)
    assert len(torch.cat(shown).unique()) == 50
    assert torch.equal(Candidates().some(query(binary(torch.rand(60)), ids, 2)), ids)


@pytest.fixture
def dataset() -> ActiveDataset:
    """Two blobs with a wide gap, and some items on the border between them."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    x = 0.3 * torch.randn(60, 2, generator=rng) + torch.where(y == 0, -3.0, 3.0)[:, None]
    x[50:] = 0.05 * torch.randn(10, 2, generator=rng)
    return ActiveDataset.from_arrays(x, y, x, y, classes=["left", "right"])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))


def test_in_the_cycle_a_strategy_sees_the_border(dataset: ActiveDataset) -> None:
    seen: list[list[int]] = []

    def look(query: Query) -> Selection:
        seen.append(query.unlabelled.tolist())
        assert query.model.draws.count == 9  # its own draws, not those of the cheap score
        return Selection(query.unlabelled[: query.quantity])

    options: dict[str, Any] = {"counts": (20, 22), "draws": 9, "candidates": Candidates(top=8, draws=3)}
    rounds = list(ActiveLearning(dataset, network, strategy=Strategy("look", joint=look), **options))
    border = set(range(50, 60)) - set(rounds[0].ids)
    assert len(seen) == 1 and len(seen[0]) == 8
    assert len(set(seen[0]) & border) >= min(len(border), 8) - 1


def test_what_does_not_narrow_the_choice_changes_nothing(dataset: ActiveDataset) -> None:
    def ids(candidates: int | Candidates | None) -> list[tuple[int, ...]]:
        cycle = ActiveLearning(dataset, network, counts=(10, 14, 18), draws=5, candidates=candidates)
        return [round.ids for round in cycle]

    assert ids(None) == ids(60) == ids(Candidates(top=60)) != ids(Candidates(top=5))


def test_a_strategy_without_a_model_sees_everything(dataset: ActiveDataset) -> None:
    seen: list[int] = []

    def look(query: Query) -> Tensor:
        seen.append(len(query.unlabelled))
        return query.unlabelled[: query.quantity]

    known = Strategy("seeing_everything", joint=look, needs=())
    list(ActiveLearning(dataset, network, counts=(10, 14), strategy=known, candidates=Candidates(random=5, top=3)))
    assert seen == [50]


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (0, "at least 1 of the candidates, not 0"),
        ({"top": 0}, "at least 1 of the candidates, not 0"),
        ({"top": 5, "draws": 0}, "at least 1 of the draws, not 0"),
        ({"top": 5, "by": "batchbald"}, "Candidates are the top of a score, such as max_entropy, and 'batchbald'"),
        ({"top": 5, "by": "balt"}, "Unknown strategy 'balt'"),
        ({"best": 5}, "The setting 'candidates' has no setting 'best'; it has: random, top, by, draws"),
        ({"top": "many"}, "'top' of the setting 'candidates'"),
        ({"by": "bald"}, "are of the 'top' of a cheap score"),
        ({"random": 10, "draws": 7}, "are of the 'top' of a cheap score"),
    ],
)
def test_mistakes_are_told(candidates: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_candidates(read_spec("mnist-1000", {"candidates": candidates}))


def broken(log_probs: Tensor) -> Tensor:
    return log_probs[:, 0]


@pytest.mark.parametrize(
    ("by", "draws", "message"),
    [
        ("epistemic_variance", 5, "'epistemic_variance' is for numbers"),
        ("bald", 1, "'bald' measures how much draws .* needs at least 2, and draws is 1"),
        ("per_cost_bald", 5, "'per_cost_bald' divides by what the label of an item costs"),
        (f"{__name__}:broken", 5, "into one number per item"),
    ],
)
def test_a_cheap_score_that_cannot_work_is_refused_before_any_label(
    dataset: ActiveDataset, by: str, draws: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ActiveLearning(dataset, network, counts=(10, 14), draws=9, candidates=Candidates(top=5, by=by, draws=draws))


def test_a_number_of_candidates_is_one() -> None:
    some: Any = "all"
    with pytest.raises(UserError, match="at least 1 of the candidates, not 'all'"):
        Candidates(some)


def test_the_cheap_score_has_its_rule_and_its_costs() -> None:
    p = torch.tensor([0.5, 0.9, 0.6, 0.99, 0.52, 0.7, 0.45, 0.8])
    wanted = query(binary(p), torch.arange(8), quantity=2)
    dear = replace(wanted, costs=torch.tensor([50.0, 1, 50, 1, 50, 1, 50, 1]).double())
    assert Candidates(top=4, by="per_cost_max_entropy").best(dear).tolist() == [1, 3, 5, 7]
    shown = [Candidates(top=4, by="power_max_entropy").best(query(binary(p), torch.arange(8), 2, s)) for s in range(50)]
    assert len({tuple(ids.tolist()) for ids in shown}) > 1


@pytest.mark.parametrize(
    ("strategy", "candidates", "told"),
    [
        ("bald", 40, ["bald sees 40 at random in each round"]),
        ("bald", {"random": 40, "top": 3}, ["bald sees the first 3 by", "40 at random, or as many as it asks for, in"]),
        ("typiclust", 40, ["typiclust sees all unlabelled items in each round"]),
    ],
)
def test_a_run_tells_what_its_strategy_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str, candidates: Any, told: list[str]
) -> None:
    changes = {"strategy": strategy, "candidates": candidates, "posterior.training.steps": 2, "budget": 24}
    start(read_spec("digits-small", changes | {"query_size": 4}), tmp_path / "run")
    line = capsys.readouterr().out.splitlines()[1]
    assert all(words in line for words in told)


def test_in_words() -> None:
    assert str(Candidates()) == "all unlabelled items"
    assert str(Candidates(random=9000)) == "9,000 at random"
    assert str(Candidates(9000, 500, "bald", 7)) == "the first 500 by bald of 7 draws, out of 9,000 at random"
