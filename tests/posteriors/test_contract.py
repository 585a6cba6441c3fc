"""What every inference method promises, each in its own words: see `activebdl.posteriors`."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import Labelled, Training, UserError
from activebdl.likelihoods import Categorical
from activebdl.posteriors import InferenceMethod, posteriors
from activebdl.posteriors._last_layer import feature_reader
from activebdl.scoring import in_precision
from activebdl.targets import log_probs

METHODS = posteriors.names()


def method(name: str) -> InferenceMethod:
    found: Any = posteriors.get(name)()
    return replace(found, training=Training(steps=40, batch_size=8, learning_rate=0.01))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def labelled(labels: list[int], classes: int = 3) -> Labelled:
    x = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(1))
    return Labelled(x, torch.tensor(labels), Categorical(classes))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("labels", [[2] * 6, [1]])
@pytest.mark.parametrize("name", METHODS)
def test_labels_of_one_class_alone_are_learned(name: str, labels: list[int]) -> None:
    """A first batch may be so; what is known of it is that class, and nobody may fall over the others."""
    data = labelled(labels)
    draws = method(name).fit(network, data, generator=seeded()).draw(5, generator=seeded())
    log_probs = draws.log_probs(data.inputs)
    assert bool(torch.isfinite(log_probs).all())
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(labels), 5))
    assert bool((log_probs.exp().mean(1).argmax(1) == labels[0]).all())


@pytest.mark.parametrize("name", METHODS)
def test_a_network_for_another_number_of_classes_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"outputs of shape \(\d, 5\): one column per class.* It gave \(\d, 3\)"):
        method(name).fit(network, labelled([0, 4, 2, 3], classes=5), generator=seeded())


class Breaking(nn.Linear):
    """Gives NaN from the 25th batch on that it is trained with."""

    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += torch.is_grad_enabled()  # in eval mode too, as a method may train
        return super().forward(input) * (float("nan") if self.calls >= 25 else 1.0)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ensemble"])
def test_a_loss_that_is_nan_is_told_with_its_step(name: str) -> None:
    """Counted from the first step of the fit, also where a method has two phases."""

    def breaking() -> nn.Module:
        return nn.Sequential(Breaking(4, 4), nn.ReLU(), nn.Dropout(0.3), nn.Linear(4, 3))

    with pytest.raises(UserError, match="The loss became nan at step 25: lower the learning rate"):
        method(name).fit(breaking, labelled([0, 1, 2, 1]), generator=seeded())


@pytest.mark.parametrize("name", METHODS)
def test_a_draw_is_one_function(name: str) -> None:
    """The same inputs give the same numbers alone, in any order, beside others, and asked for again."""
    posterior = method(name).fit(network, labelled([0, 1, 2, 1, 0]), generator=seeded())
    draws = posterior.draw(6, generator=seeded(3))
    x = torch.randn(33, 4, generator=seeded(4))
    whole = draws.log_probs(x)
    assert whole.shape == (33, 6, 3)
    order = torch.randperm(33, generator=seeded(5))
    torch.testing.assert_close(draws.log_probs(x[order]), whole[order], rtol=1e-5, atol=1e-5)
    parts = torch.cat([draws.log_probs(part) for part in x.split([1, 2, 7, 23])])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    again = posterior.draw(6, generator=seeded(3)).log_probs(x)
    torch.testing.assert_close(again, whole, rtol=1e-5, atol=1e-5)
    assert name == "map" or float(whole.std(1).max()) > 1e-4  # and draws differ from each other


@pytest.mark.parametrize("name", METHODS)
def test_features_are_what_the_last_layer_reads(name: str) -> None:
    posterior: Any = method(name).fit(network, labelled([0, 1, 2, 1, 0]), generator=seeded())
    x = torch.randn(7, 4, generator=seeded(4))
    modules = [member.module for member in getattr(posterior, "members", [posterior])]
    found = feature_reader(posterior, x[:2])(x)
    assert found.shape == (7, 16 * len(modules))
    for module, own in zip(modules, found.split(16, dim=1), strict=True):
        torch.testing.assert_close(module[3](own), module.eval()(x))


def test_what_has_no_features_is_told() -> None:
    with pytest.raises(UserError, match="object has no module, whose features"):
        feature_reader(object(), torch.zeros(2, 4))


@pytest.mark.parametrize("name", METHODS)
def test_the_first_of_many_draws_are_those_of_a_call_for_fewer(name: str) -> None:
    """What racing stands on: its early heats see some of the draws that the last sees."""
    data = labelled([0, 1, 2, 1])
    posterior = method(name).fit(network, data, generator=seeded())
    few, many = (posterior.draw(k, generator=seeded(7)).log_probs(data.inputs) for k in (3, 9))
    torch.testing.assert_close(few, many[:, :3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_train_and_be_read_in_bfloat16(name: str) -> None:
    data = labelled([0, 1, 2, 1])
    fitted = replace(method(name), training=Training(steps=5, precision="bfloat16"))  # type: ignore[type-var]
    draws = fitted.fit(network, data, generator=seeded()).draw(3, generator=seeded())
    exact, rough = draws.log_probs(data.inputs), in_precision("bfloat16", log_probs)(draws, data.inputs)
    assert rough.dtype == exact.dtype == torch.float32
    assert 0 < float((rough.exp() - exact.exp()).abs().max()) < 0.1
