"""Fits of MNF: the same from one seed, few labels, the phases; and what is refused."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activebdl import MAP, Training, UserError
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical
from activebdl.posteriors.mnf import MNF
from tests.conftest import blobs, small_network
from tests.posteriors.mnf_cases import (
    classes,
    convolutional,
    fitted,
    images,
)
from tests.posteriors.modules import seeded

# ---- fits ----


@pytest.mark.parametrize("layers", ["all", "last"])
def test_two_fits_from_one_seed_are_equal_to_the_last_bit(layers: str) -> None:
    global_state = torch.get_rng_state()
    one, same, other = (fitted(convolutional, images(), seed=seed, layers=layers) for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(global_state)
    x = images(4).inputs
    results = [posterior.draw(3, generator=seeded()).log_probs(x) for posterior in (one, same, other)]
    assert results[0].equal(results[1])
    assert not results[0].equal(results[2])
    assert one.diagnostics == same.diagnostics


@pytest.mark.parametrize("map_start", [0.0, 0.5, 0.99])
@pytest.mark.parametrize(("n", "steps"), [(1, 1), (1, 2), (1, 20), (20, 20)])
def test_few_labels_and_few_steps_will_do(map_start: float, n: int, steps: int) -> None:
    taken: list[int] = []
    method = MNF(Training(steps=steps, steps_per_label=0.5), layers="all", map_start=map_start)
    posterior = method.fit(small_network, classes(n), generator=seeded(), on_step=lambda: taken.append(1))
    assert len(taken) == method.steps(n) == steps + round(0.5 * n)
    assert posterior.draw(3, generator=seeded()).log_probs(classes(4).inputs).isfinite().all()
    assert all(math.isfinite(value) for value in posterior.diagnostics.values())


def test_it_learns() -> None:
    x, y = blobs(300, seed=1, noise=0.3)
    labelled = Labelled(x[:60], y[:60], Categorical(3))
    for layers in ("all", "last"):
        posterior = fitted(small_network, labelled, training=Training(steps=200), layers=layers)
        p = posterior.draw(50, generator=seeded()).log_probs(x[60:]).exp().mean(1)
        assert (p.argmax(-1) == y[60:]).float().mean() > 0.95


def dead_convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.Flatten(), nn.Linear(144, 3))


@pytest.mark.parametrize("network", [lambda: nn.Linear(2, 3, bias=False), lambda: dead_convolution()])
def test_inputs_of_nothing_but_zeros_leave_finite_gradients(network: Callable[[], nn.Module]) -> None:
    """No input, no variance of the output: the root's gradient there would be infinite."""
    shape = (4, 2) if isinstance(network(), nn.Linear) else (4, 1, 8, 8)
    labelled = Labelled(torch.zeros(shape), torch.arange(4) % 3, Categorical(3))
    posterior = fitted(network, labelled, layers="all")
    assert all(value.isfinite().all() for made in posterior.layers.values() for value in made.state_dict().values())


# ---- the phases ----


def test_the_means_start_where_the_plain_network_was_trained_to() -> None:
    """30 steps of plain training and one more: Adam's step is no longer than the learning rate."""
    plain = MAP(Training(steps=30)).fit(small_network, classes(), generator=seeded()).module
    barely = MAP(Training(steps=1)).fit(small_network, classes(), generator=seeded()).module
    posterior = fitted(small_network, classes(), training=Training(steps=31), layers="all", map_start=30 / 31)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(posterior.module.get_parameter(name), value, rtol=0, atol=0.0031)
    assert (plain.get_parameter("0.weight") - barely.get_parameter("0.weight")).abs().max() > 0.03


class Spy(nn.Module):
    """Functional dropout; notes the modes in which it is called."""

    def __init__(self, modes: list[bool]) -> None:
        super().__init__()
        self.norm, self.out, self.modes = nn.BatchNorm1d(2), nn.Linear(2, 3), modes

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training and self.norm.training)
        return self.out(F.dropout(self.norm(x), 0.5, self.training))


def test_dropout_and_batch_statistics_stop_after_the_map_start() -> None:
    modes: list[bool] = []
    posterior = fitted(lambda: Spy(modes), classes(), training=Training(steps=10), map_start=0.6)
    assert modes[:11] == [False] + [True] * 6 + [False] * 4  # first the look at which layers it calls
    assert not any(modes[11:])
    assert int(posterior.module.get_buffer("norm.num_batches_tracked")) == 6


# ---- what is refused ----


def test_networks_that_it_cannot_treat_are_refused() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(UserError, match="calls no nn.Linear or nn.Conv layer"):
        MNF(layers="all").check(nn.Flatten(), x)
    with pytest.raises(UserError, match="not that of an nn.Linear"):
        MNF(layers="last").check(nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)), x)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(UserError, match="layer '0' shares its weight"):
        MNF(layers="all").check(tied, x)
    with pytest.raises(UserError, match="prior_on names 'dense'"):
        MNF(Training(prior_on=("dense",))).check(nn.Linear(3, 3), x)
    MNF().check(convolutional(), torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match="calls no nn.Linear"):
        fitted(nn.Flatten, classes(), layers="all")
    with pytest.raises(UserError, match=r"outputs of shape \(8, 3\)"):
        fitted(lambda: nn.Linear(2, 4), classes())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": "first"}, "layers must be 'all' or 'last', not 'first'"),
        ({"prior_scale": 0.0}, "prior_scale must be above 0, and is 0.0"),
        ({"prior_scale": math.nan}, "prior_scale must be above 0, and is nan"),
        ({"initial_scale": -1.0}, "initial_scale must be above 0"),
        ({"initial_noise": 0.0}, "initial_noise must be above 0"),
        ({"map_start": 1.0}, "map_start must be at least 0 and below 1"),
        ({"warm_up": 1.5}, "warm_up from 0 to 1"),
        ({"kl_weight": -0.1}, "kl_weight must not be negative"),
        ({"couplings": -1}, "couplings must not be negative"),
        ({"hidden": 0}, "hidden and kl_samples must be at least 1"),
        ({"kl_samples": 0}, "hidden and kl_samples must be at least 1"),
    ],
)
def test_bad_values_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        MNF(**options)


def test_a_loss_that_is_not_a_number_is_told() -> None:
    labelled = Labelled(torch.full((4, 2), math.nan), torch.zeros(4, dtype=torch.long), Categorical(3))
    with pytest.raises(UserError, match="The loss became nan at step 1"):
        fitted(small_network, labelled, map_start=0.0)
