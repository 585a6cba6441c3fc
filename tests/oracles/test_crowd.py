"""Crowds: members are asked once, and their votes are kept and paid for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from activebdl import (
    ABSTAIN,
    Annotation,
    UserError,
    Waiting,
)
from activebdl.annotations import Role
from activebdl.oracles.crowd import Consensus, Crowd
from tests.oracles.desk import C, Desk, Member, N, Script, right, silent, simulated, wrong


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


@settings(max_examples=6)
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
    fixes = [Annotation(id, right(id), "me", role="correction") for id in range(50)]
    desk.write(fixes)
    desk.ask(Crowd(members, "dawid_skene"), range(60, 80), "round-1")
    assert all(label == right(id) for id, label in desk.answers().items())
    assert not [a for a in desk.journal[desk.journal.index(fixes[-1]) :] if a.role == "answer" and a.id < 50]


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
    with pytest.raises(UserError, match=r"member 'bob' failed in poll: KeyError: 'drawer' \(test_crowd.py, line \d+\)"):
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


@pytest.mark.parametrize("consensus", ["majority", "dawid_skene"])
def test_a_vote_on_an_item_that_was_taken_may_go_and_the_others_say_what_it_is(consensus: Consensus) -> None:
    script: list[Script] = [right, right, wrong, wrong, wrong]
    members = [Member(lambda id, k=k: script[k](id) if id == 1 else right(id), at_once=9) for k in range(5)]
    crowd, desk = Crowd(members, consensus), Desk()
    desk.ask(crowd, (1, 2, 3))
    assert desk.answers()[1] == wrong(1)

    def takes_back(member: Member, role: Role = "withdrawn") -> None:
        member.requests[0].record([Annotation(1, None, "oracle", role=role)])

    takes_back(members[3])
    takes_back(members[4])
    assert desk.answers()[1] == wrong(1)  # or the item would be set aside
    desk.ask(crowd, (4, 5), "round-1")
    assert desk.answers()[1] == right(1)
    for member in (*members[:2], members[4]):
        takes_back(member)
    takes_back(members[2], "answer")  # now says nothing of it
    desk.ask(Crowd(members, consensus), (6,), "round-2")  # after a stop
    assert desk.answers().keys() == {2, 3, 4, 5, 6}
    said = len(desk.journal)
    desk.ask(crowd, (7,), "round-3")
    assert [a.id for a in desk.journal[said:] if a.role != "vote"] == [7]


def test_a_run_may_be_resumed_with_another_consensus_and_back() -> None:
    """Three poor annotators are wrong together on the first two items; the rest shows who is who."""
    guesses = np.random.default_rng(0).integers(C, size=(3, N))

    def members() -> list[Member]:
        poor: list[Script] = [lambda id, k=k: wrong(id) if id < 2 else int(guesses[k, id]) for k in range(3)]
        return [Member(script, at_once=999) for script in (right, right, *poor)]

    desk = Desk()
    desk.ask(Crowd(members(), "majority"), (0, 1))
    desk.ask(Crowd(members(), "dawid_skene"), range(2, 150), "round-1")
    assert desk.answers() == {id: right(id) for id in range(150)}
    desk.ask(Crowd(members(), "majority"), (150,), "round-2")
    plain = Desk()
    plain.ask(Crowd(members(), "majority"), range(151))
    assert desk.answers() == plain.answers()
    said = len(desk.journal)
    desk.ask(Crowd(members(), "majority"), (151,), "round-3")
    assert [a.id for a in desk.journal[said:] if a.role != "vote"] == [151]


def test_answers_to_which_members_of_other_names_voted_are_left_alone() -> None:
    desk = Desk()
    desk.ask(Crowd({"ann": Member(silent, at_once=9), "bob": Member(right, at_once=9)}), (1, 2))
    desk.ask(Crowd({"ann": Member(right, at_once=9), "cy": Member(right, at_once=9)}), (3,), "round-1")
    assert desk.answers() == {id: right(id) for id in (1, 2, 3)}


def test_a_correction_that_sets_items_aside_teaches_nothing_and_stands() -> None:
    desk, members = Desk(), [Member(right, at_once=999), *(Member(wrong, at_once=999) for _ in range(2))]
    crowd = Crowd(members, "dawid_skene")
    desk.ask(crowd, range(60))
    desk.write([Annotation(id, right(id), "me", role="correction") for id in range(50)])
    desk.ask(crowd, (60,), "round-1")
    assert desk.answers()[60] == right(60)  # it was taught
    desk.write([Annotation(id, None, "me", role="correction") for id in range(50)])
    said = len(desk.journal)
    desk.ask(crowd, range(61, 80), "round-2")
    assert all(desk.answers()[id] == wrong(id) for id in range(50, 80))
    assert not [a for a in desk.journal[said:] if a.role != "vote" and a.id < 50]


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
    with pytest.raises(UserError, match="crowd's member 'a' failed in close: OSError: a"):
        crowd.close()
    assert sorted(map(str, heard[2:])) == ["a", "b"]


def test_whatever_of_a_member_breaks_is_told_in_a_sentence() -> None:
    class Broken(Member):
        def told(self, round: object) -> None:
            raise OSError("no network")

        def progress(self, phase: str, total: int) -> None:
            raise KeyError("drawer")

        def price(self, ids: Sequence[int]) -> Any:
            return 1 / 0

    crowd = Crowd({"ann": Member(right), "bob": Broken(right)})
    assert crowd.price is not None and crowd.progress is not None
    with pytest.raises(UserError, match=r"'bob' failed in told: OSError: no network \(test_crowd.py, line \d+\)"):
        crowd.told("round")
    with pytest.raises(UserError, match="'bob' failed in progress: KeyError"), crowd.progress("fit", 3):
        pass
    with pytest.raises(UserError, match="'bob' failed in price: ZeroDivisionError"):
        crowd.price((1, 2))


@pytest.mark.parametrize("given", [[1.0], [1.0] * 3, 2.0, None, [1.0, -1.0], [1.0, "two"], [1.0, float("nan")]])
def test_prices_that_cannot_be_are_told(given: Any) -> None:
    class Odd(Member):
        def price(self, ids: Sequence[int]) -> Any:
            return given

    crowd = Crowd({"ann": Member(right), "bob": Odd(right)})
    assert crowd.price is not None
    with pytest.raises(UserError, match=r"member 'bob' must give, as price\(ids\), one number for each id, 0 or more"):
        crowd.price((1, 2))
