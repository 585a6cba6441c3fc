import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from activebdl import MAP, Labelled, Moments, Training, UserError
from activebdl.likelihoods import Gaussian, HeteroscedasticGaussian
from activebdl.posteriors._shared import OutputDraws
from activebdl.targets import Classes, Numbers

THREE = Classes(("a", "b", "c"))


class Known(OutputDraws):
    """Draws whose outputs are known, whatever the input."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    @property
    def count(self) -> int:
        return self.table.shape[1]

    def outputs(self, x: Tensor) -> Tensor:
        return self.table


@pytest.mark.parametrize("given", [2, np.int64(2), torch.tensor(2), np.uint8(2)])
def test_a_class_may_be_any_integer(given: Any) -> None:
    assert THREE.label(given) == 2 and type(THREE.label(given)) is int


@pytest.mark.parametrize("given", [None, -1, np.int8(-1)])
def test_who_abstains_of_classes(given: Any) -> None:
    assert THREE.label(given) is None


@pytest.mark.parametrize("given", [3, -2, 1.0, "1", float("nan"), [1]])
def test_what_is_no_class_is_refused(given: Any) -> None:
    with pytest.raises(UserError, match="labels run from 0 to 2, and -1 abstains"):
        THREE.label(given)


@pytest.mark.parametrize("given", [-1, np.float32(-1), torch.tensor(-1.0)])
def test_a_number_may_be_of_any_kind(given: Any) -> None:
    assert Numbers().label(given) == -1.0 and type(Numbers().label(given)) is float


def test_who_abstains_of_numbers() -> None:
    assert Numbers().label(None) is None and Numbers().label(float("nan")) is None


@pytest.mark.parametrize("given", [math.inf, "3", [1.0], 10**400, 1j, torch.tensor([1.0, 2.0])])
def test_what_is_no_number_is_refused(given: Any) -> None:
    with pytest.raises(UserError, match="labels are finite numbers, and NaN abstains"):
        Numbers().label(given)


def test_one_class_is_none_to_tell() -> None:
    with pytest.raises(UserError, match="at least two classes"):
        Classes(("all",))


@given(st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=20, unique=True), st.integers(0, 100))
def test_numbers_are_learned_in_standard_units_and_told_in_their_own(labels: list[int], seed: int) -> None:
    """y = mean + sd z: if z ~ N(m, v), then y ~ N(mean + sd m, sd^2 v)."""
    y = torch.tensor(labels, dtype=torch.double) / 7
    task = Numbers().task(y)
    mean, sd = y.mean(), y.std(correction=0)
    torch.testing.assert_close(task.labels.double() * sd + mean, y, rtol=1e-5, atol=float(1e-6 * y.abs().max() + 1e-9))
    outputs = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    told = task.predict(Known(outputs), torch.zeros(4, 1))
    torch.testing.assert_close(told[..., 0], mean + sd * outputs[..., 0])
    torch.testing.assert_close(told[..., 1], sd**2 * outputs[..., 1].exp())


def test_noise_that_is_known_stays_what_it_is() -> None:
    task = Numbers(noise=0.5).task(torch.tensor([1.0, 5.0, 9.0]))
    assert isinstance(task.likelihood, Gaussian)
    told = task.predict(Known(torch.zeros(2, 3, 1)), torch.zeros(2, 1))
    torch.testing.assert_close(told[..., 1], torch.full((2, 3), 0.25).double())
    torch.testing.assert_close(told[..., 0], torch.full((2, 3), 5.0).double())


@pytest.mark.parametrize("labels", [[7.0], [7.0, 7.0, 7.0], [0.1] * 7, [1000.7] * 3])
def test_labels_without_spread_have_a_unit_all_the_same(labels: list[float]) -> None:
    task = Numbers().task(torch.tensor(labels))
    assert task.labels.tolist() == [0.0] * len(labels)
    told = task.predict(Known(torch.zeros(1, 1, 2)), torch.zeros(1, 1))
    torch.testing.assert_close(told, torch.tensor([[[labels[0], 1.0]]], dtype=torch.double))


@pytest.mark.parametrize(("offset", "scale"), [(1.7e9, 1.0), (0.0, 1e22), (0.0, 1e-24), (-1e12, 1e3)])
def test_moments_keep_what_float32_would_lose(offset: float, scale: float) -> None:
    y = offset + scale * torch.tensor([1.0, 2.0, 4.0], dtype=torch.double)
    outputs = torch.tensor([[[0.5, 0.0], [0.25, 1.0]]])
    moments = Moments.of(Numbers().task(y).predict(Known(outputs), torch.zeros(1, 1)))
    sd = float(y.std(correction=0))
    torch.testing.assert_close(
        moments.epistemic, torch.tensor([(0.125 * sd) ** 2], dtype=torch.double), rtol=1e-4, atol=0
    )
    expected = torch.tensor([sd**2 * (1 + math.e) / 2], dtype=torch.double)
    torch.testing.assert_close(moments.aleatoric, expected, rtol=1e-6, atol=0)


def test_units_do_not_matter() -> None:
    """A fit to 1000 y + 300 says 1000 times what one to y says, and 300."""
    x = torch.linspace(-1, 1, 16)[:, None]
    y = (2 * x + x.square())[:, 0]
    told: list[Tensor] = []
    for labels in (y, 1000 * y + 300):
        task = Numbers().task(labels)
        labelled = Labelled(x, task.labels, task.likelihood)
        method = MAP(Training(steps=50, learning_rate=0.01))
        generator = torch.Generator().manual_seed(1)
        posterior = method.fit(
            lambda: nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 2)), labelled, generator=generator
        )
        told.append(task.predict(posterior.draw(1, generator=generator), x))
    torch.testing.assert_close(told[1][..., 0], 1000 * told[0][..., 0] + 300, rtol=1e-4, atol=0.1)
    torch.testing.assert_close(told[1][..., 1], 1e6 * told[0][..., 1], rtol=1e-3, atol=1.0)


def test_draws_without_outputs_are_told() -> None:
    with pytest.raises(UserError, match="object has no outputs"):
        Numbers().task(torch.tensor([1.0, 2.0])).predict(object(), torch.zeros(1, 1))


def test_widths() -> None:
    assert (THREE.width, Numbers().width, Numbers(noise=1.0).width) == (3, 2, 1)
    assert isinstance(Numbers(beta=0.2).task(torch.ones(2)).likelihood, HeteroscedasticGaussian)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.0}, "above 0"),
        ({"noise": math.inf}, "above 0"),
        ({"noise": "1"}, "above 0"),
        ({"beta": 2.0}, "from 0 to 1"),
    ],
)
def test_noise_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Numbers(**options)
