"""Dropout in training with few masks for many items: parts of a batch share one, and what it drops is not computed.

Dropout as it is gives every item a mask of its own, so nothing can be left out. G masks for a whole batch make the
gradient noisier; here they are dealt so that each unit is dropped as evenly as its probability p allows:

    kept[g, r] = frac(r (1 - p) + u + g / G) < 1 - p,    u ~ U(0, 1),  r: the unit's place in a random order

Every unit is kept with probability 1 - p, as in dropout; n (1 - p) of n units are kept, up to rounding (so the cut
matrices of all steps have the same few shapes); and the parts of a batch drop other sets of units. With p = .5 and
G = 2 every unit is trained in each step, by one half of the batch or by the other.

B: items of a batch, G: masks for it, O: outputs.
"""

import math

import torch
from torch import Tensor, nn

from activebdl.data.dataset import Labelled
from activebdl.errors import UserError
from activebdl.modes import in_mode
from activebdl.posteriors._graph import BATCH_NORM, read_code
from activebdl.posteriors._masks import Site
from activebdl.posteriors._thinning import ThinnedGraph, thinned
from activebdl.training import Objective, loss_of


def deal_masks(
    sites: dict[str, Site], groups: int, generator: torch.Generator, device: torch.device
) -> list[dict[str, Tensor]]:
    """G sets of masks for one batch, true where values are kept, by the keys of ``sites``."""
    dealt = {name: _deal(site, groups, generator).to(device) for name, site in sites.items()}
    return [{name: masks[group] for name, masks in dealt.items()} for group in range(groups)]


def _deal(site: Site, groups: int, generator: torch.Generator) -> Tensor:
    """``[G, *shape]``."""
    keep = 1 - site.p
    place = torch.randperm(math.prod(site.shape), generator=generator).double().view(site.shape)
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    shift = torch.randperm(groups, generator=generator).double() / groups
    return (place * keep + start + shift.view(-1, *([1] * len(site.shape)))).frac() < keep


def shared_masks_loss(labelled: Labelled, groups: int, generator: torch.Generator) -> Objective:
    """The mean negative log-likelihood of a batch whose parts, one for each mask, go through thinned networks.

    Args:
        labelled: What the network is fitted to.
        groups: G.
        generator: Of the masks.
    """
    graph: ThinnedGraph | None = None

    def loss(module: nn.Module, x: Tensor, targets: Tensor, step: int) -> Tensor:
        nonlocal graph
        if graph is None:
            with torch.autocast(x.device.type, enabled=False):  # it would remember weights that have no gradient
                graph = training_graph(module, labelled.example)
        parts = x.chunk(groups)  # fewer than there are masks for small batches
        masks = deal_masks(graph.sites(), len(parts), generator, x.device)
        plans = [graph.plan(mask) for mask in masks]
        outputs = [graph.run_draw(graph.run_trunk(part), plan) for part, plan in zip(parts, plans, strict=True)]
        return loss_of(labelled, torch.cat(outputs), targets, step)

    return loss


def training_graph(module: nn.Module, example: Tensor) -> ThinnedGraph:
    """The module's graph with layers that are cut anew for each part of a batch, and trained through the cuts.

    Raises:
        UserError: torch.fx cannot follow the module, it does something else in training than in evaluation, or it has
            batch norm, whose statistics are of the whole batch.
    """
    name = type(module).__name__
    if any(isinstance(child, BATCH_NORM) for child in module.modules()):
        raise UserError(f"{name} has batch norm, which looks at a batch as a whole: leave masks_per_batch out.")
    graph, _ = thinned(module, example, training=True)
    if graph is None:
        raise UserError(f"What {name} does with a batch cannot be taken apart by torch.fx: leave masks_per_batch out.")
    with in_mode(module, training=True):
        in_training = read_code(module)
    with in_mode(module, training=False):
        if read_code(module) != in_training:
            raise UserError(f"{name} does something else in training, which would be lost: leave masks_per_batch out.")
    return graph
