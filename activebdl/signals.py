"""What stopping rules go by, measured once a round: labelled items held out for validation, and a stop set.

V: validation items, S: items of the stop set, K: draws, C: classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from activebdl.devices import float64
from activebdl.evaluation import quality
from activebdl.pool import Pool
from activebdl.randomness import generator, some_of
from activebdl.regression import Moments
from activebdl.scoring import Scorer, entropy, predictive
from activebdl.stopping.stable_predictions import cohen_kappa
from activebdl.targets import Numbers


def draw_stop_set(seed: int, pool_size: int, size: int) -> Tensor:
    """The same S items in every round of a run, whatever is asked for: ids, ascending."""
    return some_of(torch.arange(pool_size), size, generator(seed, 0, "stop set"))


def signals(scorer: Scorer, pool: Pool, watched: Tensor, before: Sequence[int] | None) -> dict[str, Any]:
    """What a round records for stopping rules; nothing where nobody asked for it.

    Args:
        scorer: The posterior's draws over the pool.
        pool: Which has the validation items.
        watched: Ids of the stop set.
        before: The classes predicted on it in the last round; None in the first.

    Returns:
        ``validation`` and ``watch`` as a `activebdl.rounds.Round` has them, and ``predicted``, what the next round
        needs of this one.
    """
    results: dict[str, Any] = {}
    if len(pool.validation):
        metrics = quality(scorer, pool.validation, pool.validation_labels, pool.target)
        results["validation"] = {**metrics, "size": len(pool.validation)}
    if len(watched) and isinstance(pool.target, Numbers):
        deviations = scorer.reduce(watched, lambda predictions: Moments.of(predictions).total.sqrt())
        results["watch"] = {"uncertainty": float(deviations.double().mean())}
    elif len(watched):
        seen = scorer.reduce(watched, _class_and_entropy)  # [S, 2]
        predicted = seen[:, 0].long()
        kappa = {} if before is None else {"kappa": cohen_kappa(torch.tensor(before), predicted)}
        results["watch"] = {"uncertainty": float(seen[:, 1].mean()), **kappa}
        results["predicted"] = predicted.tolist()
    return results


def _class_and_entropy(log_probs: Tensor) -> Tensor:
    """``[B, K, C] -> [B, 2]``: what the predictive says, and how unsure it is, in nats."""
    mean = predictive(log_probs)
    return torch.stack([float64(mean.argmax(dim=1)), float64(entropy(mean))], dim=1)
