"""Expected predictive information gain (Bickford Smith, Kirsch, Farquhar, Gal, Foster, Rainforth 2023).

N: unlabelled items, B: items of a chunk, T: target inputs, K: draws, C: classes, Q: items asked for.
"""

from dataclasses import replace

import torch
from torch import Tensor

from activebdl.errors import UserError
from activebdl.randomness import some_of
from activebdl.scoring import entropy, ignore, predictive
from activebdl.strategies import Query, Selection, joint_strategy
from activebdl.strategies._joint_entropy import BLOCK
from activebdl.strategies._selection import top_k


def _check(targets: int) -> None:
    if targets < 1:
        raise UserError(f"epig needs at least 1 of the targets, not {targets}.")


@joint_strategy(
    "epig",
    target="classes",
    needs_disagreement=True,
    paper="Bickford Smith et al. 2023",
    memory="N + T K C",
    check=_check,
)
def epig(query: Query, *, targets: int = 200) -> Selection:
    """What a label would tell of the labels of other items, in nats: 0 <= EPIG <= BALD.

    EPIG(x) = E_x* I(y; y* | x, x*) = E_x* ( H(y | x) + H(y* | x*) - H(y, y* | x, x*) )

    where ``p(y, y* | x, x*) = 1/K sum_k p_k(y | x) p_k(y* | x*)``. `bald` asks what tells most about the weights, also
    about those that matter to no prediction; EPIG asks what tells most about predictions. It is the mean over target
    inputs x*, drawn from the data set's ``target_inputs``, or from all that is unlabelled where it has none. The top Q
    are chosen, and the scores are their EPIG.

    Args:
        query: What there is to choose from.
        targets: T, how many target inputs are drawn; the time grows with it.
    """
    model, ids = query.model, query.population
    if query.target_inputs is not None:
        model, ids = (
            replace(model, inputs=query.target_inputs, called="target input"),
            torch.arange(len(query.target_inputs)),
        )
    model = replace(model, on_items=ignore)  # progress is told of the items to choose from
    to_predict = model.predictions(some_of(ids, targets, query.generator))
    scores = query.model.scores(query.unlabelled, lambda log_probs: information(log_probs, to_predict))
    chosen = top_k(scores, query.quantity, query.generator)
    return Selection(query.unlabelled[chosen], scores[chosen])


def information(log_probs: Tensor, targets: Tensor) -> Tensor:
    """The mean over targets of I(y; y*), for each item: ``[B, K, C], [T, K, C] -> [B]``, in nats, float64."""
    t, k, c = targets.shape
    targets = targets.to(log_probs.device)
    probs = targets.exp().permute(1, 0, 2).reshape(k, t * c) / k  # [K, T C]
    alone = entropy(predictive(log_probs)).cpu().double() + entropy(predictive(targets)).cpu().double().mean()  # [B]
    size = max(1, BLOCK // (c * max(t * c, k)))  # so that the joint predictives fit into a block of memory
    together = torch.cat([_joint_entropies(block, probs) for block in log_probs.split(size)]) / t
    return (alone - together).clamp_min(0)  # rounding may go below 0


def _joint_entropies(log_probs: Tensor, probs: Tensor) -> Tensor:
    """The sum over targets of H(y, y*): ``[B, K, C], [K, T C] -> [B]``, float64."""
    b, k, c = log_probs.shape
    joint = log_probs.exp().transpose(1, 2).reshape(b * c, k) @ probs  # [B C, T C]
    nats = joint.clamp_min(torch.finfo(joint.dtype).tiny).log_().mul_(joint)
    return -nats.view(b, -1).sum(dim=1).cpu().double()  # not every device has float64
