"""The consensus is what brute force, and EM written out, say."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activebdl.oracles._consensus import class_probabilities, dawid_skene, majority
from activebdl.oracles.noisy import draw_confusions
from tests.oracles.desk import C

votes_of_items = st.dictionaries(
    st.integers(0, 500), st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, C - 1)), max_size=30
)


@given(votes_of_items)
def test_the_majority_is_a_class_that_no_other_has_more_votes_than(votes: dict[int, dict[str, int]]) -> None:
    consensus = majority(votes)
    assert consensus.keys() == {id for id, said in votes.items() if said}
    for id, label in consensus.items():
        said = list(votes[id].values())
        assert all(said.count(label) >= said.count(other) for other in range(C))
        backwards = dict(reversed(votes[id].items()))
        assert majority({id: backwards}) == {id: label}


def test_ties_favour_no_class() -> None:
    ties = majority({id: {"a": 0, "b": 2, "c": 3} for id in range(3000)})
    for label in (0, 2, 3):  # 1,000 each, with a standard deviation of 26
        assert abs(list(ties.values()).count(label) - 1000) < 100


def em(votes: dict[int, dict[str, int]], n_classes: int, steps: int = 20, pseudo: bool = True) -> np.ndarray[Any, Any]:
    """Dawid and Skene, written out: the probabilities [N, C] after so many steps from the shares of the votes."""
    ids, who = sorted(votes), sorted({w for said in votes.values() for w in said})
    seen = sorted({label for said in votes.values() for label in said.values()})
    q = np.array([[list(votes[i].values()).count(c) / len(votes[i]) for c in seen] for i in ids])
    prior = q.mean(axis=0)
    confusion: dict[str, Any] = {}
    for step in range(steps + 1):
        for w in who:
            table = np.zeros((len(seen), len(seen)))
            for c in range(len(seen)):
                for a in range(len(seen)):
                    table[c, a] = (4.0 if a == c else 1 / (n_classes - 1)) if pseudo else 1e-10
                    table[c, a] += sum(q[n, c] for n, i in enumerate(ids) if votes[i].get(w) == seen[a])
            confusion[w] = table / table.sum(axis=1, keepdims=True)
        if step == steps:
            break
        q = np.array(
            [prior * np.prod([confusion[w][:, seen.index(a)] for w, a in votes[i].items()], axis=0) for i in ids]
        )
        q /= q.sum(axis=1, keepdims=True)
        prior = q.mean(axis=0)
    whole = np.zeros((len(ids), n_classes))
    whole[:, seen] = q
    return whole


def some_votes(n: int, seed: int, classes: int = 3, annotators: int = 4) -> tuple[dict[int, dict[str, int]], list[int]]:
    """Votes of annotators of 70 to 90 %, each of whom leaves an item out at times."""
    rng = np.random.default_rng(seed)
    matrices = draw_confusions(annotators, classes, (0.7, 0.9), seed)
    true = rng.integers(classes, size=n)
    votes: dict[int, dict[str, int]] = {}
    for i in range(n):
        voters = [w for w in range(annotators) if w == i % annotators or rng.random() < 0.8]
        votes[3 * i] = {f"w{w}": int(rng.choice(classes, p=matrices[w][true[i]])) for w in voters}
    return votes, true.tolist()


@pytest.mark.parametrize("seed", range(2))
def test_dawid_skene_is_em_written_out(seed: int) -> None:
    votes, _ = some_votes(40, seed)
    probabilities = em(votes, 3)
    found = class_probabilities(votes, 3)
    for id, row in zip(sorted(votes), probabilities, strict=True):
        assert [found[id][c] for c in range(3)] == pytest.approx(row.tolist(), abs=1e-9)
    assert dawid_skene(votes, 3) == {id: row.argmax() for id, row in zip(sorted(votes), probabilities, strict=True)}


def test_without_a_prior_or_with_one_in_the_first_step_alone_the_consensus_is_another() -> None:
    votes, _ = some_votes(12, 1, classes=4, annotators=3)
    plain = em(votes, 4, pseudo=False).argmax(axis=1)
    assert any(dawid_skene(votes, 4)[id] != label for id, label in zip(sorted(votes), plain, strict=True))


def test_dawid_skene_does_not_depend_on_the_order_and_leaves_the_global_generator_alone() -> None:
    votes, _ = some_votes(40, 7)
    votes |= {1000 + id: {"w0": 0, "w1": 1} for id in range(10)}  # crowd-kit draws where votes are level
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    found = class_probabilities(votes, 3)
    assert np.random.random() == expected
    backwards = {id: dict(reversed(said.items())) for id, said in reversed(votes.items())}
    assert class_probabilities(backwards, 3) == found  # to the last bit


def test_dawid_skene_of_very_little() -> None:
    assert dawid_skene({}, 3) == {}
    assert dawid_skene({5: {}}, 3) == {}
    assert dawid_skene({5: {"a": 2}}, 3) == {5: 2}
    assert dawid_skene({5: {"a": 1}, 9: {"b": 1}, 2: {}}, 2) == {5: 1, 9: 1}


def test_dawid_skene_s_ties_favour_no_class() -> None:
    ties = dawid_skene({id: {"a": 0, "b": 1} for id in range(400)}, 2)
    assert abs(sum(ties.values()) - 200) < 40  # with a standard deviation of 10


def test_known_labels_teach_who_is_right() -> None:
    """Two against one on every item, and the two are wrong together: only what is known can tell."""
    votes = {i: {"a": i % 2, "b": 1 - i % 2, "c": 1 - i % 2} for i in range(40)}
    assert dawid_skene(votes, 2) == {i: 1 - i % 2 for i in range(40)}
    taught = dawid_skene(votes, 2, {i: i % 2 for i in range(30)})
    assert all(taught[i] == i % 2 for i in range(30, 40))


def shares_right(n: int, consensus: Callable[[Any], Mapping[int, int]]) -> float:
    """Of n items of 10 classes with 5 annotators, the mean over 8 crowds."""
    shares: list[bool] = []
    for seed in range(8):
        votes, true = some_votes(n, seed, classes=10, annotators=5)
        found = consensus(votes)
        shares += [found[id] == c for id, c in zip(sorted(votes), true, strict=True)]
    return float(np.mean(shares))


def test_dawid_skene_is_above_the_majority_where_votes_are_many() -> None:
    assert shares_right(300, lambda votes: dawid_skene(votes, 10)) > shares_right(300, majority) + 0.005


def test_dawid_skene_holds_where_votes_are_few_and_the_maximum_likelihood_does_not() -> None:
    def likelihood(votes: dict[int, dict[str, int]]) -> dict[int, int]:
        return dict(zip(sorted(votes), em(votes, 10, pseudo=False).argmax(axis=1).tolist(), strict=True))

    few = shares_right(20, lambda votes: dawid_skene(votes, 10))
    assert few >= shares_right(20, majority)
    assert few > shares_right(20, likelihood) + 0.02
