"""Laplace around a network that it trains, or that is trained already; and what it refuses."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import Training, UserError
from activebdl.build import make_method
from activebdl.data import Labelled, Normalise
from activebdl.likelihoods import Categorical
from activebdl.posteriors.laplace import Laplace, LastLayerPosterior
from activebdl.spec import Named
from tests.posteriors.laplace_cases import (
    EVERY,
    SHORT,
    Structure,
    classes,
    classifier,
    conv,
    images,
    last_layer,
    made,
    normal,
    single,
)
from tests.posteriors.modules import seeded
from tests.posteriors.states import state

# ---- fits ----


@EVERY
def test_a_network_that_is_trained_already_gives_what_a_fit_gives(structure: Structure) -> None:
    data, method = single(images()), Laplace(SHORT, structure=structure, looks=0)
    fitted = method.fit(conv, data, generator=seeded())
    assert isinstance(fitted, LastLayerPosterior)
    module = conv().train()
    module.load_state_dict(fitted.head.module.state_dict())
    next(module.parameters()).requires_grad_(False)
    before, x = state(module), normal(5, 1, 6, 6).float()
    whole = method.from_trained(module, data)
    pair = method.from_trained(module, (data.inputs, data.labels))
    assert state(module) == before
    with torch.no_grad():  # the posterior is of the network as it was
        for parameter in module.parameters():
            parameter.zero_()
    expected = fitted.draw(4, generator=seeded()).log_probs(x)
    for found in (whole, pair):
        assert found.prior_precision == pytest.approx(fitted.prior_precision, rel=1e-6)
        torch.testing.assert_close(found.draw(4, generator=seeded()).log_probs(x), expected, rtol=0, atol=1e-5)


def test_stored_inputs_are_normalised_and_not_augmented() -> None:
    """uint8 items with a normalisation are what the same items are that are normalised by hand; without looks."""
    stored, normalise = torch.randint(256, (9, 1, 6, 6), generator=seeded()), Normalise(255.0, 0.4, 0.3)
    by_hand = (stored.float() / 255 - 0.4) / 0.3
    kept = Labelled(stored.to(torch.uint8), torch.arange(9) % 3, Categorical(3), normalise)
    ready = Labelled(by_hand, torch.arange(9) % 3, Categorical(3))

    def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
        raise AssertionError("it is not looked at with augmentation")

    module = made(conv).float()
    options = {"prior_precision": 1.0, "structure": "full", "training": Training(augmentation=augmented), "looks": 0}
    two = [last_layer(module, data=data, **options).covariance() for data in (kept, ready)]
    torch.testing.assert_close(two[0], two[1], rtol=1e-4, atol=1e-5)
    assert (two[0] - torch.eye(39)).abs().max() > 0.1  # the prior alone


def test_a_fit_depends_on_its_generator_alone() -> None:
    kept = torch.get_rng_state()
    Laplace(SHORT).fit(conv, single(images()), generator=seeded())
    assert torch.equal(torch.get_rng_state(), kept)

    def drawn(seed: int) -> list[Any]:
        torch.rand(3)
        found = Laplace(SHORT).fit(conv, single(images()), generator=seeded(seed))
        return found.draw(2, generator=seeded()).log_probs(single(images()).inputs).tolist()

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


@EVERY
@pytest.mark.parametrize("labels", [[1], [2, 2, 2, 2, 2], list(range(3)) * 7])
def test_few_labels_or_one_class_give_a_finite_posterior(structure: Structure, labels: list[int]) -> None:
    training = Training(steps=150, batch_size=16, learning_rate=0.03)
    data = Labelled(normal(len(labels), 1, 6, 6).float(), torch.tensor(labels), Categorical(3))
    found = Laplace(training, structure=structure).fit(conv, data, generator=seeded())
    log_probs = found.draw(20, generator=seeded()).log_probs(normal(30, 1, 6, 6, seed=3).float())
    assert log_probs.isfinite().all()
    assert len(log_probs[0].unique(dim=0)) == 20
    assert 1e-6 < found.prior_precision < 1e6


def test_steps_are_those_of_the_training() -> None:
    told: list[int] = []
    method = Laplace(Training(steps=3, steps_per_label=0.5))
    method.fit(conv, single(images()), generator=seeded(), on_step=lambda: told.append(1))
    assert len(told) == method.steps(12) == 9


def test_all_settings_are_plain_data() -> None:
    options = {"structure": "diag", "prior_precision": 2, "weights": "last", "training": {"steps": 5}}
    method = make_method(Named.model_validate({"name": "laplace", **options}))
    assert method == Laplace(Training(steps=5), structure="diag", prior_precision=2.0)


# ---- what is refused ----


class TwoCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).tanh())


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, :, None])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)), "not that of an nn.Linear layer"),
        (TwoCalls, "'layer' of TwoCalls must be called once"),
        (Rows, "'layer' of Rows must be called once, on one row of features"),
    ],
)
def test_networks_that_cannot_be_treated_are_refused_before_training(
    network: Callable[[], nn.Module], message: str
) -> None:
    steps: list[int] = []
    data = single(classes())
    with pytest.raises(UserError, match=message):
        Laplace(SHORT).fit(network, data, generator=seeded(), on_step=lambda: steps.append(1))
    with pytest.raises(UserError, match=message):
        Laplace().check(network(), data.inputs[:2])
    with pytest.raises(UserError, match=message):
        Laplace().from_trained(network(), data)
    assert steps == []


def test_a_head_that_is_too_large_for_its_full_covariance_is_refused() -> None:
    method = Laplace(structure="full")
    with pytest.raises(UserError, match=r"10,005 weights, too many .* use structure 'kron' or 'diag'"):
        method.check(nn.Linear(2000, 5), torch.zeros(2, 2000))
    Laplace(structure="kron").check(nn.Linear(2000, 5), torch.zeros(2, 2000))


def test_a_prior_of_the_training_on_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="prior_on names 'dense'"):
        Laplace(Training(prior_on=("dense",))).check(made(classifier), normal(2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_precision": 0.0}, "prior precision must be above 0, and is 0.0"),
        ({"prior_precision": -1.0}, "prior precision must be above 0"),
        ({"prior_precision": float("nan")}, "prior precision must be above 0"),
        ({"structure": "dense"}, "structure is one of full, kron, diag, not 'dense'"),
        ({"weights": "first"}, "weights are 'last' or 'all', not 'first'"),
        ({"weights": "all", "structure": "diag"}, "All weights are treated with structure 'kron' alone, not 'diag'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Laplace(**options)


def broken() -> nn.Module:
    module = made(classifier)
    nn.init.constant_(module.get_parameter("3.weight"), float("nan"))
    return module


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (made(classifier), Labelled(normal(4, 3), torch.arange(4), Categorical(4)), r"outputs of shape \(4, 4\)"),
        (made(classifier), Labelled(normal(0, 3), torch.arange(0), Categorical(3)), "not one item is labelled"),
        (made(classifier), (normal(4, 3), torch.arange(4)), "Classes run from 0 to 2"),
        (made(classifier), (normal(4, 3), torch.arange(4) - 2), "Classes run from 0 to 2"),
        (made(classifier), (normal(4, 3), torch.arange(3)), "one integer for each of the 4 items"),
        (made(classifier), (normal(4, 3), torch.zeros(4)), "one integer for each .* give a Labelled"),
        (broken(), classes(), "labelled item 0 is not finite"),
    ],
)
def test_data_that_do_not_fit_the_network_are_refused(module: nn.Module, data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Laplace().from_trained(module, data)


def test_a_missing_extra_is_named_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "laplace", None)
    with pytest.raises(UserError, match=r"pip install 'activebdl\[laplace\]'"):
        Laplace(weights="all").check(made(classifier), normal(2, 3))
