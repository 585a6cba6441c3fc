"""The first items, chosen when no model knows anything yet."""

import torch
from torch import Tensor

from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError
from activebdl.strategies import Query, Strategy, strategies


def make_start(name: str, dataset: ActiveDataset) -> Strategy:
    """How the initial items are chosen.

    Args:
        name: "random", or "balanced": as many of each class as can be. Gal et al. (2017) and Kirsch et al. (2019)
            start so; it looks at the data set's labels, which a real pool does not have.
        dataset: Whose items they are.

    Raises:
        UserError: An unknown name, or "balanced" for a pool without labels.
    """
    if name == "random":
        return strategies.get("random")
    if name != "balanced":
        raise UserError(f"Unknown start '{name}'. Known: random, balanced.")
    if not dataset.classes:
        raise UserError(f"A balanced start needs classes, and the labels of '{dataset.name}' are numbers.")
    if dataset.labels is None:
        raise UserError(f"A balanced start needs the pool's labels, and the data set '{dataset.name}' has none.")
    labels = dataset.labels

    def balanced(query: Query) -> Tensor:
        return _balanced(labels, query)

    return Strategy("balanced", joint=balanced, needs_model=False)


def _balanced(labels: Tensor, query: Query) -> Tensor:
    """Q ids, class by class in turn, at random within a class."""
    shuffled = query.unlabelled[torch.randperm(len(query.unlabelled), generator=query.generator)]
    turn = torch.empty_like(shuffled)  # each item's rank within its class
    for c in labels.unique():
        of_class = labels[shuffled] == c
        turn[of_class] = torch.arange(int(of_class.sum()))
    return shuffled[turn.sort(stable=True).indices[: query.quantity]]
