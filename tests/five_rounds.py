"""A loop of five rounds, long enough to stop in, with room for validation items in the first."""

from typing import Any

from activebdl import ActiveDataset, ActiveLearning
from tests import test_loop
from tests.test_loop import Network

COUNTS = (15, 20, 26, 32, 40)


def cycle(dataset: ActiveDataset, network: Network, **options: Any) -> ActiveLearning:
    return test_loop.cycle(dataset, network, **{"counts": COUNTS} | options)
