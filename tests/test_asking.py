"""The cycle with oracles that vote, wait, hang, fail, or answer elsewhere: nothing answered is lost."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from activebdl import ActiveDataset, Annotation, Request, Round, UserError, Waiting
from activebdl.journal import Journal
from tests.conftest import SlowOracle, small_network
from tests.scripted import Scripted, truth_of
from tests.test_loop import Network, cycle, timeless

pytestmark = pytest.mark.usefixtures("quick_looks")


# ---- what an oracle is told, and what it may say ----


def test_what_a_request_tells(dataset: ActiveDataset, network: Network, tmp_path: Path) -> None:
    """Predictions are those of the posterior that chose, and a resumed run shows the same."""

    class Curious(Scripted):
        shows_predictions = True
        heard: list[Round]
        closed = 0

        def told(self, round: Round) -> None:
            self.heard = [*getattr(self, "heard", []), round]

        def close(self) -> None:
            self.closed += 1

    def refuse(request: Request) -> list[Annotation]:
        raise Waiting("later")

    truth, path = truth_of(dataset), tmp_path / "journal.sqlite"
    first = Curious(truth, {"round-2-attempt-0": refuse})
    with pytest.raises(Waiting, match="later"):
        list(cycle(dataset, network, oracle=first, journal=path, strategy="max_entropy", draws=64, test_draws=64))
    assert first.closed == 1
    second = Curious(truth)
    rounds = list(cycle(dataset, network, oracle=second, journal=path, strategy="max_entropy", draws=64, test_draws=64))
    assert second.heard == rounds and first.heard == rounds[:2]
    start, middle, last = *first.requests[:2], second.requests[0]
    assert start.predictions is None and start.uncertainty is None and start.metrics == {}
    assert [(r.round, r.n_labels, r.budget) for r in (start, middle, last)] == [(0, 0, 18), (1, 5, 18), (2, 10, 18)]
    assert middle.metrics == rounds[0].metrics and last.metrics == rounds[1].metrics
    assert [said.id for said in last.history] == [*rounds[0].ids, *rounds[1].ids]
    for request, again in ((middle, None), (last, first.requests[2])):
        assert request.predictions is not None and request.uncertainty is not None
        torch.testing.assert_close(request.predictions.sum(dim=1), torch.ones(len(request.ids)))
        # other draws than the strategy's, of the same posterior: the entropy it chose by, but for the sampling
        torch.testing.assert_close(request.uncertainty, torch.tensor(request.scores), rtol=0, atol=0.12)
        assert again is None or torch.equal(again.predictions, request.predictions)  # type: ignore[arg-type]
    assert timeless(rounds) == timeless(
        list(cycle(dataset, network, strategy="max_entropy", draws=64, test_draws=64))
    )  # and showing them changes nothing


def test_votes_are_kept_and_paid_for_but_the_run_goes_by_the_answer(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    truth, path = truth_of(dataset), tmp_path / "journal.sqlite"

    class Voters(Scripted):
        looks = 0

        def poll(self, ticket: str) -> Sequence[Annotation]:
            self.looks += 1
            ids = self.requests[-1].ids
            votes = [Annotation(id, (int(truth[id]) + 1) % 3, f"v{v}", 0.5, role="vote") for id in ids for v in (0, 1)]
            return votes if self.looks % 2 else [*votes, *super().poll(ticket)]

    rounds = list(cycle(dataset, network, oracle=Voters(truth), journal=path))
    expected = timeless(list(cycle(dataset, network)))
    assert [r.ids for r in rounds] == [r.ids for r in expected]
    assert [r.metrics for r in rounds] == [r.metrics for r in expected]
    assert [r.cost for r in rounds] == [5.0, 10.0, 18.0]
    with Journal(path) as journal:
        assert sum(said.role == "vote" for said in journal.history()) == 36


def test_answers_that_are_recorded_from_other_threads_are_on_the_disk_before_poll(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    truth, path = truth_of(dataset), tmp_path / "journal.sqlite"

    class Threads(Scripted):
        def submit(self, request: Request) -> str:
            def answer(id: int) -> None:
                request.record([Annotation(id, int(truth[id]), threading.current_thread().name)])
                with Journal(path, beside=True) as journal:
                    assert id in {said.id for said in journal.history()}
                    done.append(id)

            done: list[int] = []
            threads = [threading.Thread(target=answer, args=(id,)) for id in request.ids]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(done) == sorted(request.ids)
            return request.key

        def poll(self, ticket: str) -> Sequence[Annotation]:
            return []

    rounds = list(cycle(dataset, network, oracle=Threads(truth), journal=path))
    assert [r.ids for r in rounds] == [r.ids for r in cycle(dataset, network)]


def test_a_wrong_answer_cannot_be_recorded(dataset: ActiveDataset, network: Network) -> None:
    class Wrong(Scripted):
        def submit(self, request: Request) -> str:
            with pytest.raises(UserError, match="label 9; labels run from 0 to 2"):
                request.record([Annotation(request.ids[0], 9)])
            with pytest.raises(UserError, match=r"which it was not asked for\. 1 good"):
                request.record([Annotation(request.ids[0], 1), Annotation(-5, 1)])
            return super().submit(request)

    assert len(list(cycle(dataset, network, oracle=Wrong(truth_of(dataset))))) == 3


class Late(SlowOracle):
    """Answers nothing at the first ten looks."""

    def poll(self, ticket: str) -> list[Annotation]:
        answers = super().poll(ticket)
        return answers[: max(0, self.looks - 10)]


def test_a_pause_between_looks_grows_but_not_for_ever_and_not_while_answers_come(
    dataset: ActiveDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("activebdl.asking._LONGEST_PAUSE", 2.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    list(cycle(dataset, small_network, oracle=Late(truth_of(dataset)), counts=(12,)))
    waiting, answered = pauses[:11], pauses[11:]
    assert waiting[0] == 0 and waiting == sorted(waiting) and waiting[-1] == 2.0
    assert answered == [0.0] * 11


# ---- oracles that hang, fail, or never answer ----


class Bad(SlowOracle):
    """Answers the first two items rightly and then does one thing wrong."""

    wrong = ""
    hang = threading.Event()

    def poll(self, ticket: str) -> Any:
        ids = self.requests[-1].ids
        good = [Annotation(id, int(self.labels[id]), "slow") for id in ids[:2]]
        rest = [Annotation(id, int(self.labels[id]), "slow") for id in ids[2:]]
        self.looks += 1
        if self.looks == 1:
            return good
        if self.wrong == "raises":
            raise KeyError("no such thing")
        if self.wrong == "hangs":
            self.hang.wait()
        if self.wrong == "says no more":
            return good
        if self.wrong == "no list":
            return 7
        others = {
            "no annotation": [*rest, "three"],
            "another's id": [*rest, Annotation(119, 0)],
            "too many": [*rest, *(Annotation(id, 0) for id in range(100, 120))],
            "a wrong class": [*rest, Annotation(ids[2], 77)],
            "a negative cost": [*rest, Annotation(ids[2], 1, cost=-2.0)],
        }
        return others[self.wrong]


@pytest.mark.parametrize(
    ("wrong", "told", "kept"),
    [
        ("raises", r"The oracle's poll failed: KeyError: 'no such thing' \(test_asking.py, line \d+\)", 2),
        ("hangs", r"The oracle's poll did not return within 0\.2 s \(time_limit\)", 2),
        ("says no more", r"given no answer for 0\.2 s \(time_limit\); 2 of 5 are there and kept", 2),
        ("no list", "must give a list of annotations, not int", 2),
        ("no annotation", "must give annotations, not str. 3 good answers of this batch are kept", 5),
        ("another's id", "answered for item 119, which it was not asked for. 3 good", 5),
        ("too many", "answered for item 100, which it was not asked for. 3 good", 5),
        ("a wrong class", "the label 77; labels run from 0 to 2", 5),
        ("a negative cost", "costs -2, less than nothing", 5),
    ],
)
def test_whatever_an_oracle_does_what_it_answered_is_kept_and_not_asked_again(
    dataset: ActiveDataset, network: Network, tmp_path: Path, wrong: str, told: str, kept: int
) -> None:
    truth, path = truth_of(dataset), tmp_path / "journal.sqlite"
    bad = Bad(truth)
    bad.wrong = wrong
    with pytest.raises(UserError, match=told):
        list(cycle(dataset, network, oracle=bad, journal=path, time_limit=0.2, start="random"))
    Bad.hang.set()
    with Journal(path) as journal:
        answered = set(journal.annotations(0, 0))
        assert len(answered) == kept
    mended = Scripted(truth)
    rounds = list(cycle(dataset, network, oracle=mended, journal=path))
    assert not answered & {id for request in mended.requests for id in request.ids}
    assert [r.metrics for r in rounds] == [r.metrics for r in cycle(dataset, network)]
    Bad.hang.clear()


def test_a_submit_that_hangs_or_raises_loses_nothing(dataset: ActiveDataset, network: Network, tmp_path: Path) -> None:
    truth, path, never = truth_of(dataset), tmp_path / "journal.sqlite", threading.Event()

    def hangs(items: Tensor) -> Any:
        never.wait()

    def raises(items: Tensor) -> Any:
        raise OSError("no such server")

    with pytest.raises(UserError, match=r"The oracle's submit did not return within 0\.1 s"):
        list(cycle(dataset, network, oracle=hangs, journal=path, time_limit=0.1))
    never.set()
    with pytest.raises(UserError, match="The oracle 'raises' failed: OSError: no such server"):
        list(cycle(dataset, network, oracle=raises, journal=path, time_limit=60))
    rounds = list(cycle(dataset, network, oracle=Scripted(truth), journal=path, time_limit=60))
    assert [r.ids for r in rounds] == [r.ids for r in cycle(dataset, network)]


def test_an_oracle_whose_close_fails_hides_nothing(dataset: ActiveDataset, network: Network) -> None:
    class Stuck(Scripted):
        def close(self) -> None:
            raise RuntimeError("no way out")

    with pytest.raises(UserError, match="The oracle's close failed: RuntimeError: no way out"):
        list(cycle(dataset, network, oracle=Stuck(truth_of(dataset))))
    wrong = {"round-1-attempt-0": lambda request: [Annotation(request.ids[0], 9)]}
    with pytest.raises(UserError, match="label 9; labels run from 0 to 2"):
        list(cycle(dataset, network, oracle=Stuck(truth_of(dataset), wrong)))


def test_an_oracle_that_always_abstains_is_told_before_the_pool_is_used_up(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    path, asked = tmp_path / "journal.sqlite", list[int]()

    def no_one(items: Tensor, ids: Tensor) -> list[None]:
        asked.extend(ids.tolist())
        return [None] * len(items)

    told = "abstained from every item of the last 10 requests, and labelled none"
    for expected in (50, 100):  # whoever resumes it has looked at it
        with pytest.raises(UserError, match=told):
            list(cycle(dataset, network, oracle=no_one, journal=path))
        assert len(asked) == len(set(asked)) == expected


def test_a_disk_that_fills_up_in_the_middle_stops_the_run_and_it_goes_on_when_there_is_room(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    truth, path = truth_of(dataset), tmp_path / "journal.sqlite"
    for request in range(3):  # the first such that fails is the next one
        with Journal(path) as journal:

            class Filling(Scripted):
                def submit(self, request: Request) -> str:
                    pages = journal._rows("PRAGMA page_count")[0][0]
                    journal._rows(f"PRAGMA max_page_count = {pages}")
                    return super().submit(request)

                def poll(self, ticket: str) -> Sequence[Annotation]:  # more than fits into a page that is half empty
                    return [replace(answer, annotator=9999 * "x") for answer in super().poll(ticket)]

            with pytest.raises(UserError, match="cannot be written: database or disk is full. What it holds is safe"):
                list(cycle(dataset, network, oracle=Filling(truth)).run(journal))
            assert len(journal.history()) == [0, 5, 10][request]
            journal._rows("PRAGMA max_page_count = 100000")
        rounds: list[Round] = []
        for round in cycle(dataset, network, oracle=Scripted(truth), journal=path):
            rounds.append(round)
            if len(rounds) == request + 1:
                break
    assert timeless(list(cycle(dataset, network, journal=path))) == timeless(list(cycle(dataset, network)))
