"""Test-time augmentation: an item is looked at several times, each time as another hand might have written it.

    p(y | x) ~= 1/K sum_k p(y | theta_k, a_k(x))

A draw of the posterior is then a draw of weights behind a map of the image: still one function, the same for every
item. The maps are V, the first of them none at all, and the draws take them in turn. See Wang et al. 2019, "Aleatoric
uncertainty estimation with test-time augmentation", and Gao et al. 2020, "Consistency-based Semi-supervised Active
Learning", who score with it.

B: items of a batch, K: draws, V: views, O: outputs of the network for one item.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from activebdl.data.augment import Affine, Augmentation
from activebdl.errors import UserError
from activebdl.posteriors import Draws, Posterior


def gentle() -> Affine:
    """Affine maps of about two thirds of the size that training has."""
    return Affine(rotation=8, shift=0.04, scale=0.07, shear=0.1)


@dataclass(frozen=True)
class Views:
    """How items are looked at when they are predicted.

    Args:
        count: V. Fewer draws than this leave out the last of them; of an ensemble of M, V M draws see every member from
            every view.
        augmentation: Of the views but the first; a map of where pixels come from, see `Augmentation`.
        scoring: Whether strategies look so too, or predictions alone do.

    Raises:
        UserError: There is not one view.
    """

    count: int = 5
    augmentation: Augmentation = field(default_factory=gentle)
    scoring: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"Items are looked at from at least 1 view, not {self.count}.")

    @staticmethod
    def of(given: "int | Views | None") -> "Views | None":
        """As many views as that, or true for as many as there are by default; None, or false, for none."""
        if isinstance(given, bool):
            return Views() if given else None
        return Views(given) if isinstance(given, int) else given

    def check(self, example: Tensor) -> None:
        """Refuses items that the augmentation cannot treat, before any label is asked for.

        Raises:
            UserError: They are no images.
        """
        if example.dim() != 4:
            raise UserError(f"Views are of images [channels, height, width]; an item here has {[*example.shape[1:]]}.")
        self._seen_from(example, 0)

    def draw(self, posterior: Posterior, k: int, generator: torch.Generator) -> "ViewedDraws":
        """K functions, views in turn; the first are the same however many are asked for."""
        seeds = torch.randint(2**62, (self.count, 2), generator=generator).tolist()
        parts: list[tuple[Draws, Callable[[Tensor], Tensor]]] = []
        for view, (own, seed) in enumerate(seeds[: min(self.count, k)]):
            draws = posterior.draw(len(range(view, k, self.count)), generator=torch.Generator().manual_seed(own))
            parts.append((draws, _as_it_is if view == 0 else _Look(self, seed)))
        return ViewedDraws(tuple(parts))

    def _seen_from(self, x: Tensor, seed: int) -> Tensor:
        """``x [B, channels, H, W]`` under one map for all: as channels of a single image."""
        together = x.contiguous().view(1, -1, *x.shape[2:])
        return self.augmentation(together, torch.Generator().manual_seed(seed)).view(x.shape)


@dataclass(frozen=True)
class _Look:
    views: Views
    seed: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.views._seen_from(x, self.seed)  # pyright: ignore[reportPrivateUsage]


def _as_it_is(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class ViewedDraws:
    """Draws of the weights for each view, taken in turn.

    Args:
        parts: For each view its draws, the first views having one more where K is no multiple, and the map.
    """

    parts: Sequence[tuple[Draws, Callable[[Tensor], Tensor]]]

    @property
    def count(self) -> int:
        """K."""
        return sum(draws.count for draws, _ in self.parts)

    def outputs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, O]``."""
        return self._in_turn([draws.outputs(look(x)) for draws, look in self.parts])  # pyright: ignore

    def log_probs(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, K, C]``, in nats."""
        return self._in_turn([draws.log_probs(look(x)) for draws, look in self.parts])

    def _in_turn(self, found: list[Tensor]) -> Tensor:
        """``[B, k_v, ...]`` of each view, put together so that the k-th draw is of view k mod V."""
        with torch.inference_mode():
            places = [torch.arange(part.shape[1]) * len(found) + view for view, part in enumerate(found)]
            return torch.cat(found, dim=1)[:, torch.cat(places).argsort().to(found[0].device)]
