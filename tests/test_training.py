import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import Affine, Training, UserError
from activebdl.data import Labelled, Normalise
from activebdl.likelihoods import Categorical
from activebdl.training import _batches, check_network, train


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(n: int = 6, **options: Any) -> Labelled:
    return Labelled(torch.randn(n, 2, generator=seeded()), torch.arange(n) % 3, Categorical(3), Normalise(**options))


def linear() -> nn.Module:
    return nn.Linear(2, 3)


def test_every_item_is_seen_equally_often() -> None:
    batches = _batches(n=7, size=3, steps=14, generator=seeded())
    assert [len(batch) for batch in batches] == [3] * 14
    assert set(Counter(int(i) for batch in batches for i in batch).values()) == {6}


def test_a_batch_larger_than_the_labels_holds_copies() -> None:
    (batch,) = _batches(n=2, size=5, steps=1, generator=seeded())
    assert sorted(Counter(batch.tolist()).values()) == [2, 3]


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["onecycle", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_the_steps_are_exactly_those_asked_for(optimizer: Any, schedule: Any, steps: int) -> None:
    told: list[int] = []
    training = Training(steps=steps, optimizer=optimizer, schedule=schedule)
    train(linear, labelled(), training, generator=seeded(), on_step=lambda: told.append(1))
    assert len(told) == steps


def test_later_rounds_are_trained_longer_when_told_so() -> None:
    training = Training(steps=100, steps_per_label=0.5)
    assert [training.total_steps(n) for n in (0, 10, 1000)] == [100, 105, 600]


def test_the_result_is_in_eval_mode_with_gradients_off() -> None:
    module = train(linear, labelled(), Training(steps=2), generator=seeded())
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())


def test_inputs_are_normalised() -> None:
    seen: list[Tensor] = []

    class Looking(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x)

    train(lambda: Looking(2, 3), labelled(mean=5.0, std=2.0), Training(steps=1, batch_size=6), generator=seeded())
    expected = (labelled().inputs - 5) / 2
    torch.testing.assert_close(seen[0].sort(0).values, expected.sort(0).values)


def test_uint8_images_are_augmented_before_they_are_normalised() -> None:
    """Augmentation fills in from the border, which must be black and not the middle of the normalised range."""
    seen: list[Tensor] = []

    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 2)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return self.fc(x.flatten(1))

    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 3:5, 3:5] = 255
    data = Labelled(images, torch.tensor([0, 1, 0, 1]), Categorical(2), Normalise(255.0, 0.5, 0.5))
    train(Looking, data, Training(steps=1, batch_size=4, augmentation=Affine(shift=0.3)), generator=seeded())
    torch.testing.assert_close(seen[-1][:, :, 0].max(), torch.tensor(-1.0))  # the first row stays black
    assert seen[-1].max() > 0
    assert len({tuple(image.flatten().tolist()) for image in seen[-1]}) == 4  # each with its own map


def test_a_network_of_the_wrong_width_is_told() -> None:
    with pytest.raises(UserError, match=r"outputs of shape \(64, 3\).* It gave \(64, 4\)"):
        train(lambda: nn.Linear(2, 4), labelled(), Training(steps=2), generator=seeded())


def test_a_network_that_raises_without_a_word_is_told() -> None:
    class Refusing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError

    with pytest.raises(UserError, match=r"cannot read items of shape \[2\]: KeyError\."):
        check_network(Refusing, torch.zeros(2, 2), 3)


def test_a_network_that_is_made_once_is_refused_and_one_on_frozen_features_is_not() -> None:
    backbone = nn.Linear(2, 4)

    def on_top() -> nn.Module:
        return nn.Sequential(backbone, nn.ReLU(), nn.Linear(4, 3))

    with pytest.raises(UserError, match="must make a fresh module at each call"):
        check_network(on_top, torch.zeros(2, 2), 3)
    backbone.requires_grad_(False)
    check_network(on_top, torch.zeros(2, 2), 3)
    model = nn.Linear(2, 3)
    with pytest.raises(UserError, match="two calls share weights that are trained"):
        check_network(lambda: model, torch.zeros(2, 2), 3)


def test_a_network_that_looks_at_the_other_items_of_a_batch_is_refused() -> None:
    def network(keeps: bool) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4, track_running_stats=keeps), nn.Linear(4, 3))

    check_network(lambda: network(True), torch.zeros(2, 2), 3)
    with pytest.raises(UserError, match="keeps no running statistics.*leave track_running_stats on"):
        check_network(lambda: network(False), torch.zeros(2, 2), 3)


def test_single_items_are_not_for_batch_norm() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    with pytest.raises(UserError, match="batch_size is at least 2, not 1"):
        train(network, labelled(), Training(steps=2, batch_size=1), generator=seeded())
    train(lambda: nn.Linear(2, 3), labelled(), Training(steps=2, batch_size=1), generator=seeded())


def test_a_loss_that_is_nan_is_told_with_its_step() -> None:
    class Breaking(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x) * (float("nan") if self.calls == 3 else 1.0)

    with pytest.raises(UserError, match="loss became nan at step 3: lower"):
        train(lambda: Breaking(2, 3), labelled(), Training(steps=5), generator=seeded())


def test_nothing_labelled_is_told() -> None:
    with pytest.raises(UserError, match="not one item is labelled"):
        train(linear, labelled(0), Training(), generator=seeded())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is a whole number from 1 on, not 0"),
        ({"batch_size": 0}, "batch_size is a whole number from 1 on, not 0"),
        ({"batch_size": 8.5}, "batch_size is a whole number from 1 on, not 8.5"),
        ({"steps": 10.5}, "steps is a whole number from 1 on, not 10.5"),
        ({"schedule": "cosine"}, "schedule is one of onecycle, constant, not 'cosine'"),
        ({"optimizer": "rmsprop"}, "optimizer is one of adamw, adam, sgd, not 'rmsprop'"),
        ({"pseudo_labels": True}, r"pseudo_labels are PseudoLabels\(\) or None, and not True"),
        ({"augmentation": "handwriting"}, r"one such as Handwriting\(\), and not 'handwriting'"),
        ({"prior_on": "4.weight"}, r'prior_on is a tuple of names: \("4.weight",\)'),
        ({"learning_rate": 0.0}, "above 0, not 0"),
        ({"learning_rate": math.nan}, "above 0, not nan"),
        ({"learning_rate": math.inf}, "above 0, not inf"),
        ({"weight_decay": -1.0}, "weight_decay is a number that is not negative, and not -1"),
        ({"steps_per_label": math.nan}, "steps_per_label .* not nan"),
        ({"prior_precision": math.inf}, "prior_precision .* not inf"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Training(**options)
