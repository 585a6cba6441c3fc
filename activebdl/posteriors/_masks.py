"""Dropout masks that are drawn once and held fixed: where dropout acts in a module, and what a mask does there.

B: items of a batch. A mask has no batch axis: it is the same for every item.
"""

import contextlib
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from activebdl.errors import UserError
from activebdl.modes import evaluating
from activebdl.randomness import global_rng_kept

UNIT_DROPOUT = (nn.Dropout, nn.AlphaDropout)
CHANNEL_DROPOUT = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)
DROPOUT = (*UNIT_DROPOUT, *CHANNEL_DROPOUT)
_FUNCTIONAL = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout,
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One place where dropout acts.

    Args:
        p: Probability with which a unit or channel is dropped.
        shape: Of the mask, without the batch axis: ``[..., features]`` or ``[channels, 1, 1]``.
        alpha: Whether what is dropped becomes SELU's saturation value in place of zero (Klambauer et al. 2017).
    """

    p: float
    shape: tuple[int, ...]
    alpha: bool = False

    @property
    def scale(self) -> float:
        """What the kept values are multiplied by, so that the mean stays."""
        return 0.0 if self.p == 1 else 1 / (1 - self.p)

    def sample(self, generator: torch.Generator) -> Tensor:
        """A mask, true where values are kept."""
        return torch.rand(self.shape, generator=generator) >= self.p

    def apply(self, x: Tensor, keep: Tensor) -> Tensor:
        """What dropout makes of ``x [B, ...]`` with this mask, as torch does it in training."""
        if not self.alpha:
            return x * (keep.to(x.dtype) * self.scale)
        saturation = -1.7580993408473766
        if self.p == 1:
            return torch.zeros_like(x)
        a = 1 / math.sqrt((1 - self.p) * (1 + self.p * saturation**2))
        return torch.where(keep, x, saturation) * a - a * self.p * saturation


def is_dropout(module: nn.Module) -> bool:
    """Whether the module drops anything."""
    return isinstance(module, DROPOUT) and module.p > 0


def site_of(module: nn.Module, x: Tensor) -> Site:
    """The site of a dropout module that reads ``x [B, ...]``."""
    assert isinstance(module, DROPOUT)
    item = tuple(x.shape[1:])
    shape = (item[0], *([1] * (len(item) - 1))) if isinstance(module, CHANNEL_DROPOUT) else item
    return Site(float(module.p), shape, alpha=isinstance(module, nn.AlphaDropout | nn.FeatureAlphaDropout))


def check_dropout(module: nn.Module, x: Tensor) -> None:
    """Refuses a module whose randomness cannot be held fixed, and one that has none.

    Args:
        module: The network.
        x: A small batch that it can read.

    Raises:
        UserError: There is no dropout module, or dropout that is no ``nn.Dropout*`` module.
    """
    name = type(module).__name__
    for child in module.modules():
        if isinstance(child, nn.RNNBase | nn.MultiheadAttention) and child.dropout > 0:
            raise UserError(
                f"{name} drops inside {type(child).__name__}(dropout=...), where MC-dropout cannot hold a mask fixed: "
                "set that to 0 and put nn.Dropout modules after it."
            )
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with _FunctionalDropout(module) as found, torch.no_grad(), global_rng_kept(x.device):
        module(x)
    for buffer, before in buffers:  # those of spectral norm change at every call in train mode
        buffer.copy_(before)
    if found.functional:
        raise UserError(
            f"{name} calls F.{found.functional} in its forward; MC-dropout can hold a mask fixed only for modules: "
            "use nn.Dropout, nn.Dropout2d, ... instead."
        )
    if not any(is_dropout(child) for child in module.modules()):
        raise UserError(
            f"{name} has no nn.Dropout module with p > 0, so all its draws would be the same: "
            "add dropout, or use the posterior 'map'."
        )
    shapes = [[site.shape for site in find_sites(module, batch).values()] for batch in (x, torch.cat([x, x[:1]]))]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"In {name} dropout acts where the batch is not the first axis (a transformer layer without batch_first?): "
            "one mask for all items cannot be held there."
        )


class _FunctionalDropout(TorchFunctionMode):
    """Notices calls of functional dropout that do not come from an ``nn.Dropout*`` module.

    Inside the block the module is in train mode, but for the layers that would update their statistics.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.functional = ""
        self._module = module
        self._inside = 0  # calls of dropout modules that have not returned yet

    def __enter__(self) -> "_FunctionalDropout":
        self._modes = {child: child.training for child in self._module.modules()}
        self._handles: list[Any] = []
        for child in self._modes:
            child.training = not hasattr(child, "running_mean")
            if isinstance(child, DROPOUT):
                self._handles.append(child.register_forward_pre_hook(self._enter_dropout))
                self._handles.append(child.register_forward_hook(self._leave_dropout, always_call=True))
        return cast("_FunctionalDropout", super().__enter__())

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for handle in self._handles:
            handle.remove()
        for child, training in self._modes.items():
            child.training = training

    def _enter_dropout(self, *_: object) -> None:
        self._inside += 1

    def _leave_dropout(self, *_: object) -> None:
        self._inside -= 1

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FUNCTIONAL and not self._inside and _drops(args, kwargs):
            self.functional = self.functional or func.__name__
        return func(*args, **kwargs)


