"""Uniformly at random: the baseline that every strategy has to beat."""

import torch
from torch import Tensor

from activebdl.strategies import Query, joint_strategy


@joint_strategy("random", needs=(), paper="folklore", memory="N")
def random(query: Query) -> Tensor:
    """Any Q items, each set of Q equally likely."""
    order = torch.randperm(len(query.unlabelled), generator=query.generator)
    return query.unlabelled[order[: query.quantity]]
