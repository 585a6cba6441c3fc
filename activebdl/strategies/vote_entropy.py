"""Vote entropy (Dagan and Engelson 1995): query by committee, with draws of the posterior as its members."""

import torch.nn.functional as F
from torch import Tensor

from activebdl.scoring import entropy
from activebdl.strategies import strategy


@strategy("vote_entropy", needs_disagreement=True, paper="Dagan and Engelson 1995")
def vote_entropy(log_probs: Tensor) -> Tensor:
    """Entropy of the draws' hard votes, in nats: 0 (all agree) <= VE <= log min(K, C).

    VE[x] = - sum_c v_c log v_c,  v_c = 1/K sum_k [ argmax p_k = c ]

    How sure a draw is of its vote does not matter, and with few draws many items tie. Dagan and Engelson divide by
    log min(K, C), which changes no order.
    """
    votes = F.one_hot(log_probs.argmax(dim=2), log_probs.shape[2]).to(log_probs.dtype)  # [N, K, C]
    return entropy(votes.mean(dim=1).log())