def _drops(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    training = args[2] if len(args) > 2 else kwargs.get("training", True)
    return bool(training) and p > 0


def draw_masks(
    sites: dict[str, Site], k: int, generator: torch.Generator, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """K sets of masks; the first draws are the same however many are asked for."""
    for _ in range(k):
        yield {name: site.sample(generator).to(device) for name, site in sites.items()}


def run_with_masks(module: nn.Module, x: Tensor, masks: dict[str, Tensor], sites: dict[str, Site]) -> Tensor:
    """The whole module on ``x``, dropout replaced by the given masks: the plain path, for any module.

    Args:
        module: The network.
        x: ``[B, ...]``.
        masks: By the dropout module's name and the number of its call within one forward, "name#0".
        sites: By the same keys.
    """

    def replace(key: str, x: Tensor) -> Tensor:
        return sites[key].apply(x, masks[key].to(x.device))

    with _hooked(module, replace):
        return module(x)


def find_sites(module: nn.Module, x: Tensor) -> dict[str, Site]:
    """Where dropout acts when the module reads ``x [B, ...]``, in the order of the calls."""
    sites: dict[str, Site] = {}
    by_name = dict(module.named_modules())

    def record(key: str, x: Tensor) -> Tensor:
        sites[key] = site_of(by_name[key.rpartition("#")[0]], x)
        return x

    with _hooked(module, record), torch.no_grad():
        module(x)
    if not sites:
        raise UserError(f"The dropout modules of {type(module).__name__} are never called when it reads a batch.")
    return sites


@contextlib.contextmanager
def _hooked(module: nn.Module, on_dropout: Callable[[str, Tensor], Tensor]) -> Generator[None]:
    """Eval mode, in which each call of a dropout module gives ``on_dropout(key, its input)``."""
    calls: dict[str, int] = {}

    def hook_for(name: str) -> Callable[..., Tensor]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], __: Tensor) -> Tensor:
            call = calls.get(name, 0)
            calls[name] = call + 1
            return on_dropout(f"{name}#{call}", inputs[0] if inputs else named["input"])

        return hook

    handles: list[Any] = []
    fastpath = torch.backends.mha.get_fastpath_enabled()  # the fast path of transformers skips their dropout modules
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(module):
            for name, child in module.named_modules():
                if is_dropout(child):
                    handles.append(child.register_forward_hook(hook_for(name), with_kwargs=True))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for handle in handles:
            handle.remove()
