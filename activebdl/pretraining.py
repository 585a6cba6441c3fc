"""Features that the pool teaches before anybody labels: an image is told from all others, however it is bent (SimCLR).

    L = -1/2B sum_i log ( exp(z_i . z_i' / tau) / sum_{l != i} exp(z_i . z_l / tau) )

Chen, Kornblith, Norouzi and Hinton 2020, "A Simple Framework for Contrastive Learning of Visual Representations". Each
of B items is augmented twice; z_i is the projection, of length 1, of one of the 2B images, z_i' that of the other image
of its item. Every fit then begins with these weights, all but those of the last layer, and not with random ones.

B: items of a batch, D: features, P: dimensions of the projection.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from activebdl.data.augment import Augmentation, Elastic
from activebdl.data.dataset import ActiveDataset
from activebdl.data.inputs import Inputs
from activebdl.errors import UserError
from activebdl.files import cache_folder, writing_safely
from activebdl.posteriors._last_layer import LastLayer
from activebdl.progress import Advance
from activebdl.randomness import global_rng_from, global_rng_kept
from activebdl.training import lay_out

LOOK = 50
"""Steps after which the loss is looked at again."""

SAMPLE = 1000
"""Items of a pool by which it is known again."""


def strong() -> Elastic:
    """Far enough that only what makes an image that image remains."""
    return Elastic(rotation=20, shift=0.1, scale=0.2, shear=0.25)


@dataclass(frozen=True)
class SimCLR:
    """How features are learned from a pool without labels.

    Args:
        steps: Optimiser steps.
        batch_size: B; the more there are, the more each image has to be told from.
        learning_rate: The highest of a one-cycle schedule of AdamW.
        temperature: tau; lower looks at the most alike among the others.
        projection: P.
        augmentation: What an image is recognised through.
    """

    steps: int = 1500
    batch_size: int = 256
    learning_rate: float = 2e-3
    temperature: float = 0.2
    projection: int = 64
    augmentation: Augmentation = field(default_factory=strong)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or self.projection < 1:
            raise UserError(
                "SimCLR takes at least 1 step, 2 items in a batch and 1 dimension of the projection; they are "
                f"{self.steps}, {self.batch_size} and {self.projection}."
            )
        if not (self.learning_rate > 0 and self.temperature > 0):
            raise UserError("The learning rate and the temperature of SimCLR must be above 0.")

    def fit(
        self,
        network: Callable[[], nn.Module],
        dataset: ActiveDataset,
        device: torch.device,
        *,
        generator: torch.Generator,
        advance: Advance,
    ) -> dict[str, Tensor]:
        """Trains a fresh network on the pool's inputs.

        Args:
            network: Makes a fresh module that ends in a linear layer.
            dataset: Whose pool it is; labels and test set are not looked at.
            device: Where to.
            generator: The source of all randomness.
            advance: Told of every step.

        Returns:
            By name the weights and buffers, on the CPU, of all layers but the last.

        Raises:
            UserError: The network does not end in one linear layer, or the loss is not finite.
        """
        with global_rng_from(generator, device):
            module = network().to(device)
            example = dataset.normalise(dataset.pool[torch.tensor([0, 0])].to(device))
            layout = lay_out(module, example)
            last = LastLayer.of(module, example).name
            layer = module.get_submodule(last)
            assert isinstance(layer, nn.Linear)
            width = layer.in_features
            head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.projection)).to(device)
            read: list[Tensor] = []
            handle = layer.register_forward_pre_hook(lambda _, args: read.append(args[0]))

            def project(x: Tensor) -> Tensor:
                read.clear()
                module(dataset.normalise(x).contiguous(memory_format=layout))
                return head(read[0])

            module.train()
            self._optimise(
                [*module.parameters(), *head.parameters()], project, dataset.pool, device, generator, advance
            )
            handle.remove()
        return {key: value.cpu() for key, value in module.state_dict().items() if not key.startswith(f"{last}.")}

    def _optimise(
        self,
        parameters: Sequence[Tensor],
        project: Callable[[Tensor], Tensor],
        pool: Inputs,
        device: torch.device,
        rng: torch.Generator,
        advance: Advance,
    ) -> None:
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=1e-4, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.steps + 1, pct_start=0.1
        )
        for step in range(self.steps):
            x = pool[torch.randint(len(pool), (self.batch_size,), generator=rng)].to(device).float()
            loss = contrastive_loss(
                project(torch.cat([self.augmentation(x, rng), self.augmentation(x, rng)])), self.temperature
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(1)
            if step % LOOK == 0 and not bool(torch.isfinite(loss)):
                raise UserError(f"The loss of the pretraining became {loss.item()}: lower its learning rate.")


def contrastive_loss(z: Tensor, temperature: float) -> Tensor:
    """L of projections ``[2B, P]`` of any length, of which the i-th and the (B + i)-th are of one item."""
    z = F.normalize(z.float(), dim=1)
    likeness = z @ z.T / temperature
    likeness = likeness.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    return F.cross_entropy(likeness, torch.arange(len(z), device=z.device).roll(len(z) // 2))


@dataclass(frozen=True)
class Pretrained:
    """Makes fresh networks with features that are learned already; only the last layer is random.

    Args:
        network: Makes a fresh one.
        weights: By name, those of all layers but the last.
    """

    network: Callable[[], nn.Module]
    weights: Mapping[str, Tensor]

    def __call__(self) -> nn.Module:
        """A fresh network, on the CPU."""
        module = self.network()
        module.load_state_dict(dict(self.weights), strict=False)
        return module


def pretrained(
    network: Callable[[], nn.Module],
    dataset: ActiveDataset,
    settings: SimCLR,
    device: torch.device,
    *,
    seed: int,
    generator: torch.Generator,
    advance: Advance,
) -> Pretrained:
    """`Pretrained`, from the cache where the same was learned before; other processes that want it wait.

    Args:
        network: Makes a fresh module.
        dataset: Whose pool teaches.
        settings: How.
        device: Where it is trained.
        seed: Of the run, by which what is learned is known again.
        generator: The source of all randomness, made from the seed.
        advance: Told of every step.

    Raises:
        UserError: As for `SimCLR.fit`.
    """
    folder = cache_folder() / "pretrained"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_digest(network, dataset, settings, device, seed)}.pt"
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            advance(settings.steps)
            return Pretrained(network, torch.load(path, weights_only=True))
        weights = settings.fit(network, dataset, device, generator=generator, advance=advance)
        with writing_safely(path) as file:
            torch.save(weights, file)
    return Pretrained(network, weights)


def _digest(
    network: Callable[[], nn.Module], dataset: ActiveDataset, settings: SimCLR, device: torch.device, seed: int
) -> str:
    """Of all that decides what is learned; of the pool, some of its items."""
    ids = torch.linspace(0, len(dataset.pool) - 1, min(SAMPLE, len(dataset.pool))).long()
    seen = hashlib.blake2b(dataset.pool[ids].contiguous().numpy().tobytes(), digest_size=16)
    with global_rng_kept(device):
        architecture = str(network())
    told = (architecture, len(dataset.pool), repr(dataset.normalise), repr(settings), device.type, seed)
    seen.update(repr((*told, torch.__version__)).encode())
    return seen.hexdigest()
