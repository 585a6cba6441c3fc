"""The cycle with oracles that are slow, answer in parts, or will not answer."""

from pathlib import Path

import pytest
from torch import Tensor

from activebdl import (
    ActiveDataset,
    Annotation,
    UserError,
)
from activebdl.journal import Journal
from tests.conftest import SlowOracle
from tests.test_loop import Network, cycle, timeless


@pytest.mark.usefixtures("quick_looks")
def test_partial_answers_are_waited_for(dataset: ActiveDataset, network: Network) -> None:
    assert dataset.labels is not None
    slow = list(cycle(dataset, network, oracle=SlowOracle(dataset.labels)))
    assert timeless(slow) == timeless(list(cycle(dataset, network)))


@pytest.mark.usefixtures("quick_looks")
@pytest.mark.parametrize("strategy", ["bald", "random"])
def test_abstained_items_are_replaced_so_that_counts_hold(
    dataset: ActiveDataset, network: Network, strategy: str, tmp_path: Path
) -> None:
    assert dataset.labels is not None
    refuses = set(range(0, 120, 2))
    oracle = SlowOracle(dataset.labels, refuses)
    path = tmp_path / "journal.sqlite"
    rounds = list(cycle(dataset, network, oracle=oracle, strategy=strategy, journal=path))
    assert [round.n_labels for round in rounds] == [5, 10, 18]
    labelled = [id for round in rounds for id in round.ids]
    assert len(labelled) == 18
    assert not set(labelled) & refuses
    asked = [id for request in oracle.requests for id in request.ids]
    assert len(asked) == len(set(asked)) > 18
    assert timeless(list(cycle(dataset, network, strategy=strategy, journal=path))) == timeless(rounds)


@pytest.mark.usefixtures("quick_looks")
@pytest.mark.parametrize("labelled", [5, 7, 12, 18])  # of the counts 5, 10, 18
def test_a_run_ends_with_the_labels_there_are_where_abstentions_use_up_the_pool(
    dataset: ActiveDataset, network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, labelled: int
) -> None:
    monkeypatch.setattr("activebdl.asking._IN_VAIN", (1000, 0))
    assert dataset.labels is not None
    oracle = SlowOracle(dataset.labels, refuses=set(range(120 - labelled)))
    path = tmp_path / "journal.sqlite"
    rounds = list(cycle(dataset, network, oracle=oracle, strategy="random", journal=path))
    assert rounds[-1].n_labels == labelled == sum(len(round.ids) for round in rounds)
    with Journal(path) as journal:
        reasons = [rounds[-1].stopped, journal.about("ended")]
    if labelled < 18:
        assert f"the pool is used up: the oracle would not label {120 - labelled} of its items" in reasons
    else:
        assert reasons == [None, None]
    assert list(cycle(dataset, network, oracle=oracle, strategy="random", journal=path)) == rounds


@pytest.mark.usefixtures("quick_looks")
def test_an_oracle_that_labels_nothing_of_the_pool_is_told(
    dataset: ActiveDataset, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activebdl.asking._IN_VAIN", (1000, 0))
    assert dataset.labels is not None
    oracle = SlowOracle(dataset.labels, refuses=set(range(120)))
    with pytest.raises(UserError, match="no label to train on: the pool is used up: the oracle would not label 120"):
        list(cycle(dataset, network, oracle=oracle, strategy="random"))


def test_a_wrong_label_ends_the_run_and_is_not_written(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    path = tmp_path / "journal.sqlite"
    with pytest.raises(UserError, match="label 3; labels run from 0 to 2"):
        list(cycle(dataset, network, oracle=lambda items: [3] * len(items), journal=path))
    with Journal(path) as journal:
        assert journal.annotations(0, 0) == {}
    assert len(list(cycle(dataset, network, journal=path))) == 3  # and it can be mended


def test_the_good_answers_of_a_bad_batch_are_kept_and_not_asked_for_again(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    assert dataset.labels is not None
    path, asked = tmp_path / "journal.sqlite", list[int]()

    class Typo(SlowOracle):
        def poll(self, ticket: str) -> list[Annotation]:
            labels = [int(self.labels[id]) for id in self.requests[-1].ids]
            return [Annotation(id, label) for id, label in zip(self.requests[-1].ids, [77, *labels[1:]], strict=True)]

    def mended(items: Tensor, ids: Tensor) -> Tensor:
        asked.extend(ids.tolist())
        return dataset.labels[ids]  # type: ignore[index]

    with pytest.raises(UserError, match=r"the label 77; .* 4 good answers of this batch are kept"):
        list(cycle(dataset, network, oracle=Typo(dataset.labels), journal=path))
    with Journal(path) as journal:
        assert len(journal.annotations(0, 0)) == 4
    rounds = list(cycle(dataset, network, oracle=mended, journal=path))
    assert len(asked) == 18 - 4
    assert timeless(rounds) == timeless(list(cycle(dataset, network)))
