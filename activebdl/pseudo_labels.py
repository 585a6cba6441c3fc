"""Learning from items without a label: what the network is sure of must not change when the image is bent (FixMatch).

    L = -1/B sum_i log p(y_i | a(x_i))  +  weight/M sum_j 1[max_c p(c | u_j) >= threshold] (-log p(c_j | A(u_j)))

Sohn et al. 2020, "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence". The u_j are
items of the pool, the c_j the network's own guesses of their classes, made on the items as they are and without
dropout; only those that it is sure of count. a is the training's augmentation, A a stronger one.

With distribution alignment a guess is made by q in place of p,

    q(c | u)  ~  p(c | u) / max(C m_c, 1/20)        m: the mean of the p of late

Berthelot et al. 2020, "ReMixMatch: Semi-Supervised Learning with Distribution Matching and Augmentation Anchoring";
there the q have the frequencies of the labels, here all classes are alike, as what a strategy asks for tells nothing of
the pool's frequencies.

B: labelled items of a batch, M: items of the pool in a step, C: classes.
"""

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
        align: Distribution alignment: no class swallows another that has few labels yet. It takes all classes to be
            about equally frequent in the pool; leave it off where they are not.

    Raises:
        UserError: A number that cannot be.
    """

    items: int = 64
    threshold: float = 0.95
    weight: float = 1.0
    after: float = 0.15
    augmentation: Augmentation | None = field(default_factory=strong)
    from_labels: int = 0
    align: bool = False

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

    def over(self, labelled: Labelled, steps: int, layout: torch.memory_format, rng: torch.Generator) -> "Guessing":
        """The pool's part in a fit.

        Args:
            labelled: What is fitted to, with the pool that it comes from.
            steps: Those that look at the pool.
            layout: In which the module reads images.
            rng: Of the choice of items, and of the augmentation.

        Raises:
            UserError: The labelled items come without their pool.
        """
        return Guessing(self, labelled, steps, layout, rng)


class Guessing:
    """The pool's part in one fit, see `PseudoLabels.over`."""

    def __init__(
        self,
        settings: PseudoLabels,
        labelled: Labelled,
        steps: int,
        layout: torch.memory_format,
        rng: torch.Generator,
    ) -> None:
        if labelled.unlabelled is None:
            raise UserError("pseudo_labels need the pool, and Labelled.unlabelled is None.")
        self.settings, self.labelled, self.layout, self.rng = settings, labelled, layout, rng
        few = len(labelled) < settings.from_labels
        self.batches = iter(()) if few else labelled.unlabelled.batches(settings.items, steps, rng)
        self.shares: Tensor | None = None

    def loss(self, module: nn.Module) -> Tensor:
        """The second term of L in the next step, with gradients; 0 where the pool is left out, or has no more items.

        Args:
            module: In whatever mode it is trained; it is left so.
        """
        u = next(self.batches, None)
        if u is None:
            return torch.zeros((), device=self.labelled.device)
        u = u.to(self.labelled.device).float()
        sure, classes = self.guess(module, u).max(dim=1)
        # Also those of which it is not sure go through the network: batch norm is to see all kinds of items.
        bent = u if self.settings.augmentation is None else self.settings.augmentation(u, self.rng)
        surprise = F.cross_entropy(module(self._read(bent)).float(), classes, reduction="none")
        return self.settings.weight * (surprise * (sure >= self.settings.threshold)).mean()

    def guess(self, module: nn.Module, u: Tensor) -> Tensor:
        """Probabilities ``[M, C]`` of items ``u [M, ...]`` as stored: p, or q where they are aligned."""
        with evaluating(module), torch.no_grad():
            p = module(self._read(u)).float().softmax(dim=1)
        if not self.settings.align:
            return p
        mean = p.mean(dim=0)
        self.shares = mean if self.shares is None else self.shares.lerp(mean, 0.05)
        q = p / (p.shape[1] * self.shares).clamp(min=0.05)
        return q / q.sum(dim=1, keepdim=True)

    def _read(self, u: Tensor) -> Tensor:
        return self.labelled.normalise(u).contiguous(memory_format=self.layout)
