"""Friedman's function: a regression whose truth is known, with noise that differs from place to place."""

import math

import torch

from activebdl.data import dataset
from activebdl.data.dataset import ActiveDataset, Normalise
from activebdl.errors import UserError
from activebdl.randomness import generator
from activebdl.targets import Numbers


@dataset("friedman")
def friedman(*, pool: int = 5000, test: int = 2000, inputs: int = 8, noise: float = 1.0) -> ActiveDataset:
    """Eight inputs, of which five matter, and noise that grows with the sixth (after Friedman 1991).

    ``y = 10 sin(pi x1 x2) + 20 (x3 - 1/2)^2 + 10 x4 + 5 x5 + 2 noise x6 e``, inputs even on [0, 1], e standard normal.
    What cannot be known of a test label has a mean square of ``4/3 noise^2``.

    Args:
        pool: N.
        test: T.
        inputs: At least 6.
        noise: Its mean standard deviation.
    """
    if pool < 1 or test < 1 or inputs < 6 or not 0 <= noise < math.inf:
        raise UserError(
            "friedman needs at least 1 item in pool and test, 6 inputs and a finite noise of at least 0; "
            f"given: pool {pool}, test {test}, inputs {inputs}, noise {noise}."
        )
    rng = generator(0, 0, "friedman")
    x = torch.rand(pool + test, inputs, generator=rng)
    y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5).square() + 10 * x[:, 3] + 5 * x[:, 4]
    y = (y + 2 * noise * x[:, 5] * torch.randn(len(x), generator=rng)).double()
    return ActiveDataset(
        name=f"friedman-{pool}-{inputs}-{noise:g}",
        pool=x[:pool],
        labels=y[:pool],
        test=x[pool:],
        test_labels=y[pool:],
        target=Numbers(),
        normalise=Normalise(mean=0.5, std=12**-0.5),
    )
