"""What every strategy promises, tested for all that are registered, and what all of them refuse."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from activebdl import UserError, resolve
from activebdl.strategies import strategies
from tests.strategies.fakes import Known, breaks_ties_at_random, keeps_its_promises, pool, pools, seeds, target_of

PLAIN = strategies.names()
RULED = ["power_bald", "softmax_margin", "softrank_variation_ratios", "power_gaussian_bald", "power_per_cost_mean_std"]
SAMPLING = ["random", "badge", *RULED]
CLUSTERING = ["k_means", "typiclust"]  # they draw, but in an order of the items' own
NAMES = [*PLAIN, *RULED, "per_cost_bald", "per_cost_epistemic_variance"]
CERTAIN = [name for name in NAMES if name not in SAMPLING and name not in CLUSTERING]
LOOKING = [name for name in NAMES if resolve(name).needs_model and name != "k_centre"]  # at predictions


def target(name: str) -> str:
    return target_of(resolve(name))


# ---- what is chosen ----


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(data=st.data(), seed=seeds)
def test_distinct_unlabelled_ids_that_the_querys_generator_decides(name: str, data: st.DataObject, seed: int) -> None:
    known = data.draw(pools(gaps=True, target=target(name)))
    keeps_its_promises(name, known, data.draw(st.integers(1, len(known.unlabelled))), seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("labelled", [0, 3])
def test_one_item_that_is_left_is_chosen(name: str, labelled: int) -> None:
    known = pool(9, 0, labelled, set_aside=8 - labelled, target=target(name))
    assert known.choose(name, 1) == known.choose(name, 7) == known.unlabelled


def without_ties(kind: str) -> Known:
    """Seven unlabelled items, two labelled: scores differ, also those of votes, for item i has i of 12 for class 1."""
    known = pool(9, 3, classes=2, draws=12, target=kind)
    if kind == "classes":
        vote = torch.arange(12) < torch.tensor([0, 1, 2, 3, 4, 5, 6, 3, 4])[:, None]
        known = replace(known, log_probs=known.log_probs.sort(dim=-1).values)
        known.log_probs[vote] = known.log_probs[vote].flip(-1)
    return replace(known, labelled=[7, 8])


ORDER = torch.tensor([5, 8, 2, 0, 6, 1, 7, 4, 3])


@pytest.mark.parametrize("name", CERTAIN)
@pytest.mark.parametrize("quantity", [1, 3, 7])
def test_the_order_of_the_pool_and_the_seed_do_not_matter_where_there_are_no_ties(name: str, quantity: int) -> None:
    known = without_ties(target(name))
    chosen = known.choose(name, quantity, seed=1)
    assert known.choose(name, quantity, seed=2) == chosen
    assert ORDER[known.in_order(ORDER).choose(name, quantity, seed=3)].tolist() == chosen


@pytest.mark.parametrize("name", CLUSTERING)
def test_the_order_of_the_pool_does_not_matter_to_clusters_under_one_seed(name: str) -> None:
    known = without_ties("classes")
    chosen = {tuple(known.choose(name, 3, seed)) for seed in range(20)}
    assert {tuple(ORDER[known.in_order(ORDER).choose(name, 3, seed)].tolist()) for seed in range(20)} == chosen
    assert len(chosen) > 1


@pytest.mark.parametrize("name", SAMPLING)
def test_the_order_of_the_pool_does_not_matter_to_how_often_an_item_is_drawn(name: str) -> None:
    known, trials = without_ties(target(name)), 250
    moved = known.in_order(ORDER)
    strategy = resolve(name)
    here = torch.stack([strategy.select(known.query(2, seed)).ids for seed in range(trials)])
    there = torch.stack([ORDER[strategy.select(moved.query(2, trials + seed)).ids] for seed in range(trials)])
    for ids, others in zip(here.T, there.T, strict=True):  # of the first choice, of the second
        a, b = ids.bincount(minlength=9), others.bincount(minlength=9)
        assert float(((a - b).square() / (a + b).clamp_min(1)).sum()) < 33  # chi-square of 6: 1 in 100,000
    assert len(here.unique(dim=0)) > 3


@pytest.mark.parametrize("name", NAMES)
def test_ties_are_broken_at_random_not_by_position(name: str) -> None:
    breaks_ties_at_random(name)


# ---- what is refused ----


@pytest.mark.parametrize("name", NAMES)
def test_nothing_asked_for_and_nothing_left_are_told(name: str) -> None:
    known = pool(6, 0, labelled=2, target=target(name))
    for quantity in (0, -3):
        with pytest.raises(UserError, match=f"asks for at least 1 item, not {quantity}"):
            known.choose(name, quantity)
    with pytest.raises(UserError, match="nothing to choose from"):
        replace(known, labelled=list(range(6))).choose(name, 1)


WRONG = {
    "classes": [
        (torch.nan, "NaN for item 40"),
        (-torch.inf, "gave item 40 a log-probability of -inf.* take log_softmax"),
        (torch.inf, "gave item 40 a log-probability of inf, and none is above 0"),
        (0.7, "gave item 40 a log-probability of 0.7, and none is above 0"),
    ],
    "numbers": [
        (torch.nan, "gave item 40 a mean or variance of nan"),
        (torch.inf, "gave item 40 a mean or variance of inf"),
        (-torch.inf, "gave item 40 a mean or variance of -inf"),
        (0.0, "gave item 40 a variance of 0, and it must be above 0"),
        (-0.5, "gave item 40 a variance of -0.5, and it must be above 0"),
    ],
}


@pytest.mark.parametrize("name", LOOKING)
def test_predictions_that_cannot_be_are_refused_with_the_item(name: str) -> None:
    known = pool(45, 0, labelled=3, target=target(name))
    assert 40 in known.unlabelled
    for value, message in WRONG[target(name)]:
        known.log_probs[40, 2, 1] = value
        with pytest.raises(UserError, match=message):
            known.choose(name, 2)


@pytest.mark.parametrize("name", [name for name in LOOKING if resolve(name).needs_disagreement])
def test_draws_that_cannot_disagree_are_refused(name: str) -> None:
    known = pool(9, 0, labelled=2, draws=4, target=target(name))
    with pytest.raises(UserError, match="at least 2 draws of the posterior, and there is 1"):
        replace(known, log_probs=known.log_probs[:, :1]).choose(name, 2)
    with pytest.raises(UserError, match="All 4 draws of the posterior are the same function"):
        replace(known, log_probs=known.log_probs[:, :1].expand(-1, 4, -1)).choose(name, 2)


def test_what_compares_draws_needs_disagreement() -> None:
    """The scores of one distribution, and what goes by features or inputs alone, do without."""
    without = {
        "badge",
        "bait",
        "k_centre",
        "k_means",
        "least_confidence",
        "margin",
        "max_entropy",
        "random",
        "typiclust",
    }
    assert {name for name in PLAIN if not resolve(name).needs_disagreement} == without


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_the_other_kind_are_refused(name: str) -> None:
    meant = resolve(name).target
    other = pool(9, 0, target="classes" if meant == "numbers" else "numbers")
    if meant == "any":
        assert len(other.choose(name, 2)) == 2
        return
    with pytest.raises(UserError, match=f"'{name}' is for {meant}, and the labels are {other.target}"):
        other.choose(name, 2)


@pytest.mark.parametrize("name", ["badge", "bait", "k_centre"])
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("labelled", [[], [4]])
def test_features_that_cannot_be_are_refused_with_the_item(name: str, value: float, labelled: list[int]) -> None:
    known = replace(pool(9, 0), labelled=labelled)
    known.features[4, 1] = value
    if labelled and name == "badge":  # which looks at the unlabelled alone
        assert len(known.choose(name, 2)) == 2
        return
    with pytest.raises(UserError, match="features of item 4 hold NaN or infinity"):
        known.choose(name, 2)


@pytest.mark.parametrize("name", CLUSTERING)
def test_inputs_that_cannot_be_are_refused_with_the_item(name: str) -> None:
    known = pool(9, 0)
    known.features[4, 1] = torch.nan
    with pytest.raises(UserError, match="input of item 4 holds NaN or infinity"):
        known.choose(name, 2)
