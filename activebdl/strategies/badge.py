"""BADGE, batch active learning by diverse gradient embeddings (Ash, Zhang, Krishnamurthy, Langford, Agarwal 2020).

The gradient of the loss in the last layer's weights, under the label that the model itself would give:

    g_x = (p_x - e_yhat) (x) h_x,    yhat = argmax_y p_x(y)

with p the posterior predictive, h the features that the last layer reads, (x) the outer product. It is long where the
model is unsure. A batch is a k-means++ seeding (Arthur and Vassilvitskii 2007) of these embeddings: each next item is
drawn in proportion to the squared distance to the nearest of those already in the batch, so that the batch is of long
and differing gradients. The first is the item of the longest, as in the authors' own program.

The embeddings ``[N, C D]`` are never formed, for a product of outer products is the product of the products:

    <g_x, g_y> = <a_x, a_y> <h_x, h_y>,    a_x = p_x - e_yhat

so that the distances to one more item of the batch cost O(N (C + D)).

N: unlabelled items, C: classes, D: features, Q: items asked for.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from activebdl.strategies import Query, Selection, joint_strategy
from activebdl.strategies._batches import BLOCK, class_probabilities, drawn, largest, without_rounding


@joint_strategy(
    "badge",
    target="classes",
    needs=("draws", "features"),
    paper="Ash et al. 2020",
    memory="N (C + D)",
)
def badge(query: Query) -> Selection:
    """Items that are unsure and differ: a k-means++ seeding of the last layer's gradients.

    The gradients are those under the labels that the model itself would give. The scores are the squared distances
    to the nearest of the batch so far; of the first, its squared length.
    """
    p = class_probabilities(query, query.unlabelled)
    gradients = Gradients.of(p, query.model.features(query.unlabelled))
    chosen, scores = seeding(gradients, query.quantity, query.generator)
    return Selection(query.unlabelled[chosen], scores)


@dataclass(frozen=True)
class Gradients:
    """N embeddings ``g_x = a_x (x) h_x``, by their two factors.

    Args:
        errors: ``a [N, C]``, float64.
        features: ``h [N, D]``, as they come; products are summed in float64.
    """

    errors: Tensor
    features: Tensor

    @staticmethod
    def of(probabilities: Tensor, features: Tensor) -> "Gradients":
        """Under the most probable label each: of ``p [N, C]`` and ``h [N, D]``."""
        given = F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1])
        return Gradients(probabilities - given, features)

    @cached_property
    def lengths(self) -> Tensor:
        """``|g_x|^2 = |a_x|^2 |h_x|^2``: ``[N]``."""
        lengths = torch.cat([block.double().square().sum(dim=1) for block in self._blocks])
        return self.errors.square().sum(dim=1) * lengths

    def squared_distances(self, i: int) -> Tensor:
        """``|g_x - g_i|^2`` of every x: ``[N]``; of i itself and its duplicates zero."""
        h = self.features[i].double()
        products = (self.errors @ self.errors[i]) * torch.cat([block.double() @ h for block in self._blocks])
        lengths = self.lengths + self.lengths[i]
        return without_rounding(lengths - 2 * products, lengths)

    @property
    def _blocks(self) -> tuple[Tensor, ...]:
        return self.features.split(max(1, BLOCK // self.features.shape[1]))


def seeding(gradients: Gradients, quantity: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """k-means++: positions ``[Q]``, distinct, and the squared distance ``[Q]`` of each when it was drawn.

    Where none that is left has any distance, all that are left are as likely.
    """
    nearest = gradients.lengths
    free = torch.ones_like(nearest)
    chosen: list[int] = []
    scores: list[Tensor] = []
    for _ in range(quantity):
        pick = drawn(nearest * free, free, generator) if chosen else largest(nearest, generator)
        scores.append(nearest[pick])
        chosen.append(pick)
        free[pick] = 0
        distances = gradients.squared_distances(pick)
        nearest = distances if len(chosen) == 1 else torch.minimum(nearest, distances)
    return torch.tensor(chosen), torch.stack(scores)
