"""What is asked of a strategy, and what it answers. N: unlabelled items, Q: items asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from activebdl.data.dataset import Normalise
from activebdl.data.inputs import Inputs
from activebdl.errors import UserError
from activebdl.racing import Heat
from activebdl.scoring import Scorer

AT_A_TIME = 1024
"""Items whose features are found at once: strategies bound their memory by what they get, and images are larger."""


@dataclass(frozen=True)
class Query:
    """What a joint strategy may use to choose.

    Args:
        unlabelled: Ids ``[N]`` that may be chosen, ascending: all that have no label, or candidates out of them.
        labelled: Ids that have a label, ascending.
        quantity: Q, how many to choose; a strategy is never shown more than N.
        generator: The source of all randomness of the choice.
        scorer: The posterior's draws over the pool; None for strategies that need no model.
        inputs: The pool's inputs, as they are stored; ids are positions in it.
        normalise: Turns them into what a network reads.
        costs: What a label of each of the pool's items costs, ``[N]`` by id, float64; None where nobody says.
        target_inputs: Inputs that predictions will be wanted for, as they are stored; None where the pool is like them.
        chosen_from: All ids without a label, ascending, where ``unlabelled`` are candidates out of them.
        embed: Features learned from the pool without labels, of normalised inputs; None where there are none.
        heats: Of a race, before all draws are seen, see `activebdl.racing`; none where every item is seen by all.
    """

    unlabelled: Tensor
    labelled: Tensor
    quantity: int
    generator: torch.Generator
    scorer: Scorer | None = None
    inputs: Inputs | None = None
    normalise: Normalise = field(default_factory=Normalise)
    costs: Tensor | None = None
    target_inputs: Inputs | None = None
    chosen_from: Tensor | None = None
    embed: Callable[[Tensor], Tensor] | None = None
    heats: tuple[Heat, ...] = ()

    @property
    def population(self) -> Tensor:
        """All ids without a label, those too that may not be chosen: what the choice is to serve."""
        return self.unlabelled if self.chosen_from is None else self.chosen_from

    def items(self, ids: Tensor) -> Tensor:
        """What an item is like, ``[n, ...]`` on the CPU: for strategies that look at the items themselves.

        The inputs as a network reads them; or, where a network was trained on the pool without labels, its features.
        """
        if self.inputs is None:
            raise UserError("This query has no inputs, which the strategy looks at.")
        if self.embed is None:
            return self.normalise(self.inputs[ids])
        return torch.cat([self.embed(self.normalise(self.inputs[some])) for some in ids.split(AT_A_TIME)])

    @property
    def model(self) -> Scorer:
        """The posterior's draws over the pool."""
        if self.scorer is None:
            raise UserError(
                "A strategy asked for the model that it is registered without: say needs=('draws',), or 'features'."
            )
        return self.scorer

    def that_can_be_met(self) -> "Query":
        """For no more items than there are.

        Raises:
            UserError: None is asked for, or none is left.
        """
        if self.quantity < 1:
            raise UserError(f"A query asks for at least 1 item, not {self.quantity}.")
        if len(self.unlabelled) == 0:
            raise UserError("There is nothing to choose from: no item is unlabelled.")
        return replace(self, quantity=min(self.quantity, len(self.unlabelled)))


@dataclass(frozen=True)
class Selection:
    """What a strategy chose.

    Args:
        ids: ``[Q]``, in the order of choice.
        scores: ``[Q]``, theirs; None where there are none.
        samples: How many items times draws were looked at; None where that was not counted.
    """

    ids: Tensor
    scores: Tensor | None = None
    samples: int | None = None
