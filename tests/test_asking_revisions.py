"""The cycle with answers that are revised, corrected or withdrawn later: what each round goes by does not change."""

from pathlib import Path
from typing import Any

import pytest

from activebdl import ActiveDataset, Annotation, Request, Round, UserError
from activebdl.journal import Journal
from activebdl.labels import fix
from tests.scripted import Scripted, truth_of
from tests.test_loop import Network, cycle, timeless

pytestmark = pytest.mark.usefixtures("quick_looks")


def fitted_on(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, int]]:
    """The labels by id that each fit sees."""
    from activebdl.belief import Belief

    seen: list[dict[int, int]] = []
    task = Belief.task.func

    def watch(belief: Belief) -> Any:
        if len(belief.ids):
            seen.append(dict(zip(belief.ids.tolist(), belief.labels.tolist(), strict=True)))
        return task(belief)

    watched = type(Belief.task)(watch)
    watched.__set_name__(Belief, "task")
    monkeypatch.setattr(Belief, "task", watched)
    return seen


def test_a_revision_counts_from_the_next_round_on_and_a_resumed_run_agrees(
    dataset: ActiveDataset, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late it is resumed: what each round went by does not change."""
    truth, path = truth_of(dataset), tmp_path / "journal.sqlite"
    first: list[int] = []

    def revise(request: Request) -> list[Annotation]:
        first.append(request.history[0].id)
        wrong = (int(truth[first[0]]) + 1) % 3
        return [
            Annotation(first[0], wrong, "ann"),
            *(Annotation(id, int(truth[id]), "ann") for id in request.ids),
        ]

    seen = fitted_on(monkeypatch)
    whole = list(cycle(dataset, network, oracle=Scripted(truth, {"round-1-attempt-0": revise}), journal=path))
    id = first[0]
    assert [labels[id] for labels in seen] == [int(truth[id])] + 2 * [(int(truth[id]) + 1) % 3]
    assert timeless(list(cycle(dataset, network, oracle=Scripted(truth), journal=path))) == timeless(whole)
    with Journal(path) as journal:
        journal._database.execute("DELETE FROM rounds WHERE round > 0")
    seen.clear()
    assert timeless(list(cycle(dataset, network, oracle=Scripted(truth), journal=path))) == timeless(whole)
    assert [labels[id] for labels in seen][-2:] == 2 * [(int(truth[id]) + 1) % 3]


def test_a_correction_from_another_process_is_used_from_the_next_round_on_and_stands(
    dataset: ActiveDataset, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, path, seen = truth_of(dataset), tmp_path / "journal.sqlite", fitted_on(monkeypatch)
    rounds: list[Round] = []
    fixed = wrong = -1
    for round in cycle(dataset, network, journal=path, counts=(5, 10, 15)):
        rounds.append(round)
        if round.number == 0:
            fixed = round.ids[2]
            wrong = (int(truth[fixed]) + 1) % 3
            assert fix(path, [f"{fixed}={wrong}"]) == [f"item {fixed}: {int(truth[fixed])} is now {wrong}"]
    assert [labels[fixed] for labels in seen] == [int(truth[fixed]), wrong, wrong]
    assert timeless(list(cycle(dataset, network, journal=path, counts=(5, 10, 15)))) == timeless(rounds)


def test_an_item_that_loses_its_label_is_replaced(
    dataset: ActiveDataset, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "journal.sqlite", fitted_on(monkeypatch)
    rounds: list[Round] = []
    for round in cycle(dataset, network, journal=path):
        rounds.append(round)
        if round.number == 0:
            fix(path, [f"{round.ids[0]}=abstain", f"{round.ids[1]}=abstain"])
    dropped = set(rounds[0].ids[:2])
    assert [round.n_labels for round in rounds] == [5, 10, 18]
    assert [len(labels) for labels in seen] == [5, 10, 18]
    assert dropped <= set(seen[0]) and not dropped & (set(seen[1]) | set(seen[2]))
    assert len(rounds[1].ids) == 7
    with pytest.raises(UserError, match=rf"Item {rounds[0].ids[0]} was set aside"):
        fix(path, [f"{rounds[0].ids[0]}=1"])
    assert timeless(list(cycle(dataset, network, journal=path))) == timeless(rounds)


def test_a_label_that_is_withdrawn_after_it_was_taken_is_replaced(
    dataset: ActiveDataset, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when somebody deletes it where it was given."""
    truth, path, seen = truth_of(dataset), tmp_path / "journal.sqlite", fitted_on(monkeypatch)

    def withdraw(request: Request) -> list[Annotation]:
        first = Annotation(request.history[0].id, None, "ann", role="withdrawn")
        return [first, *(Annotation(id, int(truth[id]), "ann") for id in request.ids)]

    oracle = Scripted(truth, {"round-1-attempt-0": withdraw})
    rounds = list(cycle(dataset, network, oracle=oracle, journal=path))
    gone = rounds[0].ids[0]
    assert [gone in labels for labels in seen] == [True, False, False]
    assert [len(labels) for labels in seen] == [5, 10, 18] and len(rounds[1].ids) == 6
    assert timeless(list(cycle(dataset, network, journal=path))) == timeless(rounds)


def test_a_round_tells_the_labels_that_it_was_trained_on(
    dataset: ActiveDataset, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that are revised while others of the same round are replaced."""
    truth, seen = truth_of(dataset), fitted_on(monkeypatch)
    first: list[int] = []

    def abstain(request: Request) -> list[Annotation]:
        first.extend(request.ids)
        return [Annotation(id, None if id == first[4] else int(truth[id]), "ann") for id in request.ids]

    def revise(request: Request) -> list[Annotation]:
        wrong = [Annotation(first[0], (int(truth[first[0]]) + 1) % 3, "ann"), Annotation(first[1], None, "ann")]
        return [*wrong, *(Annotation(id, int(truth[id]), "ann") for id in request.ids)]

    oracle = Scripted(truth, {"round-0-attempt-0": abstain, "round-0-attempt-1": revise})
    rounds = list(cycle(dataset, network, oracle=oracle))
    assert dict(zip(rounds[0].ids, rounds[0].labels, strict=True)) == seen[0]
    assert len(seen[0]) == 5 and first[1] not in seen[0] and seen[0][first[0]] != int(truth[first[0]])
