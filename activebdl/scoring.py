"""The posterior over a pool, in bounded memory: batched draws, reduced chunk by chunk.

N: pool items, B: items of a chunk, K: draws, C: classes. What draws say, their predictions, is ``[N, K, C]``
log-probabilities in nats, or ``[N, K, 2]`` mean and variance of numbers.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from activebdl.data._workers import is_worker_gone, worker_died
from activebdl.data.dataset import Normalise
from activebdl.data.inputs import Inputs, chunks
from activebdl.devices import Precision, multiplying_in
from activebdl.errors import UserError
from activebdl.posteriors import Draws
from activebdl.progress import Advance
from activebdl.targets import Predict, log_probs

Score = Callable[[Tensor], Tensor]
"""``f(predictions [N, K, ...]) -> scores [N]``, higher is asked first."""


_FEW = 32  # items that tell, as a rule, whether draws differ
_ROUNDING = 1e-3  # above 0, of a log-probability in half precision
_LOOK = "look for NaN or huge values in that input, and at the loss of the fit"


def in_precision(precision: Precision, predict: Predict) -> Predict:
    """The same, by layers that multiply such numbers; bfloat16 has 8 significant bits, so it is a percent off."""

    def read(draws: Draws, x: Tensor) -> Tensor:
        with multiplying_in(precision, x.device):
            return predict(draws, x)

    return read


def ignore(count: int) -> None:
    """Tells nobody."""


class Elsewhere(Protocol):
    """Other processes that hold the same draws and inputs, and look at items in place of this one."""

    @property
    def inputs(self) -> Inputs:
        """What they hold."""
        ...

    def look(self, ids: Tensor, f: Callable[[Tensor], Tensor] | None, on_items: Advance) -> Tensor:
        """What `Scorer.reduce` gives by ``f``, or `Scorer.features` where there is none."""
        ...


@dataclass(frozen=True)
class Scorer:
    """K draws of a posterior, ready to look at any items of one collection of inputs.

    Args:
        draws: K functions.
        inputs: The collection; ids are positions in it.
        normalise: Turns stored inputs into what a network reads.
        device: Where the network lies.
        chunk: Items at a time; None takes what suits the device. It bounds the memory, and changes no score. Where
            memory runs out there are fewer at a time.
        on_items: Told the number of items after each chunk, for a progress bar.
        predict: What is read from the draws.
        read_features: What the last layer of the trained network reads, ``[B, ...] -> [B, D]``.
        target: What the labels are, and so what predictions may be: "classes" or "numbers".
        called: What one of the collection is called where it is told of, e.g. "test item".
        elsewhere: Who looks at them in place of this process, while the inputs are those that they hold.
    """

    draws: Draws
    inputs: Inputs
    normalise: Normalise
    device: torch.device
    chunk: int | None = None
    on_items: Advance = ignore
    predict: Predict = log_probs
    read_features: Callable[[Tensor], Tensor] | None = None
    target: str = "classes"
    called: str = "item"
    elsewhere: Elsewhere | None = None

    def features(self, ids: Tensor) -> Tensor:
        """What the last layer of the trained network reads of these items, ``[len(ids), D]``.

        Raises:
            UserError: The posterior has no network whose last layer is linear, or features are NaN or infinite; the
                sentence has the item's id.
        """
        if self.read_features is None:
            raise UserError(f"{type(self.draws).__name__} has no features, which the strategy looks at.")
        if (elsewhere := self._others()) is not None:
            return elsewhere.look(ids, None, ignore)
        read = self.read_features

        def look(x: Tensor, these: Tensor) -> Tensor:
            features = read(x).float().cpu()
            finite = features.isfinite().flatten(1).all(dim=1)
            if not bool(finite.all()):
                raise UserError(
                    f"The features of {self.called} {int(these[~finite][0])} hold NaN or infinity; {_LOOK}."
                )
            return features

        return self._walk(ids, look)

    def reduce(self, ids: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Applies ``f(predictions [B, K, ...]) -> [B, ...]`` chunk by chunk; joins the results, in the order of ids.

        Raises:
            UserError: Predictions that cannot be, such as NaN; the sentence has the item's id. Or ``f`` does not give a
                row per item.
        """
        if (elsewhere := self._others()) is not None:
            return elsewhere.look(ids, f, self.on_items)

        def look(x: Tensor, these: Tensor) -> Tensor:
            predictions = self.predict(self.draws, x)
            self._refuse_impossible(predictions, these)
            with torch.inference_mode():
                reduced = f(predictions).cpu()
            self.on_items(len(x))
            return reduced

        return self._walk(ids, look)

    def scores(self, ids: Tensor, score: Score) -> Tensor:
        """``score`` of every item in ``ids``: ``[len(ids)]``, float64.

        Raises:
            UserError: The score's values are not one number per item, or NaN.
        """
        values = self.reduce(ids, lambda predictions: checked_scores(score, predictions)).double()
        if bool(values.isnan().any()):
            raise UserError(
                f"The score of item {int(ids[values.isnan()][0])} is NaN; a score must be a number or -inf."
            )
        return values

    def predictions(self, ids: Tensor) -> Tensor:
        """What the draws say, held whole: for joint strategies, and for moments of numbers, which are small."""
        return self.reduce(ids, lambda predictions: predictions)

    def _others(self) -> Elsewhere | None:
        """Who looks at these inputs in place of this process."""
        others = self.elsewhere
        return others if others is not None and others.inputs is self.inputs else None

    def _refuse_impossible(self, predictions: Tensor, ids: Tensor) -> None:
        if self.target == "classes":
            # One pass and no copy, and one number a chunk is all that crosses from the device. NaN is both extremes.
            low, high = predictions.aminmax()
            if bool((low > -math.inf) & (high <= _ROUNDING)):
                return
        wrong = ~_possible(predictions, self.target)
        bad = wrong.flatten(1).any(dim=1).cpu()
        if bool(bad.any()):
            item = int(bad.nonzero()[0])
            value = float(predictions[item][wrong[item]][0])
            what = f"{self.called} {int(ids[item])}"
            raise UserError(_told(value, what) if self.target == "classes" else _told_of_moments(value, what))

    def _walk(self, ids: Tensor, look: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """``look(x [B, ...], ids [B])`` of all the items, joined; see `_parts`."""
        # What chunks give is written into one tensor as it comes: a list of small results, each kept while large chunks
        # come and go around it, would tear the heap, and the process would grow by the size of the whole pool.
        rows, done = torch.empty(0), 0
        for part in self._parts(ids, look):
            if done == 0:
                rows = torch.empty(len(ids), *part.shape[1:], dtype=part.dtype)
            rows[done : done + len(part)] = part
            done += len(part)
        return rows

    def _parts(self, ids: Tensor, look: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Tensor]:
        """``look(x [B, ...], ids [B])`` of some items at a time; of fewer when memory runs out.

        Raises:
            UserError: There is no memory for one item, or ``look`` does not give a row for each.
        """
        done, most = 0, self.chunk or default_chunk(self.device)
        with contextlib.closing(chunks(self.inputs, ids, most)) as stream:  # its worker processes end with an error
            for raw in stream:
                while len(raw) > 0:
                    some = raw[:most]
                    part = self._fitting(look, some, ids[done : done + len(some)])
                    if part is None:
                        most = max(1, len(some) // 2)
                        continue
                    if part.dim() == 0 or len(part) != len(some):
                        raise UserError(
                            f"A reduction gives a row per item; for {len(some)} it gave {list(part.shape)}."
                        )
                    yield part
                    done, raw = done + len(some), raw[len(some) :]

    def _fitting(self, look: Callable[[Tensor, Tensor], Tensor], raw: Tensor, ids: Tensor) -> Tensor | None:
        """What is seen of these stored items; None where they are too many for the memory."""
        try:
            return look(self.normalise(raw.to(self.device, non_blocking=True)), ids)
        except (RuntimeError, MemoryError) as error:
            if is_worker_gone(error):
                raise UserError(worker_died(f"what comes after {self.called} {int(ids[0])}")) from error
            if not is_out_of_memory(error):
                raise
            if len(raw) == 1:
                raise UserError(
                    f"The memory of {self.device} is too small for {self.called} {int(ids[0])} alone, seen by "
                    f"{self.draws.count} draws; take fewer draws, or a smaller network."
                ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None


def checked_scores(score: Score, predictions: Tensor) -> Tensor:
    """``score(predictions [N, K, ...])``, refused when it is not one number per item.

    Raises:
        UserError: With what it gave.
    """
    values: object = score(predictions)
    if not isinstance(values, Tensor) or values.shape != (len(predictions),):
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UserError(
            f"A score turns what draws say, [N, K, ...], into one number per item, [N]; for {len(predictions)} items "
            f"'{_name(score)}' gave {got}."
        )
    return values


def _name(score: Score) -> str:
    return getattr(getattr(score, "__self__", score), "name", getattr(score, "__name__", "score"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that there is no memory left; on a CPU torch has no exception of its own for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def default_chunk(device: torch.device) -> int:
    """Items at a time: on a CPU few enough that the activations of one draw stay in its cache."""
    return 256 if device.type == "cpu" else 4096


def predictive(log_probs: Tensor) -> Tensor:
    """The posterior predictive ``log 1/K sum_k p_k``: ``[N, K, C] -> [N, C]``, in nats."""
    return torch.logsumexp(log_probs, dim=1) - math.log(log_probs.shape[1])


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats over the last axis; ``0 log 0`` is 0."""
    return -(log_probs.exp() * log_probs.clamp_min(torch.finfo(log_probs.dtype).min)).sum(dim=-1)


def check_draws(scorer: Scorer, ids: Tensor) -> None:
    """Refuses draws that cannot disagree, for a score that needs disagreement.

    Args:
        scorer: K functions, and the items they look at.
        ids: Of these items; a few are enough unless the draws agree on them.

    Raises:
        UserError: K is 1, or all draws say the same of every item.
    """
    count = scorer.draws.count
    if count < 2:
        raise UserError(f"Disagreement needs at least 2 draws of the posterior, and there is {count}.")
    unseen = replace(scorer, on_items=ignore)  # no progress: these items come again
    if all(bool(unseen.reduce(some, _agreed).all()) for some in (ids[:_FEW], ids[_FEW:])):
        raise UserError(
            f"All {count} draws of the posterior are the same function, so their disagreement is zero "
            "everywhere: use a posterior that varies (mc_dropout with dropout in the network), or a score of one "
            "distribution (max_entropy, margin, least_confidence)."
        )


def _agreed(predictions: Tensor) -> Tensor:
    """Whether all draws say the same of an item: ``[B, K, ...] -> [B]``."""
    return (predictions == predictions[:, :1]).flatten(1).all(dim=1)


def _possible(predictions: Tensor, target: str) -> Tensor:
    """Whether each of the predictions may be: log-probabilities ``[B, K, C]``, or moments ``[B, K, 2]``."""
    if target == "classes":
        return (predictions > -math.inf) & (predictions <= _ROUNDING)
    mean, variance = predictions.isfinite().unbind(dim=-1)
    return torch.stack([mean, variance & (predictions[..., 1] > 0)], dim=-1)


def _told(value: float, what: str) -> str:
    """Why that is no log-probability."""
    if math.isnan(value):
        return f"The network gave NaN for {what}; {_LOOK}."
    if value < 0:
        return (
            f"The draws gave {what} a log-probability of -inf, a class that cannot be; take log_softmax of the logits, "
            "not the log of a softmax, which may be zero, and mask a class with -1e4 in place of -inf."
        )
    return (
        f"The draws gave {what} a log-probability of {value:g}, and none is above 0; log_probs must be normalised, as "
        "log_softmax does it."
    )


def _told_of_moments(value: float, what: str) -> str:
    """Why that is no mean or no variance."""
    if math.isfinite(value):
        return f"The draws gave {what} a variance of {value:g}, and it must be above 0."
    return f"The draws gave {what} a mean or variance of {value:g}; {_LOOK}."
