"""Which run a journal is of."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import ActiveDataset, ActiveLearning, MCDropout, Normalise, Training, UserError
from activebdl.data.augment import Affine
from activebdl.data.inputs import alike, sketch
from activebdl.identity import claim
from activebdl.journal import Journal
from activebdl.pseudo_labels import PseudoLabels

Network = Callable[[], nn.Module]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.sqlite")


def run(dataset: ActiveDataset, network: Network, folder: Path, *counts: int) -> list[Any]:
    """Rounds of a run whose journal is in that folder."""
    options: dict[str, Any] = {"posterior": MCDropout(Training(steps=2)), "draws": 4, "test_draws": 2, "device": "cpu"}
    file = folder / "journal.sqlite"
    return list(ActiveLearning(dataset, network, counts=counts, strategy="margin", journal=file, **options))


def test_labels_are_never_given_to_other_items(dataset: ActiveDataset, network: Network, tmp_path: Path) -> None:
    run(dataset, network, tmp_path, 10, 20)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    assert dataset.labels is not None
    shuffled = replace(dataset, pool=dataset.pool[order], labels=dataset.labels[order])
    with pytest.raises(
        UserError, match="other items .* or of the same in another order: .* give this run a journal of its own"
    ):
        run(shuffled, network, tmp_path, 10, 20, 30)
    with pytest.raises(UserError, match=r"its normalise is .*mean=0.0.*, not .*mean=1.0"):
        run(replace(dataset, normalise=Normalise(mean=1.0)), network, tmp_path, 10, 20, 30)
    rounded = replace(dataset, pool=dataset.pool[torch.arange(120)] * (1 + 1e-6))  # as another processor rounds
    assert [round.n_labels for round in run(rounded, network, tmp_path, 10, 20, 30)] == [10, 20, 30]


def test_a_curve_is_measured_on_one_test_set(dataset: ActiveDataset, network: Network, tmp_path: Path) -> None:
    run(dataset, network, tmp_path, 10, 20)
    with pytest.raises(UserError, match="by other labels of the test set"):
        run(replace(dataset, test_labels=dataset.test_labels.flip(0)), network, tmp_path, 10, 20, 30)
    others = dataset.test[torch.arange(len(dataset.test))].flip(0)
    with pytest.raises(UserError, match="another test set than today's, or on the same in another order"):
        run(replace(dataset, test=others), network, tmp_path, 10, 20, 30)
    with pytest.raises(UserError, match="its test size is 60, not 59"):
        run(replace(dataset, test=others[1:], test_labels=dataset.test_labels[1:]), network, tmp_path, 10, 20, 30)
    assert len(run(dataset, network, tmp_path, 10, 20, 30)) == 3


def test_items_are_chosen_for_the_same_targets(dataset: ActiveDataset, network: Network, tmp_path: Path) -> None:
    targets = dataset.test[torch.arange(20)]
    run(replace(dataset, target_inputs=targets), network, tmp_path, 10, 20)
    for others in (None, targets.flip(0)):
        with pytest.raises(UserError, match="chosen for other target_inputs"):
            run(replace(dataset, target_inputs=others), network, tmp_path, 10, 20, 30)
    assert len(run(replace(dataset, target_inputs=targets), network, tmp_path, 10, 20, 30)) == 3


class Blinking:
    """Each look gives other items, as random transforms do."""

    def __len__(self) -> int:
        return 120

    def __getitem__(self, ids: Tensor) -> Tensor:
        return torch.randn(len(ids), 2)


def test_items_that_are_others_at_each_look_have_no_sketch(
    dataset: ActiveDataset, network: Network, tmp_path: Path
) -> None:
    assert sketch(Blinking()) == []
    blinking = replace(dataset, pool=Blinking())
    run(blinking, network, tmp_path, 10, 20)
    assert len(run(blinking, network, tmp_path, 10, 20, 30)) == 3


def test_a_sketch_tells_items_and_their_order_and_not_rounding() -> None:
    images = torch.randint(256, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert len(sketch(images)) == 16 and len(sketch(images[:3])) == 3
    assert alike(sketch(images), sketch(images))
    assert alike(sketch(images), sketch(images + (images < 128)))  # decoded a little differently
    assert not alike(sketch(images), sketch(images.flip(0)))
    assert not alike(sketch(images), sketch(images.flip(3)))
    assert not alike(sketch(images), sketch(images[:15]))
    far = 1000 + torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    assert alike(sketch(far), sketch(far * (1 + 1e-7))) and not alike(sketch(far), sketch(far.flip(0)))
    gaps = torch.where(torch.arange(50)[:, None] % 7 == 0, torch.nan, torch.arange(100.0).view(50, 2))
    assert alike(sketch(gaps), sketch(gaps)) and sketch(gaps) != []


def test_an_older_journal_goes_on(journal: Journal) -> None:
    told = f"Training(steps=2, augmentation={Affine(shear=0.1)}, pseudo_labels=None)"
    older = told.replace(", pseudo_labels=None", "").replace(", flip=0.0", "")
    assert older != told
    claim(journal, {"posterior": older, "counts": [10]})
    claim(journal, {"posterior": told, "counts": [10], "pool": [1.0, 2.0], "normalise": "Normalise()", "views": None})
    with pytest.raises(UserError, match="its posterior is"):
        claim(journal, {"posterior": told.replace("flip=0.0", "flip=0.05"), "counts": [10]})
    with pytest.raises(UserError, match="its views is None"):
        claim(journal, {"posterior": told, "counts": [10], "views": "Views(count=5)"})


@pytest.mark.parametrize("changes", [{"from_labels": 40}, {"align": True}])
def test_pseudo_labels_of_before_they_could_wait_or_be_aligned_go_on(journal: Journal, changes: dict[str, Any]) -> None:
    told = repr(Training(pseudo_labels=PseudoLabels()))
    older = told.replace(", from_labels=0, align=False", "")
    assert older != told
    claim(journal, {"posterior": older, "counts": [10]})
    claim(journal, {"posterior": told, "counts": [10]})
    with pytest.raises(UserError, match="its posterior is"):
        claim(journal, {"posterior": repr(Training(pseudo_labels=PseudoLabels(**changes))), "counts": [10]})


def test_settings_that_run_into_each_other_are_two(journal: Journal) -> None:
    claim(journal, {"posterior": repr(Affine(shear=0.1, flip=0.05)), "counts": [10]})
    with pytest.raises(UserError, match="its posterior is"):
        claim(journal, {"posterior": repr(Affine(shear=0.15)), "counts": [10]})


def test_a_run_may_be_given_more_labels_and_no_fewer(journal: Journal) -> None:
    claim(journal, {"counts": [10, 20]})
    claim(journal, {"counts": [10, 20, 30]})
    assert journal.about("identity") == {"counts": [10, 20, 30]}
    with pytest.raises(UserError, match=r"counts \[10, 20, 30\], and today's, \[10, 20\], do not begin with these"):
        claim(journal, {"counts": [10, 20]})
