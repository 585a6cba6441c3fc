"""Learning from items without a label: what the network is sure of must not change when the image is bent (FixMatch).

    L = -1/B sum_i log p(y_i | a(x_i))  +  weight/M sum_j 1[max_c p(c | u_j) >= threshold] (-log p(c_j | A(u_j)))

Sohn et al. 2020, "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence". The u_j are
items of the pool, the c_j the network's own guesses of their classes, made on the items as they are and without
dropout; only those that it is sure of count. a is the training's augmentation, A a stronger one.

B: labelled items of a batch, M: items of the pool in a step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activebdl.data.augment import Augmentation, strong
from activebdl.data.dataset import Labelled
from activebdl.errors import UserError
from activebdl.modes import evaluating


@dataclass(frozen=True)
class PseudoLabels:
    """How the pool takes part in a fit.

    Args:
        items: M, items of the pool in each step.
        threshold: Guesses below this probability do not count.
        weight: Of what they cost, beside the labels.
        after: Share of the steps that are taken on labels alone, before there is anything to be sure of.
        augmentation: A, what the guesses must stand; None leaves that to dropout alone (Lee 2013).
        from_labels: Fits to fewer labels leave the pool out. A network that has not seen a class yet, or hardly, calls
            it by another's name; were it to learn from that, it would be sure of it, and no strategy would ask.

    Raises:
        UserError: A number that cannot be.
    """

    items: int = 64
    threshold: float = 0.95
    weight: float = 1.0
    after: float = 0.15
    augmentation: Augmentation | None = field(default_factory=strong)
    from_labels: int = 0

    def __post_init__(self) -> None:
        if self.items < 2:  # batch norm has no statistics of one
            raise UserError(f"items of the pool in a step are at least 2, not {self.items}.")
        if not (0 <= self.threshold <= 1 and 0 <= self.after < 1 and self.weight >= 0):
            raise UserError(
                "threshold is a probability from 0 to 1, after a share below 1, and weight not negative; "
                f"they are {self.threshold}, {self.after} and {self.weight}."
            )
        if self.from_labels < 0:
            raise UserError(f"from_labels is a number of labels, not {self.from_labels}.")

    def batches(self, labelled: Labelled, steps: int, rng: torch.Generator) -> Iterator[Tensor]:
        """Items of the pool for so many steps, ``[M, ...]`` as stored; none where too few or all have labels.

        Args:
            labelled: Whose pool they come from.
            steps: Those that look at the pool.
            rng: Of the choice of items.

        Raises:
            UserError: The labelled items come without their pool.
        """
        if labelled.unlabelled is None:
            raise UserError("pseudo_labels need the pool, and Labelled.unlabelled is None.")
        if len(labelled) < self.from_labels:
            return iter(())
        return labelled.unlabelled.batches(self.items, steps, rng)

    def loss(
        self, module: nn.Module, labelled: Labelled, u: Tensor, layout: torch.memory_format, rng: torch.Generator
    ) -> Tensor:
        """The second term of L for one step, with gradients.

        Args:
            module: In whatever mode it is trained; it is left so.
            labelled: Beside which they are learned from.
            u: Items of the pool ``[M, ...]``, as stored.
            layout: In which the module reads images.
            rng: Of the augmentation.
        """
        u = u.to(labelled.device).float()
        with evaluating(module), torch.no_grad():
            guesses = module(labelled.normalise(u).contiguous(memory_format=layout)).float().softmax(dim=1)
        sure, classes = guesses.max(dim=1)
        # Also those of which it is not sure go through the network: batch norm is to see all kinds of items.
        bent = u if self.augmentation is None else self.augmentation(u, rng)
        outputs = module(labelled.normalise(bent).contiguous(memory_format=layout))
        surprise = F.cross_entropy(outputs.float(), classes, reduction="none")
        return self.weight * (surprise * (sure >= self.threshold)).mean()
