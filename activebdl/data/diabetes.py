"""scikit-learn's diabetes: a small regression on real people, embedded."""

from typing import Any

import torch

from activebdl.data import dataset
from activebdl.data.dataset import ActiveDataset, Normalise
from activebdl.errors import UserError
from activebdl.randomness import generator
from activebdl.targets import Numbers


@dataset("diabetes")
def diabetes(*, noise: float | None = None, beta: float = 0.5) -> ActiveDataset:
    """442 patients, ten measures each, the progression of their diabetes as a number (Efron et al. 2004).

    Split once for all: 342 pool, 100 test. The RMSE of always saying the mean is 71, that of ridge regression on the
    whole pool 47.

    Args:
        noise: Standard deviation of the noise, where it is taken as known; None has the network learn it.
        beta: Of the loss with which it is learned; see `activebdl.targets.Numbers`.
    """
    try:
        from sklearn.datasets import load_diabetes
    except ImportError as error:
        raise UserError("The data set 'diabetes' is scikit-learn's: pip install 'activebdl[cli]' brings it.") from error
    bunch: Any = load_diabetes()
    inputs, labels = torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target).double()
    order = torch.randperm(len(labels), generator=generator(0, 0, "split of diabetes"))
    pool, test = order[100:], order[:100]
    return ActiveDataset(
        name="diabetes",
        pool=inputs[pool],
        labels=labels[pool],
        test=inputs[test],
        test_labels=labels[test],
        target=Numbers(noise, beta),
        normalise=Normalise(std=len(labels) ** -0.5),  # each column is stored with mean 0 and sum of squares 1
    )
