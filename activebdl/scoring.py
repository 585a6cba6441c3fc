"""The posterior over a pool, in bounded memory: batched draws, reduced chunk by chunk.

N: pool items, B: items of a chunk, K: draws, C: classes. Log-probabilities are ``[N, K, C]`` in nats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from activebdl.data.dataset import Inputs, Normalise, chunks
from activebdl.errors import UserError
from activebdl.posteriors import Draws
from activebdl.progress import Advance

Score = Callable[[Tensor], Tensor]
"""``f(log_probs [N, K, C]) -> scores [N]``, higher is asked first."""


def ignore(count: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Scorer:
    """K draws of a posterior, ready to look at any items of one collection of inputs.

    Args:
        draws: K functions.
        inputs: The collection; ids are positions in it.
        normalise: Turns stored inputs into what a network reads.
        device: Where the network lies.
        chunk: Items at a time; None takes what suits the device. It bounds the memory, and changes no score.
        on_items: Told the number of items after each chunk, for a progress bar.
    """

    draws: Draws
    inputs: Inputs
    normalise: Normalise
    device: torch.device
    chunk: int | None = None
    on_items: Advance = ignore

    def reduce(self, ids: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Applies ``f(log_probs [B, K, C]) -> [B, ...]`` chunk by chunk and joins the results, in the order of ids.

        Raises:
            UserError: A network gave NaN; the sentence has the item's id.
        """
        size = self.chunk or default_chunk(self.device)
        parts: list[Tensor] = []
        done = 0
        for raw in chunks(self.inputs, ids, size):
            x = self.normalise(raw.to(self.device, non_blocking=True))
            log_probs = self.draws.log_probs(x)
            _refuse_nan(log_probs, ids[done : done + len(raw)])
            with torch.inference_mode():
                parts.append(f(log_probs).cpu())
            done += len(raw)
            self.on_items(len(raw))
        return torch.cat(parts).clone() if parts else torch.empty(0)

    def scores(self, ids: Tensor, score: Score) -> Tensor:
        """``score`` of every item in ``ids``: ``[len(ids)]``, float64.

        Raises:
            UserError: The score's values are not one number per item, or NaN.
        """
        values = self.reduce(ids, lambda log_probs: checked_scores(score, log_probs)).double()
        if bool(values.isnan().any()):
            raise UserError(
                f"The score of item {int(ids[values.isnan()][0])} is NaN; a score must be a number or -inf."
            )
        return values

    def log_probs(self, ids: Tensor) -> Tensor:
        """``[len(ids), K, C]``, held whole: for joint strategies, on a part of the pool."""
        return self.reduce(ids, lambda log_probs: log_probs)


def checked_scores(score: Score, log_probs: Tensor) -> Tensor:
    """``score(log_probs [N, K, C])``, refused when it is not one number per item.

    Raises:
        UserError: With what it gave.
    """
    values: object = score(log_probs)
    if not isinstance(values, Tensor) or values.shape != (len(log_probs),):
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UserError(
            f"A score turns log_probs [N, K, C] into one number per item, [N]; for {len(log_probs)} items "
            f"'{getattr(score, '__name__', 'score')}' gave {got}."
        )
    return values


def check_score(score: Score, draws: int, classes: int) -> None:
    """Tries a score on two made-up items, before any label is asked for.

    Raises:
        UserError: It raises, or does not give one number per item.
    """
    log_probs = torch.randn(2, draws, classes, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    try:
        checked_scores(score, log_probs)
    except UserError:
        raise
    except Exception as error:
        name = getattr(score, "__name__", "score")
        raise UserError(f"The score '{name}' fails on log_probs [2, {draws}, {classes}]: {error}.") from error


def default_chunk(device: torch.device) -> int:
    """Items at a time: on a CPU few enough that the activations of one draw stay in its cache."""
    return 256 if device.type == "cpu" else 4096


def predictive(log_probs: Tensor) -> Tensor:
    """The posterior predictive ``log 1/K sum_k p_k``: ``[N, K, C] -> [N, C]``, in nats."""
    return torch.logsumexp(log_probs, dim=1) - math.log(log_probs.shape[1])


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats over the last axis; ``0 log 0`` is 0."""
    return -(log_probs.exp() * log_probs.clamp_min(torch.finfo(log_probs.dtype).min)).sum(dim=-1)


def check_draws(draws: Draws, log_probs: Tensor) -> None:
    """Refuses draws that cannot disagree, for a score that needs disagreement.

    Args:
        draws: K functions.
        log_probs: ``[B, K, C]`` of some items.

    Raises:
        UserError: K is 1, or all draws are the same function.
    """
    if draws.count < 2:
        raise UserError(f"Disagreement needs at least 2 draws of the posterior, and there is {draws.count}.")
    if bool((log_probs == log_probs[:, :1]).all()):
        raise UserError(
            f"All {draws.count} draws of the posterior are the same function, so their disagreement is zero "
            "everywhere: use a posterior that varies (mc_dropout with dropout in the network), or a score of one "
            "distribution (max_entropy, margin, least_confidence)."
        )


def _refuse_nan(log_probs: Tensor, ids: Tensor) -> None:
    # NaN survives the sum, and one number a chunk is all that has to cross from the device.
    if bool(log_probs.sum().isnan()):
        bad = log_probs.isnan().flatten(1).any(1).cpu()
        if bool(bad.any()):
            raise UserError(f"The network gave NaN for item {int(ids[bad][0])}; look for NaN in that input.")
