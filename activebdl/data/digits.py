"""scikit-learn's digits: small, embedded, for trials without a network."""

from typing import Any

import torch

from activebdl.data import dataset
from activebdl.data.dataset import ActiveDataset, Normalise
from activebdl.errors import UserError
from activebdl.randomness import generator
from activebdl.targets import Classes


@dataset("digits")
def digits() -> ActiveDataset:
    """1,797 handwritten digits of 8 x 8 (Alpaydin and Kaynak 1998), split once for all: 1,297 pool, 500 test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("The data set 'digits' is scikit-learn's: pip install 'activebdl[cli]' brings it.") from error
    bunch: Any = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8)[:, None]  # [1797, 1, 8, 8], values 0 to 16
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=generator(0, 0, "split of digits"))
    pool, test = order[500:], order[:500]
    return ActiveDataset(
        name="digits",
        pool=images[pool],
        labels=labels[pool],
        test=images[test],
        test_labels=labels[test],
        target=Classes(tuple("0123456789")),
        normalise=Normalise(scale=16.0, mean=0.3, std=0.38),
    )
