"""BatchBALD (Kirsch, van Amersfoort, Gal 2019), greedy, lazily evaluated.

N: unlabelled items, K: draws, C: classes, Q: items asked for, b of which are chosen already.
"""

import math

import torch
from torch import Tensor

from activebdl.errors import UserError
from activebdl.progress import say
from activebdl.scoring import entropy
from activebdl.strategies import Query, Selection, joint_strategy
from activebdl.strategies._joint_entropy import Outcomes, candidates_at_once

_SKETCHES = (128, 1024)  # outcomes of a first look, and of a second
_SURE = 4  # standard errors by which an estimate is taken to be uncertain
_ROUNDING = 32  # machine epsilons by which a gain is


def _check(exact: int, samples: int) -> None:
    if exact < 1 or samples < 2:
        raise UserError(f"batchbald needs exact >= 1 and samples >= 2 outcomes, not {exact} and {samples}.")


@joint_strategy(
    "batchbald",
    target="classes",
    needs_disagreement=True,
    paper="Kirsch et al. 2019",
    memory="N K C",
    check=_check,
)
def batchbald(query: Query, *, exact: int = 10_000, samples: int = 10_000) -> Selection:
    """Mutual information of a whole batch's labels and the weights, in nats: 0 <= I <= log K.

    I(y_1..y_Q; theta) = H(y_1..y_Q) - sum_i 1/K sum_k H(y_i | theta_k)

    Unlike the top Q of `bald` it does not ask for the same thing twice: what one item of the batch will tell counts
    only once. Items are chosen one by one, each for its gain ``I(y; theta | y_1..y_b)``, which comes within
    1 - 1/e of the best batch; the scores are these gains, and their sum is the information of the batch.

    Information saturates at log K: many draws (100 and more) are needed for a batch of 10, and a line says so when
    they were too few.

    Args:
        query: What there is to choose from. What the draws say of all its items is held in memory, 4 K C bytes each.
        exact: The most outcomes of a batch's labels that are enumerated.
        samples: How many outcomes are drawn where there are more.
    """
    log_probs = query.model.predictions(query.unlabelled)
    with torch.inference_mode():
        chosen, gains = greedy(log_probs, query.quantity, query.generator, exact=exact, samples=samples)
    _tell_when_draws_ran_out(gains, log_probs.shape[1])
    return Selection(query.unlabelled[chosen], gains)


def greedy(
    log_probs: Tensor, quantity: int, generator: torch.Generator, *, exact: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Adds the item with the highest gain, Q times; equal gains in random order.

    Args:
        log_probs: ``[N, K, C]``.
        quantity: Q, at most N.
        generator: Breaks ties and draws outcomes.
        exact: See `batchbald`.
        samples: See `batchbald`.

    Returns:
        Positions ``[Q]`` in the order of choice, and gains ``[Q]`` in nats, float64.
    """
    step = candidates_at_once(*log_probs.shape[1:])
    noise = torch.empty(log_probs.shape[:2], dtype=log_probs.dtype)  # [N, K]; filled in place, for many small
    for block, of_block in zip(log_probs.split(step), noise.split(step), strict=True):  # pieces fragment the memory
        of_block.copy_(entropy(block))
    bounds = torch.full((len(log_probs),), math.inf, dtype=torch.double)
    tie = _ROUNDING * torch.finfo(log_probs.dtype).eps  # gains this close are equal
    outcomes = Outcomes.of_nothing(log_probs)
    chosen: list[int] = []
    gains: list[float] = []
    while len(chosen) < quantity:
        telling = outcomes.telling(tie / 2)
        for rows in _SKETCHES:  # most candidates are ruled out at a glance
            if 4 * rows < len(telling.weights):
                _look(log_probs, noise, bounds, telling.sketch(rows, generator), sure=_SURE)
        found = _look(log_probs, noise, bounds, telling, sure=0)
        tied = (found >= found.max() - tie).nonzero()[:, 0]
        best = int(tied[torch.randint(len(tied), (1,), generator=generator)])
        bounds[best] = -math.inf  # never again
        chosen.append(best)
        gains.append(float(found[best]))
        if len(chosen) < quantity:
            probs = log_probs[best].exp()
            outcomes = outcomes.extended(probs, exact=exact, samples=samples, generator=generator)
    return torch.tensor(chosen), torch.tensor(gains, dtype=torch.double)


def _look(log_probs: Tensor, noise: Tensor, bounds: Tensor, outcomes: Outcomes, *, sure: float) -> Tensor:
    """Evaluates the gains of the candidates that may be the best, and gives them, ``[N]``; minus infinity elsewhere.

    A gain never grows when items are added to the batch (it is submodular), so what it was before bounds what it is:
    candidates are evaluated in the order of their bounds, and those whose bound lies below the best are left alone
    (Minoux 1978). Of an estimate, the bound is what it is at most, four standard errors away.

    Args:
        log_probs: ``[N, K, C]``.
        noise: H[p_k], ``[N, K]``.
        bounds: On the gains, ``[N]``; lowered in place. Minus infinity for what is chosen.
        outcomes: Of the batch so far.
        sure: Standard errors by which the best may be less than its estimate.
    """
    tie = _ROUNDING * torch.finfo(log_probs.dtype).eps
    order = bounds.argsort(descending=True)[: int((bounds > -math.inf).sum())]
    most = candidates_at_once(*log_probs.shape[1:])
    gains = torch.full_like(bounds, -math.inf)
    best, at, size = -math.inf, 0, min(16, most)
    while at < len(order):
        block = order[at : at + size]
        block = block[bounds[block] >= best - tie]
        if len(block) == 0:
            break
        told, errors = outcomes.information(log_probs[block].exp(), noise[block])
        gains[block] = told.clamp_min(0)  # rounding may go below 0
        bounds[block] = torch.minimum(bounds[block], gains[block] + _SURE * errors)
        best = max(best, float((gains[block] - sure * errors).max()))
        at, size = at + size, min(2 * size, most)
    return gains


def _tell_when_draws_ran_out(gains: Tensor, draws: int) -> None:
    """Says so when the labels of some items leave fewer than two draws to disagree about the items after them."""
    known = gains.cumsum(0)[:-1]  # before the second, third, ... choice
    few = (known > math.log(draws / 2)).nonzero()[:, 0]  # log K - I is the entropy that is left over the draws
    if len(few):
        first = int(few[0])
        say(
            f"BatchBALD: {draws} draws are too few for a batch of {len(gains)}. They can tell at most log {draws} = "
            f"{math.log(draws):.2f} nats, and the labels of the first {first + 1} tell {float(known[first]):.2f}, "
            "which leaves fewer than 2 draws to disagree about the rest: take more draws, or fewer items at a time."
        )
