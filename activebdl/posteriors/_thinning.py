"""The work that K draws of MC-dropout share, and as little as possible for each draw by itself.

Three facts make it fast; all are exact, and the tests hold them against the plain path:

1. **Trunk once.** Whatever comes before the first dropout is the same for all draws.
2. **Dropout sinks.** A mask multiplies units or whole channels by a number >= 0. That commutes with relu, with
   flattening and, for whole channels, with pooling; so the dropout is moved behind them and the trunk grows.
3. **Thinned sub-networks** (Srivastava et al. 2014). A draw's mask is the same for every item, so what it drops need
   not be computed: the live rows and columns of the weights are cut out once per draw, and the matrices are smaller.
   Batch norm is no obstacle between two layers: it is written into the first.

The module is read with torch.fx. One that cannot be, or that this would get wrong, takes the plain path instead,
`_masks.run_with_masks`.
B: items of a batch, K: draws, C: classes.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from activebdl.errors import UserError
from activebdl.modes import evaluating
from activebdl.posteriors._cut_layers import Dropped, Weights, apply, cut, live, take_channels
from activebdl.posteriors._graph import (
    CONVOLUTIONS,
    Shapes,
    Tracer,
    attribute,
    downstream,
    fold_batch_norms,
    has_hooks,
    in_place,
    is_plain_relu,
    is_pool,
    is_relu,
    is_sum,
    last_reads,
    names_its_size,
    only_user,
    swap,
)  # fmt: skip
from activebdl.posteriors._masks import CHANNEL_DROPOUT, Site, draw_masks, is_dropout, site_of

_LANES = 16  # float32 numbers that a processor multiplies at once: a convolution of fewer channels is no faster


@dataclass(frozen=True)
class DrawPlan:
    """What one draw does in place of the module: by node name, cut weights, live channels, masks."""

    weights: dict[str, Weights]
    live: dict[str, Tensor]
    masks: dict[str, Tensor]


class ThinnedGraph:
    """A module with dropout, split into what all draws share and what each draw does by itself.

    Args:
        module: The network, which must be traceable by torch.fx.
        example: A batch that it can read, of two items or more.
        layout: Of images, and of the weights that are cut for them.
        training: For draws that are trained, each on items of its own, through the module's parameters as they are.
            Then no layer's work is shared if it can be cut, and nothing is written over that a gradient needs.
    """

    def __init__(
        self,
        module: nn.Module,
        example: Tensor,
        layout: torch.memory_format = torch.contiguous_format,
        *,
        training: bool = False,
    ) -> None:
        self._layout = layout
        self.graph = Tracer().trace(module)
        self.modules = dict(module.named_modules())
        self._refuse_what_is_unsafe(module)
        shapes = Shapes(module, self.graph)
        with torch.no_grad():
            shapes.run(example)
        self._shapes = shapes.item_shapes
        if not training:
            fold_batch_norms(self.graph, self.modules, self._shapes)
        self._sites = {n.name: site_of(self._module(n), shapes.input_of[n.name]) for n in self._dropout_nodes()}
        self._repeat = dict.fromkeys(self._sites, 1)
        for node in self._dropout_nodes():
            self._sink(node)
        stochastic = set(self._sites)
        if training:
            stochastic |= {before.name for node in self._dropout_nodes() if (before := self._cut_before(node))}
        stochastic = downstream(self.graph, stochastic)
        self.dropped = {node.name: self._describe(node, stochastic) for node in self._dropout_nodes()}
        self._source = {node.name: node.all_input_nodes[0].name for node in self._dropout_nodes()}
        nodes = [node for node in self.graph.nodes if node.op != "output"]
        self.trunk = [node for node in nodes if node.name not in stochastic]
        self.branch = [node for node in nodes if node.name in stochastic]
        self.output = cast(fx.Node, next(n for n in self.graph.nodes if n.op == "output").args[0])
        self._spent = last_reads(nodes, but=self.output)
        self._over = set() if training else {*self._written_over(self.trunk), *self._written_over(self.branch)}

    # ---- reading the graph

    def _refuse_what_is_unsafe(self, module: nn.Module) -> None:
        """Leaves to the plain path what this class would get wrong.

        Raises:
            NotImplementedError: A second input, or an in-place operation on a value that others read too.
            UserError: Dropout modules that are never called.
        """
        if len([node for node in self.graph.nodes if node.op == "placeholder"]) > 1:
            raise NotImplementedError("more than one input")
        if not self._dropout_nodes():
            raise UserError(f"The dropout modules of {type(module).__name__} are never called when it reads a batch.")
        for node in self.graph.nodes:
            if in_place(node, self.modules) and only_user(node.all_input_nodes[0]) is None:
                raise NotImplementedError("an in-place operation whose effect others see")

    def _dropout_nodes(self) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "call_module" and is_dropout(self._module(node))]

    def _module(self, node: fx.Node) -> nn.Module:
        return self.modules[str(node.target)]

    def _sink(self, dropout: fx.Node) -> None:
        """Moves a dropout behind the operations that it commutes with."""
        site = self._sites[dropout.name]
        if site.alpha:
            return  # it adds a constant where it drops, and so commutes with nothing
        channels = self._drops_channels(dropout)
        while (behind := only_user(dropout)) is not None:
            source = dropout.all_input_nodes[0]
            if in_place(behind, self.modules) and only_user(source) is None:
                return  # it would now write into a value that others read
            if is_relu(behind, self.modules) or (channels and is_pool(behind, self.modules)):
                pass
            elif self._flattens(behind, self._shapes[source.name]) and self._repeat[dropout.name] == 1:
                spatial = self._shapes[source.name][1:] if channels else ()
                self._repeat[dropout.name] = int(torch.Size(spatial).numel())
            else:
                return
            swap(dropout, behind)

    def _drops_channels(self, dropout: fx.Node) -> bool:
        """Whether whole channels are dropped; nn.Dropout2d on vectors drops units."""
        return isinstance(self._module(dropout), CHANNEL_DROPOUT) and len(self._sites[dropout.name].shape) > 1

    def _flattens(self, node: fx.Node, shape: tuple[int, ...]) -> bool:
        """Whether a node turns items of this shape into vectors."""
        by_module = node.op == "call_module" and isinstance(self._module(node), nn.Flatten)
        by_call = node.target in (torch.flatten, "flatten", "view", "reshape") and len(node.all_input_nodes) == 1
        return (by_module or by_call) and self._shapes[node.name] == (torch.Size(shape).numel(),)

    def _describe(self, dropout: fx.Node, stochastic: set[str]) -> Dropped:
        """Chooses the role of a dropout that has sunk as far as it can."""
        site, repeat = self._sites[dropout.name], self._repeat[dropout.name]
        after = self._read_by(dropout)
        if after is None:
            return Dropped(site, repeat, "mask", None, None)
        before = self._cut_before(dropout)
        if before is not None and before.name in stochastic:
            return Dropped(site, repeat, "cut", before.name, after.name)
        layer = self._module(after)
        whole = isinstance(layer, nn.Linear) or cast(nn.Conv2d, layer).in_channels <= _LANES
        return Dropped(site, repeat, "fold" if whole else "gather", None, after.name)

    def _cut_before(self, dropout: fx.Node) -> fx.Node | None:
        """The layer whose rows a dropout drops, if the layer behind it can do without them."""
        if self._read_by(dropout) is None:
            return None
        return self._computed_by(dropout.all_input_nodes[0], self._drops_channels(dropout))

    def _read_by(self, dropout: fx.Node) -> fx.Node | None:
        """The layer that multiplies each dropped entry by columns of its own, if that is what comes behind."""
        layer = only_user(dropout)
        if layer is None or self._sites[dropout.name].alpha:
            return None
        return layer if self._reads(layer, dropout, self._drops_channels(dropout)) else None

    def _reads(self, layer: fx.Node, dropout: fx.Node, channels: bool) -> bool:
        if layer.op != "call_module":
            return False
        module, shape = self._module(layer), self._shapes[dropout.all_input_nodes[0].name]
        if has_hooks(module):
            return False
        if type(module) is nn.Linear:
            return len(shape) == 1
        plain = type(module) in CONVOLUTIONS and cast(nn.Conv2d, module).groups == 1
        # padding with anything but zeros would be fine too, but a string padding is left to the plain path
        return plain and channels and len(shape) > 1 and not isinstance(cast(nn.Conv2d, module).padding, str)

    def _computed_by(self, node: fx.Node, channels: bool) -> fx.Node | None:
        """The layer whose rows are the entries that a dropout behind ``node`` drops, if nothing else reads them."""
        while only_user(node) is not None:
            if node.op == "call_module" and has_hooks(self._module(node)):
                return None
            if node.op == "call_module" and type(self._module(node)) is nn.Linear:
                return node if len(self._shapes[node.name]) == 1 else None
            if node.op == "call_module" and type(self._module(node)) in CONVOLUTIONS:
                conv = cast(nn.Conv2d, self._module(node))
                return node if channels and conv.groups == 1 and not isinstance(conv.padding, str) else None
            inputs = node.all_input_nodes
            if len(inputs) != 1:
                return None
            passes = is_relu(node, self.modules) or (channels and is_pool(node, self.modules))
            flattens = channels and self._flattens(node, self._shapes[inputs[0].name])
            if not passes and not (flattens and not names_its_size(node)):
                return None
            node = inputs[0]
        return None

    def _written_over(self, nodes: list[fx.Node]) -> Iterator[str]:
        """The relus and sums among these nodes that may write over the first value that they read.

        On a CPU a new tensor for each costs more than the sum itself.
        """
        fresh: set[str] = set()  # values made here that share memory with no other
        for node in nodes:
            made = self._module(node) if node.op == "call_module" else None
            if made is not None and type(made) in (nn.Linear, *CONVOLUTIONS) and not has_hooks(made):
                fresh.add(node.name)
            if is_sum(node) or is_plain_relu(node, self.modules):
                source = node.all_input_nodes[0]
                if source.name in fresh and only_user(source) is node:
                    yield node.name
                fresh.add(node.name)

    # ---- drawing

    def sites(self) -> dict[str, Site]:
        """Where masks are needed, in the order of the graph."""
        return self._sites

    def plan(self, masks: dict[str, Tensor]) -> DrawPlan:
        """Cuts the weights for one draw.

        Args:
            masks: True where values are kept, by the keys of `sites`.
        """
        rows: dict[str, Tensor] = {}
        columns: dict[str, tuple[Dropped, Tensor]] = {}
        plan = DrawPlan({}, {}, {})
        for name, dropped in self.dropped.items():
            keep = masks[name]
            if dropped.role == "mask":
                flat = dropped.repeat > 1 or len(self._shapes[self._source[name]]) == 1
                plan.masks[name] = keep.flatten().repeat_interleave(dropped.repeat) if flat else keep
                continue
            columns[cast(str, dropped.after)] = (dropped, keep.flatten())
            if dropped.role == "gather":
                plan.live[name] = live(keep)
            elif dropped.role == "cut":
                rows[cast(str, dropped.before)] = live(keep)
        for node in self.branch:
            if node.name in rows or node.name in columns:
                plan.weights[node.name] = cut(
                    self._module(node), rows.get(node.name), columns.get(node.name), self._layout
                )
        return plan

    # ---- running

    def run_trunk(self, x: Tensor) -> dict[str, Any]:
        """What all draws share, for a batch ``x [B, ...]``: by node name, the values that the draws read."""
        values: dict[str, Any] = {}
        for node in self.trunk:
            values[node.name] = x if node.op == "placeholder" else self._call(node, values)
            self._forget(node, values)
        return values

    def run_draw(self, trunk: dict[str, Any], plan: DrawPlan) -> Tensor:
        """Logits ``[B, C]`` of one draw, from what `run_trunk` gave."""
        values = dict(trunk)
        for node in self.branch:
            values[node.name] = self._run_node(node, values, plan)
            self._forget(node, values)
        return cast(Tensor, values[self.output.name])

    def _run_node(self, node: fx.Node, values: dict[str, Any], plan: DrawPlan) -> Any:
        if node.name in plan.weights:
            return apply(self._module(node), values[node.all_input_nodes[0].name], plan.weights[node.name])
        if node.name not in self.dropped:
            return self._call(node, values)
        x = cast(Tensor, values[node.all_input_nodes[0].name])
        if node.name in plan.masks:
            return self.dropped[node.name].site.apply(x, plan.masks[node.name])
        return take_channels(x, plan.live[node.name]) if node.name in plan.live else x

    def _forget(self, node: fx.Node, values: dict[str, Any]) -> None:
        """Lets go of what this node was the last to read: its memory is taken again while it is in the cache."""
        for name in self._spent.get(node.name, ()):
            del values[name]

    def _call(self, node: fx.Node, values: dict[str, Any]) -> Any:
        if node.name in self._over:
            x, *others = (values[source.name] for source in node.all_input_nodes)
            if not others:
                return x.relu_()
            if x.shape == others[0].shape and x.dtype == others[0].dtype:
                return x.add_(others[0])
        fresh = in_place(node, self.modules)  # a draw may not write into what the next one reads

        def value(source: fx.Node) -> Any:
            found = values[source.name]
            return found.clone() if fresh and isinstance(found, Tensor) else found

        args, kwargs = fx.map_arg((node.args, node.kwargs), value)
        if node.op == "call_module":
            return self._module(node)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "get_attr":
            return attribute(self.modules[""], str(node.target))
        return cast(Callable[..., Any], node.target)(*args, **kwargs)


def thinned(
    module: nn.Module, example: Tensor, *, training: bool = False
) -> tuple[ThinnedGraph | None, torch.memory_format]:
    """The module's graph, tried on the example in the fastest layout that it takes; None when no layout will do."""
    layouts = (torch.channels_last, torch.contiguous_format) if example.dim() == 4 else (torch.contiguous_format,)
    for layout in layouts:
        # What is caught: torch.fx cannot follow the forward, or the forward cannot take the layout.
        with (
            contextlib.suppress(TraceError, TypeError, AttributeError, NotImplementedError, RuntimeError, LookupError),
            evaluating(module),
            torch.no_grad(),
        ):
            graph = ThinnedGraph(module, example, layout, training=training)
            masks = next(draw_masks(graph.sites(), 1, torch.Generator().manual_seed(0), example.device))
            graph.run_draw(graph.run_trunk(example.contiguous(memory_format=layout)), graph.plan(masks))
            return graph, layout
    return None, torch.contiguous_format
