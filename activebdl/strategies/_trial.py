"""Whether a strategy can work in a run, before any label is asked for."""

from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError
from activebdl.posteriors import InferenceMethod
from activebdl.strategies import Strategy, resolve, strategy_names


def check_strategy(
    strategy: Strategy, dataset: ActiveDataset, method: InferenceMethod, draws: int, *, views: int = 1
) -> None:
    """Refuses a strategy that cannot work with the data set, the posterior, or as many draws from as many views."""
    kind = dataset.target.kind
    if strategy.target not in (kind, "any"):
        raise UserError(
            f"'{strategy.name}' is for {strategy.target}, and the labels of '{dataset.name}' are {kind}; "
            f"take one of {', '.join(strategy_names(kind, forms=False))} (a score of numbers takes 'moments')."
        )
    if strategy.missing:
        raise UserError(f"'{strategy.name}' has no default for its option '{strategy.missing[0]}'; say what it is.")
    if strategy.needs_costs and dataset.costs is None:
        raise UserError(
            f"'{strategy.name}' divides by what the label of an item costs, and the data set '{dataset.name}' has no "
            "costs; give it costs=, or take the score without 'per_cost_'."
        )
    if strategy.needs_disagreement and draws < 2:
        raise UserError(
            f"'{strategy.name}' measures how much draws of the posterior disagree, so it needs at least 2, and draws "
            f"is {draws}; 20 or more are usual."
        )
    if strategy.needs_disagreement and views < 2 and getattr(method, "draws_agree", False):
        names = strategy_names(kind, forms=False)
        others = [name for name in names if not resolve(name).needs_disagreement]
        raise UserError(
            f"'{strategy.name}' measures how much draws of the posterior disagree, and those of "
            f"{type(method).__name__} never do: take another posterior, such as mc_dropout, or one of "
            f"{', '.join(others)}."
        )
