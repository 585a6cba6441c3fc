"""Reading a module's torch.fx graph: what its nodes do, how they hang together, and swapping two of them."""

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import fuse_conv_bn_weights

from activebdl.posteriors._masks import is_dropout

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
_POOL_FUNCTIONS = (
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
)  # fmt: skip
_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "iand", "ior", "ixor", "ipow", "setitem")


class Tracer(fx.Tracer):
    """Looks into modules only as far as there is dropout in them; the rest may be as dynamic as it likes.

    It looks into every nn.Sequential, which cannot be dynamic, for a convolution and its batch norm may be in there.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if any(is_dropout(child) for child in m.modules()):
            return is_dropout(m)
        return type(m) is not nn.Sequential or has_hooks(m)


def read_code(module: nn.Module) -> str:
    """What the module does in its present mode, as torch.fx writes it down."""
    return Tracer().trace(module).python_code("self").src


class Shapes(fx.Interpreter):
    """Runs the graph once, and notes the shape of each value without its batch axis."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.item_shapes: dict[str, tuple[int, ...]] = {}
        self.input_of: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.item_shapes[n.name] = tuple(value.shape[1:]) if isinstance(value, Tensor) else ()
        if n.op == "call_module" and is_dropout(self.submodules[str(n.target)]):
            self.input_of[n.name] = self.env[n.all_input_nodes[0]]
        return value


def only_user(node: fx.Node) -> fx.Node | None:
    """The node that reads this one, if it is the only one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def downstream(graph: fx.Graph, sources: set[str]) -> set[str]:
    """The names of the nodes that depend on any of ``sources``, those included."""
    found = set(sources)
    for node in graph.nodes:
        if any(source.name in found for source in node.all_input_nodes):
            found.add(node.name)
    return found


def last_reads(nodes: Sequence[fx.Node], but: fx.Node) -> dict[str, list[str]]:
    """By node, the names of the values that no later one of ``nodes`` reads; ``but`` is kept."""
    reader = {source.name: node.name for node in nodes for source in node.all_input_nodes if source is not but}
    found: dict[str, list[str]] = {}
    for source, node in reader.items():
        found.setdefault(node, []).append(source)
    return found


def fold_batch_norms(graph: fx.Graph, modules: dict[str, nn.Module], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes batch norm into the layer before it, where nothing else reads that: in eval mode it is ``a x + b``.

    The layer with both in it is new, and is added to ``modules``; the user's own stay as they are.
    """
    for node in list(graph.nodes):
        source = node.all_input_nodes[0] if node.all_input_nodes else node
        if node.op != "call_module" or source.op != "call_module" or only_user(source) is not node:
            continue
        layer, norm = modules[str(source.target)], modules[str(node.target)]
        if type(norm) not in BATCH_NORM or has_hooks(norm) or has_hooks(layer):
            continue
        folded = _folded(layer, cast(nn.BatchNorm2d, norm), vectors=len(shapes[source.name]) == 1)
        if folded is not None:
            source.target = f"{source.target}, {node.target}"
            modules[source.target] = folded
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _folded(layer: nn.Module, norm: nn.BatchNorm2d, *, vectors: bool) -> nn.Module | None:
    """The layer with the batch norm behind it in its weights; None where that cannot be."""
    channels = type(layer) in CONVOLUTIONS or (type(layer) is nn.Linear and vectors)
    mean, variance = norm.running_mean, norm.running_var
    if not channels or mean is None or variance is None:  # without statistics it looks at the batch in eval mode too
        return None
    before = cast(Tensor, layer.weight)
    if {before.dtype, mean.dtype} not in ({torch.float32}, {torch.float64}):
        return None  # rounded weights of low precision would tell another function
    folded = copy.copy(layer)
    with torch.no_grad():
        weight, bias = fuse_conv_bn_weights(
            before, cast(Tensor | None, layer.bias), mean, variance, norm.eps, norm.weight, norm.bias
        )
    folded._parameters = {"weight": weight, "bias": bias}
    return folded


def swap(dropout: fx.Node, behind: fx.Node) -> None:
    """Turns ``source -> dropout -> behind`` into ``source -> behind -> dropout``."""
    source = dropout.all_input_nodes[0]
    behind.replace_all_uses_with(dropout)
    behind.replace_input_with(dropout, source)
    dropout.replace_input_with(source, behind)
    behind.append(dropout)


def is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node is a relu, leaky or not."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU | nn.LeakyReLU)
    return len(node.all_input_nodes) == 1 and node.target in (F.relu, torch.relu, F.leaky_relu, "relu")


def is_plain_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node is ``max(x, 0)`` of one value and nothing else."""
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU and not has_hooks(modules[str(node.target)])
    return len(node.all_input_nodes) == 1 and node.target in (F.relu, torch.relu, "relu", "relu_", torch.relu_)


def is_sum(node: fx.Node) -> bool:
    """Whether a node adds two values of the graph."""
    plus = (operator.add, operator.iadd, torch.add, "add", "add_")
    return node.target in plus and len(node.args) == 2 == len(node.all_input_nodes) and not node.kwargs


def is_pool(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node takes the maximum or the mean over neighbours, in every channel by itself."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return isinstance(module, _POOLS) and not getattr(module, "return_indices", False)
    plain = len(node.all_input_nodes) == 1 and not node.kwargs.get("return_indices", False)
    return plain and node.target in _POOL_FUNCTIONS


def in_place(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node may write into the first of the values that it reads."""
    if node.op == "call_module":
        return any(getattr(child, "inplace", False) for child in modules[str(node.target)].modules())
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    called = node.op in ("call_method", "call_function")
    by_name = (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE
    return called and (by_name or bool(node.kwargs.get("inplace", False)))


def has_hooks(module: nn.Module) -> bool:
    """Whether something else happens when the module is called, which a call with cut weights would miss."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def names_its_size(node: fx.Node) -> bool:
    """Whether a ``view`` or ``reshape`` tells the number of features, which is smaller when some are left out."""
    return node.target in ("view", "reshape") and bool(node.args[-1] != -1)


def attribute(module: nn.Module, path: str) -> Any:
    """What a dotted path from the module leads to."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found
