"""The data set's own labels: what benchmarks use."""

from torch import Tensor

from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError
from activebdl.oracles import Oracle, oracle
from activebdl.oracles.function import FunctionOracle


@oracle("dataset")
def dataset(dataset: ActiveDataset) -> Oracle:
    """Looks the label up in the data set, and what it costs where the data set has costs.

    Raises:
        UserError: The data set has no labels.
    """
    labels = true_labels(dataset)

    def look_up(items: Tensor, ids: Tensor) -> Tensor:
        return labels[ids]

    return FunctionOracle(look_up, name="dataset", costs=dataset.costs)


def true_labels(dataset: ActiveDataset) -> Tensor:
    """The data set's labels ``[N]``.

    Raises:
        UserError: It has none.
    """
    if dataset.labels is None:
        raise UserError(
            f"The data set '{dataset.name}' has no labels of its own; give them as labels=, or ask another oracle."
        )
    return dataset.labels
