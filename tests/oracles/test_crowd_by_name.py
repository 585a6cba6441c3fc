"""Simulated crowds, and crowds in the cycle."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from activebdl import (
    ActiveDataset,
    ActiveLearning,
    MCDropout,
    Numbers,
    Request,
    Round,
    Training,
    UserError,
)
from activebdl.annotations import standing
from activebdl.journal import Journal
from activebdl.oracles import make_oracle
from activebdl.oracles._consensus import dawid_skene
from activebdl.oracles.crowd import Consensus, Crowd
from activebdl.oracles.noisy import draw_confusions
from activebdl.targets import Classes, Label
from tests.conftest import blobs, small_network
from tests.oracles.desk import LABELS, C, Desk, Member, N, right, simulated


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
    alike = np.array(draw_confusions(3, 10, 0.8, seed=3)).diagonal(axis1=1, axis2=2)
    assert alike.mean(axis=1) == pytest.approx([0.8] * 3) and len(np.unique(alike)) > 20
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
        (lambda: simulated(accuracy=-0.5), "from 0 to 1, not from -0.5 to -0.5"),
        (lambda: simulated(accuracy=[0.5, 0.6, 0.7]), r"one number, or the first one's and the last one's, not \[0.5"),
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

    def run(path: Path | None, rounds: int = 3) -> list[Round]:
        cycle = ActiveLearning(
            data,
            small_network,
            counts=(10, 30, 120),
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
    run(tmp_path / "stopped.sqlite", 2)
    resumed = run(tmp_path / "stopped.sqlite")
    assert [(r.ids, r.labels, r.metrics, r.cost) for r in resumed] == [
        (r.ids, r.labels, r.metrics, r.cost) for r in whole
    ]
    with Journal(tmp_path / "stopped.sqlite") as journal:
        assert journal.history() == history


@pytest.mark.usefixtures("quick_looks")
def test_the_cycle_takes_another_consensus_when_it_is_resumed(tmp_path: Path) -> None:
    x, y = blobs(160)
    data = ActiveDataset.from_arrays(x[:120], y[:120], x[120:], y[120:])
    for rounds, consensus in ((2, "majority"), (3, "dawid_skene")):
        options = {"accuracy": (0.4, 0.8), "consensus": consensus}
        cycle = ActiveLearning(
            data, small_network, counts=(10, 60, 80), posterior=MCDropout(Training(steps=5)), strategy="random",
            oracle=make_oracle("crowd", data, options=options, seed=2), draws=2, test_draws=2,
            journal=tmp_path / "journal.sqlite",
        )  # fmt: skip
        list(itertools.islice(cycle, rounds))
    with Journal(tmp_path / "journal.sqlite") as journal:
        history = journal.history()
    votes: dict[int, dict[str, int]] = {}
    for said in history:
        if said.role == "vote":
            votes.setdefault(said.id, {})[said.annotator] = int(said.label or 0)
    found = dawid_skene(votes, 3)
    assert {id: said.label for id, said in standing(history).items()} == found and len(found) == 80
    assert any(said.role == "withdrawn" for said in history)  # or both said the same of all items
