"""Crowds: members are asked once, votes are kept, the consensus is what brute force and EM written out say."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from activebdl import (
    ABSTAIN,
    ActiveDataset,
    ActiveLearning,
    Annotation,
    MCDropout,
    Numbers,
    Request,
    Round,
    Training,
    UserError,
    Waiting,
)
from activebdl.journal import Journal
from activebdl.oracles import make_oracle
from activebdl.oracles._consensus import class_probabilities, dawid_skene, majority
from activebdl.oracles.crowd import Consensus, Crowd, draw_confusions
from activebdl.targets import Classes, Label
from tests.conftest import blobs, small_network

N, C = 400, 4
LABELS = torch.from_numpy(np.random.default_rng(5).integers(C, size=N))
DATA = ActiveDataset.from_arrays(torch.arange(N).float()[:, None], LABELS, torch.zeros(C, 1), torch.arange(C))

Script = Callable[[int], int | None]


@dataclass
class Member:
    """Answers one more item at each look, gives out all again, and counts who was asked for what."""

    script: Script
    cost: float = 1.0
    name: str = ""
    requests: list[Request] = field(default_factory=list)
    looks: int = 0
    at_once: int = 1

    @property
    def asked(self) -> list[int]:
        return [id for request in self.requests for id in request.ids]

    def submit(self, request: Request) -> str:
        self.requests.append(request)
        self.looks = 0
        return request.key

    def poll(self, ticket: str) -> list[Annotation]:
        self.looks += self.at_once
        request = next(r for r in self.requests[::-1] if r.key == ticket)
        assert all(float(item) == id for item, id in zip(request.items[:, 0], request.ids, strict=True))
        return [Annotation(id, self.script(id), "oracle", self.cost, 2.0) for id in request.ids[: self.looks]]

    def price(self, ids: Sequence[int]) -> list[float]:
        return [self.cost + 0.5] * len(ids)


@dataclass
class Desk:
    """Stands in for the loop: a journal of all that was said, in which the same again changes nothing."""

    journal: list[Annotation] = field(default_factory=list)
    submitted: int = 0

    def write(self, said: Sequence[Annotation]) -> None:
        for annotation in said:
            last = [a for a in self.journal if (a.id, a.annotator) == (annotation.id, annotation.annotator)][-1:]
            if not last or (last[0].label, last[0].role) != (annotation.label, annotation.role):
                self.journal.append(annotation)

    def answers(self) -> dict[int, int | float | None]:
        found: dict[int, int | float | None] = {}
        for annotation in self.journal:
            if annotation.role == "answer":
                found[annotation.id] = annotation.label
            elif annotation.role == "withdrawn":
                found.pop(annotation.id, None)
        return found

    def request(self, ids: Sequence[int], key: str = "round-0") -> Request:
        missing = tuple(id for id in ids if id not in self.answers())
        items = DATA.pool[torch.tensor(missing)]
        return Request(key, missing, items, DATA.target, history=tuple(self.journal), record=self.write)

    def ask(self, crowd: Crowd, ids: Sequence[int], key: str = "round-0", looks: int = 1000) -> int:
        """Asks until all is answered, or so many times; how many times."""
        if not set(ids) - self.answers().keys():
            return 0
        ticket = crowd.submit(self.request(ids, key))
        for look in range(looks):
            if not set(ids) - self.answers().keys():
                return look
            self.write(crowd.poll(ticket))
        return looks


def right(id: int) -> int:
    return int(LABELS[id])


def wrong(id: int) -> int:
    return (right(id) + 1) % C


def silent(id: int) -> None:
    return None


def simulated(seed: int = 0, **options: Any) -> Crowd:
    found = make_oracle("crowd", DATA, options=options, seed=seed)
    assert isinstance(found, Crowd)
    return found


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


@pytest.mark.parametrize("seed", range(4))
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
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    consensus = dawid_skene(votes, 3)
    assert np.random.random() == expected
    backwards = {id: dict(reversed(said.items())) for id, said in reversed(votes.items())}
    assert dawid_skene(backwards, 3) == consensus


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


@pytest.mark.parametrize(("n", "classes"), [(20, 10), (300, 10)])
def test_dawid_skene_is_above_the_majority_and_the_maximum_likelihood_of_few(n: int, classes: int) -> None:
    score: dict[str, float] = dict.fromkeys(("majority", "dawid_skene", "likelihood"), 0.0)
    for seed in range(8):
        votes, true = some_votes(n, seed, classes, annotators=5)
        plain = majority(votes) if n > 20 else dict(enumerate(em(votes, classes, 20, pseudo=False).argmax(1).tolist()))
        likelihood = list(plain.values()) if n == 20 else [plain[id] for id in sorted(votes)]
        found = {"majority": majority(votes), "dawid_skene": dawid_skene(votes, classes)}
        for name, consensus in found.items():
            score[name] += float(np.mean([consensus[id] == c for id, c in zip(sorted(votes), true, strict=True)])) / 8
        score["likelihood"] += float(np.mean([a == c for a, c in zip(likelihood, true, strict=True)])) / 8
    margin = 0.005
    assert score["dawid_skene"] > score["majority"] + (margin if n == 300 else -margin)
    if n == 20:
        assert score["dawid_skene"] > score["likelihood"] + 0.02


@pytest.mark.parametrize("consensus", ["majority", "dawid_skene"])
def test_slow_members_are_waited_for_and_their_votes_are_written_as_they_come(consensus: Consensus) -> None:
    members = {"ann": Member(right), "bob": Member(wrong, at_once=2), "cy": Member(right, cost=3.0, at_once=99)}
    desk = Desk()
    crowd = Crowd(members, consensus)
    ticket = crowd.submit(desk.request((7, 3, 5, 9)))
    first = crowd.poll(ticket)
    assert [a.id for a in desk.journal if a.annotator == "ann/oracle"] == [7]
    assert [a.id for a in desk.journal if a.annotator == "cy/oracle"] == [7, 3, 5, 9]
    assert [a.id for a in first] == ([7] if consensus == "majority" else [])  # Dawid and Skene need them all
    desk.write(first)
    for _ in range(2):
        desk.write(crowd.poll(ticket))
    assert len(desk.answers()) == (3 if consensus == "majority" else 0)
    desk.write(crowd.poll(ticket))
    assert desk.answers() == {id: right(id) for id in (7, 3, 5, 9)}
    assert list(crowd.poll(ticket)) == []
    votes = [a for a in desk.journal if a.role == "vote"]
    assert len(votes) == 12 and all(a.seconds == 2.0 for a in votes)
    assert sum(a.cost for a in desk.journal) == 4 * (1 + 1 + 3)
    assert all(a.cost == 0 and a.annotator == consensus for a in desk.journal if a.role == "answer")


def test_those_who_abstain_do_not_count_and_all_together_abstain() -> None:
    for consensus in ("majority", "dawid_skene"):
        desk = Desk()
        six = Member(lambda id: None if id == 4 else wrong(id))
        desk.ask(Crowd([Member(silent), six, Member(silent)], consensus), (4, 6))
        assert desk.answers() == {4: ABSTAIN, 6: wrong(6)}
        assert [a.label for a in desk.journal if a.role == "vote" and a.id == 4] == [ABSTAIN] * 3


@settings(max_examples=10)
@given(st.integers(0, 12), st.sampled_from(["majority", "dawid_skene"]), st.sampled_from([None, 2]))
def test_after_a_stop_nobody_is_asked_twice_and_the_answers_are_the_same(
    stop: int, consensus: Consensus, votes: int | None
) -> None:
    def members() -> list[Member]:
        scripts: list[Script] = [right, lambda id: (id * 7) % C, lambda id: None if id % 3 == 0 else right(id)]
        return [Member(script, at_once=k + 1) for k, script in enumerate(scripts)]

    batches = [("round-0", range(10)), ("round-1", range(10, 14))]
    whole, stopped = Desk(), Desk()
    crowd = Crowd(members(), consensus, votes)
    for key, ids in batches:
        whole.ask(crowd, ids, key)
    asked: list[tuple[int, int]] = []
    looks = stop
    for key, ids in batches:
        before, after = members(), members()
        looks -= stopped.ask(Crowd(before, consensus, votes), ids, key, looks)
        done = [(a.annotator, a.id) for a in stopped.journal if a.role == "vote"]
        stopped.ask(Crowd(after, consensus, votes), ids, key)
        for place, member in enumerate(after, 1):
            assert not {(f"member-{place}/oracle", id) for id in member.asked} & set(done)
        asked += [(place, id) for place, member in enumerate(after) for id in member.asked]
    assert len(asked) == len(set(asked))
    assert stopped.answers() == whole.answers()
    assert sorted(map(str, stopped.journal)) == sorted(map(str, whole.journal))  # nothing twice, all costs the same


def test_dawid_skene_answers_earlier_items_again_when_more_votes_tell_who_is_good() -> None:
    """Three poor annotators are wrong together on the first two items; the rest shows who is who."""
    rng = np.random.default_rng(0)

    def poor() -> Member:
        guesses = rng.integers(C, size=N)
        return Member(lambda id: wrong(id) if id < 2 else int(guesses[id]), at_once=999)

    good = Member(right, at_once=999)
    crowd = Crowd([good, Member(right, at_once=999), poor(), poor(), poor()], "dawid_skene")
    desk = Desk()
    desk.ask(crowd, (0, 1))
    assert desk.answers() == {0: wrong(0), 1: wrong(1)}
    said = len(desk.journal)
    desk.ask(crowd, range(2, 150), "round-1")
    again = [a for a in desk.journal[said:] if a.role == "answer" and a.id < 2]
    assert again == [Annotation(0, right(0), "dawid_skene"), Annotation(1, right(1), "dawid_skene")]
    assert desk.answers() == {id: right(id) for id in range(150)}
    assert len(good.asked) == len(set(good.asked)) == 150  # nobody voted again
    said = len(desk.journal)
    desk.ask(crowd, (150,), "round-2")
    assert [a.id for a in desk.journal[said:] if a.role == "answer"] == [150]  # what has not changed is not said again


def test_a_correction_by_hand_is_not_answered_again_and_teaches() -> None:
    # b and c are wrong together on everything; ann alone is right
    desk, members = Desk(), [Member(right, at_once=999), *(Member(wrong, at_once=999) for _ in range(2))]
    desk.ask(Crowd(members, "dawid_skene"), range(60))
    assert all(label == wrong(id) for id, label in desk.answers().items())
    fixes = [Annotation(id, right(id), "correction") for id in range(50)]
    desk.write(fixes)
    desk.ask(Crowd(members, "dawid_skene"), range(60, 80), "round-1")
    assert all(label == right(id) for id, label in desk.answers().items())
    assert not [a for a in desk.journal[desk.journal.index(fixes[-1]) :] if a.role == "answer" and a.id < 50][1:]


def test_some_of_the_members_see_each_item_and_all_of_them_as_many() -> None:
    members = [Member(right, cost=cost, at_once=999) for cost in (1.0, 2.0, 4.0, 8.0)]
    crowd, desk = Crowd(members, votes=2), Desk()
    desk.ask(crowd, range(N))
    seen = np.zeros((4, N), dtype=int)
    for place, member in enumerate(members):
        seen[place, member.asked] += 1
    assert (seen.sum(axis=0) == 2).all()
    pairs = seen @ seen.T
    assert np.abs(pairs.diagonal() - N / 2).max() < 40  # of 200, with a standard deviation of 10
    assert np.abs(pairs[np.triu_indices(4, 1)] - N / 6).max() < 30  # of 67, with 7.5
    assert crowd.price is not None
    for id, price in zip(range(N), crowd.price(range(N)), strict=True):
        paid = sum(a.cost for a in desk.journal if a.id == id)
        assert price == paid + 2 * 0.5


def test_the_price_is_the_sum_and_there_is_none_where_a_member_tells_none() -> None:
    crowd = simulated(cost=[1, 2, 3, 4])
    assert crowd.price is not None and list(crowd.price((3, 1))) == [20.0, 20.0]

    class Silent(Member):
        price = None  # type: ignore[assignment]

    assert Crowd([Member(right), Silent(right)]).price is None


def test_functions_may_be_members_and_a_failing_one_costs_the_others_nothing() -> None:
    calls: list[list[int]] = []

    def ann(items: Tensor, ids: Tensor) -> list[int]:
        calls.append(ids.tolist())
        return [right(id) for id in ids.tolist()]

    def bob(items: Tensor) -> list[int]:
        raise OSError("no network")

    desk = Desk()
    with pytest.raises(UserError, match="oracle 'bob' failed: OSError: no network"):
        desk.ask(Crowd([ann, bob]), (1, 2))
    assert [(a.annotator, a.id, a.role) for a in desk.journal] == [("ann", 1, "vote"), ("ann", 2, "vote")]
    desk.ask(Crowd({"ann": ann, "bob": Member(right)}), (1, 2))
    assert calls == [[1, 2]]
    assert desk.answers() == {1: right(1), 2: right(2)}


def test_a_member_that_breaks_is_told_in_a_sentence() -> None:
    class Broken(Member):
        def poll(self, ticket: str) -> list[Annotation]:
            raise KeyError("drawer")

    desk = Desk()
    with pytest.raises(UserError, match=r"crowd's member 'bob' failed: KeyError: 'drawer' \(test_crowd.py, line \d+\)"):
        desk.ask(Crowd({"ann": Member(right, at_once=9), "bob": Broken(right)}), (1, 2))
    assert [a.annotator for a in desk.journal] == ["ann/oracle"] * 2


def test_a_wrong_answer_of_a_member_is_told_and_the_good_ones_are_kept() -> None:
    desk = Desk()
    odd = Member(lambda id: 77 if id == 2 else -1, at_once=9)
    with pytest.raises(UserError, match="member 'member-1': .* item 2 the label 77; labels run from 0 to 3"):
        desk.ask(Crowd([odd]), (1, 2, 3))
    assert [(a.id, a.label) for a in desk.journal] == [(1, ABSTAIN), (3, ABSTAIN)]


def test_one_who_answers_later_stops_the_run_when_nobody_else_is_at_it() -> None:
    class Post(Member):
        def poll(self, ticket: str) -> list[Annotation]:
            if self.at_once == 0:
                raise Waiting("Letters take a week.")
            return super().poll(ticket)

    desk = Desk()
    slow, post = Member(right), Post(right, at_once=0)
    crowd = Crowd([post, slow])
    ticket = crowd.submit(desk.request((1, 2, 3)))
    for _ in range(2):
        assert list(crowd.poll(ticket)) == []  # the other one is still at it
    with pytest.raises(Waiting, match="a week"):
        crowd.poll(ticket)
    assert len(desk.journal) == 3
    post, slow = Post(right, at_once=9), Member(right)
    desk.ask(Crowd([post, slow]), (1, 2, 3))
    assert slow.asked == []
    assert desk.answers() == {id: right(id) for id in (1, 2, 3)}


def test_a_vote_that_is_taken_back_is_waited_for_and_the_answer_with_it() -> None:
    for consensus in ("majority", "dawid_skene"):
        ann, desk = Member(wrong, at_once=9), Desk()
        crowd = Crowd({"ann": ann, "bob": Member(right)}, consensus)
        ticket = crowd.submit(desk.request((1, 2, 3)))
        desk.write(crowd.poll(ticket))
        ann.requests[0].record([Annotation(1, None, "oracle", role="withdrawn")])  # from any thread, at any time
        assert 1 not in desk.answers()
        ann.script = right
        for _ in range(4):
            desk.write(crowd.poll(ticket))
        assert desk.answers().keys() == {1, 2, 3}
        assert desk.answers()[1] == right(1)
        again = Member(right)
        crowd = Crowd({"ann": again, "bob": Member(right)}, consensus)
        assert [a.id for a in crowd.poll(crowd.submit(desk.request((1, 2, 3, 4))))] == [4]
        assert again.asked == [4]


def test_members_get_their_own_part_of_the_request() -> None:
    class Shown(Member):
        shows_predictions = True

    ann, bob = Shown(right, name="ann"), Member(right, name="bob")
    crowd = Crowd([ann, bob])
    assert crowd.shows_predictions and not Crowd([bob]).shows_predictions
    history = (
        Annotation(5, 1, "ann/eve", role="vote"), Annotation(5, 2, "bob", role="vote"),
        Annotation(9, 0, "majority"), Annotation(9, 0, "ann", 2.5, role="vote"),
    )  # fmt: skip
    desk = Desk(list(history))
    predictions = torch.eye(4)[:3]
    crowd.poll(crowd.submit(replace(desk.request((4, 5, 6)), scores=(0.4, 0.5, 0.6), predictions=predictions)))
    (first,), (second,) = ann.requests, bob.requests
    assert first.ids == second.ids == (4, 6)
    assert first.key != second.key and first.scores == (0.4, 0.6)
    assert first.predictions is not None and first.predictions.tolist() == predictions[[0, 2]].tolist()
    assert second.predictions is None
    assert first.history == (Annotation(5, 1, "eve"), Annotation(9, 0, "ann", 2.5))
    assert second.history == (Annotation(5, 2, "bob"),)


def test_members_are_told_and_closed_also_when_one_fails() -> None:
    heard: list[object] = []

    class Listener(Member):
        def told(self, round: object) -> None:
            heard.append(round)

        def close(self) -> None:
            heard.append(self.name)
            raise OSError(self.name)

    crowd = Crowd([Listener(right, name="a"), Member(right, name="c"), Listener(right, name="b")])
    crowd.told("round")
    assert heard == ["round", "round"]
    assert crowd.progress is None
    with pytest.raises(OSError):
        crowd.close()
    assert sorted(map(str, heard[2:])) == ["a", "b"]


def test_simulated_annotators_are_as_good_as_asked_and_err_in_ways_of_their_own() -> None:
    matrices = np.array(draw_confusions(5, 10, (0.7, 0.9), seed=3))
    assert np.abs(matrices.sum(axis=2) - 1).max() < 1e-12 and matrices.min() >= 0
    accuracies = matrices.diagonal(axis1=1, axis2=2)
    assert accuracies.mean(axis=1) == pytest.approx([0.7, 0.75, 0.8, 0.85, 0.9])
    wrong = 1 - accuracies
    ratio = wrong / wrong.mean(axis=1, keepdims=True)
    assert ratio.min() >= 0.5 - 1e-12 and ratio.max() <= 1.5 + 1e-12 and (ratio.std(axis=1) > 0.1).all()
    largest = np.where(np.eye(10, dtype=bool), 0, matrices).max(axis=2) / wrong
    assert largest.mean() > 0.4  # one of nine others takes most of the errors; uniform ones would give it .11
    assert np.array(draw_confusions(5, 10, (0.7, 0.9), seed=3)).tolist() == matrices.tolist()
    assert np.array(draw_confusions(5, 10, (0.7, 0.9), seed=4)).tolist() != matrices.tolist()
    assert draw_confusions(1, 2, (0.6, 1.0), seed=0)[0][0][0] + draw_confusions(1, 2, (0.6, 1.0), 0)[0][1][1] == (
        pytest.approx(1.6)
    )


def test_the_crowd_by_name_votes_by_its_matrices_and_answers_better_than_each() -> None:
    desk, matrices = Desk(), [np.eye(C).tolist(), (np.ones((C, C)) / C).tolist(), np.eye(C)[::-1].tolist()]
    desk.ask(simulated(confusions=matrices, cost=0.5), range(N))
    by = {k: [int(a.label or 0) for a in desk.journal if a.annotator == f"annotator-{k}"] for k in (1, 2, 3)}
    assert by[1] == LABELS.tolist() and by[3] == (C - 1 - LABELS).tolist()
    assert abs(np.mean(np.array(by[2]) == LABELS.numpy()) - 0.25) < 0.09  # four standard deviations
    assert sum(a.cost for a in desk.journal) == 0.5 * 3 * N
    plain = Desk()
    plain.ask(simulated(), range(N))
    accuracy = {
        who: np.mean([a.label == right(a.id) for a in plain.journal if a.annotator == who])
        for who in ("dawid_skene", *(f"annotator-{k}" for k in range(1, 6)))
    }
    assert accuracy["dawid_skene"] > 0.97 > 0.94 > max(v for k, v in accuracy.items() if k != "dawid_skene")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Crowd([]), "at least one member"),
        (lambda: Crowd([Member(right)], cast(Consensus, "mean")), "majority or dawid_skene, not 'mean'"),
        (lambda: Crowd([Member(right)], votes=2), "Of 1 members 1 to all can vote on an item, not 2"),
        (lambda: Crowd([Member(right, name="a"), Member(right, name="a")]), "names of their own, .* 'a' is none"),
        (lambda: Crowd({"a/b": Member(right)}), "'a/b' is none"),
        (lambda: Crowd({"majority": Member(right)}), "'majority' is none"),
        (lambda: Crowd({"a": 3}), "int is neither"),
        (lambda: Crowd([Crowd([Member(right)])]), "cannot be the member of a crowd"),
        (lambda: simulated(annotators=0), "1 annotator or more, not 0"),
        (lambda: simulated(accuracy=(0.5, 1.5)), "from 0 to 1, not from 0.5 to 1.5"),
        (lambda: simulated(confusions=[[[1.0]]]), "is 1 x 1, and must be 4 x 4"),
        (lambda: simulated(abstain=-1), "'abstain' is from 0 to 1"),
    ],
)
def test_what_cannot_be_is_told(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


def test_numbers_and_data_without_labels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(4, 1)
    with pytest.raises(UserError, match="labels here are numbers"):
        make_oracle("crowd", ActiveDataset.from_arrays(x, torch.zeros(4), x, torch.zeros(4), numbers=Numbers()))
    with pytest.raises(UserError, match="labels here are numbers"):
        Crowd([Member(right)]).submit(Request("round-0", (1,), x[:1], Numbers()))
    with pytest.raises(UserError, match="has no labels of its own"):
        make_oracle("crowd", ActiveDataset.from_arrays(x, None, x[:2], torch.tensor([0, 1])))
    assert Request("round-0", (1,), x[:1], Classes(("a", "b"))).classes
    monkeypatch.setattr("activebdl.oracles._consensus.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs crowd-kit: pip install 'activebdl\[crowd\]'"):
        simulated()
    assert simulated(consensus="majority").votes == 5


@pytest.mark.usefixtures("quick_looks")
def test_the_cycle_goes_by_the_consensus_keeps_the_votes_and_takes_revisions(tmp_path: Path) -> None:
    x, y = blobs(260)
    data = ActiveDataset.from_arrays(x[:200], y[:200], x[200:], y[200:])

    def run(path: Path | None, rounds: int = 4) -> list[Round]:
        cycle = ActiveLearning(
            data,
            small_network,
            counts=(10, 20, 60, 120),
            posterior=MCDropout(Training(steps=20)),
            strategy="random",
            oracle=make_oracle("crowd", data, options={"accuracy": (0.5, 0.8), "votes": 3, "cost": 0.5}, seed=2),
            draws=2,
            test_draws=4,
            journal=path,
        )
        return list(itertools.islice(cycle, rounds))

    whole = run(tmp_path / "whole.sqlite")
    with Journal(tmp_path / "whole.sqlite") as journal:
        history = journal.history()
    answers: dict[int, list[Label]] = {}
    for said in history:
        if said.role == "answer":
            answers.setdefault(said.id, []).append(said.label)
    votes = [(said.id, said.annotator) for said in history if said.role == "vote"]
    assert len(votes) == len(set(votes)) == 3 * len(answers) == 3 * 120
    assert whole[-1].cost == 0.5 * 3 * 120
    assert any(len(said) > 1 for said in answers.values())  # or nothing of revisions is tested here
    by_item: dict[int, dict[str, int]] = {}
    for said in history:
        if said.role == "vote" and said.label is not None:
            by_item.setdefault(said.id, {})[said.annotator] = int(said.label)
    assert {id: said[-1] for id, said in answers.items()} == dawid_skene(by_item, 3)
    for rounds in (1, 3):
        run(tmp_path / f"{rounds}.sqlite", rounds)
        resumed = run(tmp_path / f"{rounds}.sqlite")
        assert [(r.ids, r.labels, r.metrics, r.cost) for r in resumed] == [
            (r.ids, r.labels, r.metrics, r.cost) for r in whole
        ]
        with Journal(tmp_path / f"{rounds}.sqlite") as journal:
            assert journal.history() == history
