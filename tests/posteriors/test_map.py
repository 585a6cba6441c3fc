import math

import pytest
import torch
from torch import Tensor, nn

from activebdl import MAP, Training, UserError
from activebdl.data import Labelled, Normalise
from activebdl.likelihoods import Categorical
from activebdl.posteriors.map import PointPosterior


def test_all_draws_are_the_network_itself() -> None:
    module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    module.eval()
    x = torch.randn(5, 2, dtype=torch.double)
    expected = module(x).log_softmax(-1)
    module.train()
    log_probs = PointPosterior(module).draw(4, generator=torch.Generator()).log_probs(x)
    assert log_probs.shape == (5, 4, 3)
    torch.testing.assert_close(log_probs, expected[:, None].expand(-1, 4, -1).detach(), rtol=0, atol=1e-12)
    assert module.training


def test_a_fit_goes_to_the_weights_that_the_closed_form_tells() -> None:
    """Two items of opposite class at x = +1 and -1, one weight: the L2 penalty's stationary point, by bisection."""
    decay = 0.1
    labelled = Labelled(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]), Categorical(2), Normalise())
    training = Training(
        steps=400, batch_size=2, optimizer="sgd", learning_rate=0.1, schedule="constant", weight_decay=decay
    )
    fitted = MAP(training).fit(lambda: nn.Linear(1, 2, bias=False), labelled, generator=torch.Generator())
    w = fitted.module.get_parameter("weight").flatten()
    # by symmetry w = (a, -a), and a solves  sigmoid(-2a) = decay a
    low, high = 0.0, 10.0
    for _ in range(100):
        a = (low + high) / 2
        low, high = (a, high) if 1 / (1 + 2.718281828459045 ** (2 * a)) > decay * a else (low, a)
    torch.testing.assert_close(w, torch.tensor([low, -low]), rtol=0, atol=1e-4)


def test_a_prior_precision_weighs_less_the_more_labels_there_are() -> None:
    def weight(n: int, **options: float) -> float:
        x = torch.tensor([[1.0], [-1.0]]).repeat(n // 2, 1)
        labelled = Labelled(x, torch.tensor([0, 1]).repeat(n // 2), Categorical(2), Normalise())
        training = Training(steps=400, batch_size=n, optimizer="sgd", learning_rate=0.1, schedule="constant", **options)  # type: ignore[arg-type]
        fitted = MAP(training).fit(lambda: nn.Linear(1, 2, bias=False), labelled, generator=torch.Generator())
        return float(fitted.module.get_parameter("weight")[0, 0])

    # a precision of .4 over 4 labels is a decay of .1
    assert abs(weight(4, weight_decay=0.0, prior_precision=0.4) - weight(4, weight_decay=0.1)) < 1e-5
    assert abs(weight(8, weight_decay=0.0, prior_precision=0.8) - weight(4, weight_decay=0.1)) < 1e-4
    assert weight(40, weight_decay=0.0, prior_precision=0.4) > weight(4, weight_decay=0.0, prior_precision=0.4) + 0.1


class SumOfTwo(nn.Module):
    """Logits ``a x + b x``, so that a prior on b alone leaves the fit to a."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


@pytest.mark.parametrize("prior_on", [("b",), ("b.weight",)])
def test_a_prior_on_one_layer_leaves_the_others_free(prior_on: tuple[str, ...]) -> None:
    labelled = Labelled(torch.ones(4, 1), torch.tensor([0, 0, 0, 1]), Categorical(2), Normalise())
    training = Training(
        steps=2000, batch_size=4, optimizer="sgd", learning_rate=0.1, schedule="constant", weight_decay=0.0,
        prior_precision=1.0, prior_on=prior_on,
    )  # fmt: skip
    module = MAP(training).fit(SumOfTwo, labelled, generator=torch.Generator()).module
    a, b = module.get_parameter("a.weight").flatten(), module.get_parameter("b.weight").flatten()
    # the maximum of the likelihood, 3 to 1, is reached by a alone, and b shrinks to its prior's mean
    assert abs(float(a[0] - a[1]) - math.log(3)) < 1e-4
    assert b.abs().max() < 1e-5


def test_a_prior_on_what_the_network_does_not_have_is_refused_before_it_is_trained() -> None:
    method = MAP(Training(prior_precision=1.0, prior_on=("dense",)))
    with pytest.raises(UserError, match=r"prior_on names 'dense', and the network has: a\.weight, b\.weight"):
        method.check(SumOfTwo(), torch.ones(2, 1))
