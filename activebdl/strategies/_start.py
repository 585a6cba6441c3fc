"""The first items, chosen when no model knows anything yet."""

import torch
from torch import Tensor

from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError
from activebdl.strategies import Query, Strategy, resolve, strategies, strategy_names

BALANCED = "balanced"


def find_start(start: str | Strategy) -> Strategy | None:
    """The strategy that chooses the initial items; None for "balanced", which takes a data set to make.

    Raises:
        UserError: An unknown name, or a strategy that needs a model.
    """
    if start == BALANCED:
        return None
    known = not isinstance(start, str) or ":" in start or start in strategies.names() or start in strategy_names()
    if not known:
        raise UserError(f"Unknown start '{start}'. Known: {_known()}; or a strategy of your own that needs no model.")
    found = resolve(start)
    if found.needs_model:
        name = start if isinstance(start, str) else start.name
        raise UserError(
            f"The start '{name}' needs a model, and there is none before the first label. Take one of {_known()}; or "
            "one of your own, registered by @joint_strategy(..., needs=())."
        )
    return found


def _known() -> str:
    free = (name for name in strategies.names() if not strategies.get(name).needs_model)
    return ", ".join((BALANCED, *free))


def make_start(start: str | Strategy, dataset: ActiveDataset) -> Strategy:
    """How the initial items are chosen.

    Args:
        start: A strategy that needs no model, such as "random", "k_means" or "typiclust", or its name or reference; or
            "balanced": as many of each class as can be. Gal et al. (2017) and Kirsch et al. (2019) start so; it looks
            at the data set's labels, which a real pool does not have.
        dataset: Whose items they are.

    Raises:
        UserError: An unknown name, a strategy that needs a model, or "balanced" for a pool without labels.
    """
    found = find_start(start)
    if found is not None:
        return found
    if not dataset.classes:
        raise UserError(f"A balanced start needs classes, and the labels of '{dataset.name}' are numbers.")
    if dataset.labels is None:
        raise UserError(f"A balanced start needs the pool's labels, and the data set '{dataset.name}' has none.")
    labels = dataset.labels

    def balanced(query: Query) -> Tensor:
        return _balanced(labels, query)

    return Strategy(BALANCED, joint=balanced, needs=())


def _balanced(labels: Tensor, query: Query) -> Tensor:
    """Q ids, class by class in turn, at random within a class; what is labelled already counts as turns taken."""
    shuffled = query.unlabelled[torch.randperm(len(query.unlabelled), generator=query.generator)]
    turn = torch.empty_like(shuffled)  # each item's rank within its class
    for c in labels.unique():
        of_class = labels[shuffled] == c
        taken = int((labels[query.labelled] == c).sum())
        turn[of_class] = torch.arange(taken, taken + int(of_class.sum()))
    return shuffled[turn.sort(stable=True).indices[: query.quantity]]
