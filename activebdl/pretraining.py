"""Features that the pool teaches before anybody labels: an image is told from all others, however it is bent (SimCLR).

    L = -1/2B sum_i log ( exp(z_i . z_i' / tau) / sum_{l != i} exp(z_i . z_l / tau) )

Chen, Kornblith, Norouzi and Hinton 2020, "A Simple Framework for Contrastive Learning of Visual Representations". Each
of B items is augmented twice; z_i is the projection, of length 1, of one of the 2B images, z_i' that of the other image
of its item. Every fit then begins with these weights, all but those of the last layer, and not with random ones.

B: items of a batch, D: features, P: dimensions of the projection.
"""

import contextlib
import hashlib
import logging
import pickle
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch import Tensor, nn

from activebdl.data.augment import Augmentation, strong
from activebdl.data.dataset import ActiveDataset
from activebdl.data.inputs import chunks, known_by
from activebdl.errors import UserError
from activebdl.files import cache_folder, writing_safely
from activebdl.modes import evaluating
from activebdl.posteriors._last_layer import LastLayer
from activebdl.progress import Advance
from activebdl.randomness import global_rng_from
from activebdl.registry import without_addresses
from activebdl.training import Training, lay_out, make_optimizer, make_scheduler

SAMPLE = 1000
"""Items by which a pool outside of memory is known again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SimCLR:
    """How features are learned from a pool without labels.

    Args:
        steps: Optimiser steps.
        batch_size: B, or the whole pool where it is smaller; the more there are, the more each image is told from.
        learning_rate: The highest of a one-cycle schedule of AdamW.
        temperature: tau; lower looks at the most alike among the others.
        projection: P.
        augmentation: What an image is recognised through.

    Raises:
        UserError: A number that cannot be.
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

    @staticmethod
    def of(given: "SimCLR | bool | None") -> "SimCLR | None":
        """True for one by default; None, or false, for none."""
        if isinstance(given, bool):
            return SimCLR() if given else None
        return given

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
            handle = layer.register_forward_pre_hook(
                lambda _, args, kwargs: read.append(args[0] if args else kwargs["input"]), with_kwargs=True
            )
            module.train()
            training = Training(learning_rate=self.learning_rate, weight_decay=1e-4)
            optimizer = make_optimizer(nn.ModuleList([module, head]), training, len(dataset.pool))
            scheduler = make_scheduler(optimizer, training, self.steps)
            size = min(self.batch_size, len(dataset.pool))
            for x in chunks(dataset.pool, _epochs(len(dataset.pool), size, self.steps, generator), size):
                x = x.to(device).float()
                both = torch.cat([self.augmentation(x, generator), self.augmentation(x, generator)])
                read.clear()
                module(dataset.normalise(both).contiguous(memory_format=layout))
                optimizer.zero_grad(set_to_none=True)
                contrastive_loss(head(read[0]), self.temperature).backward()
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                advance(1)
            handle.remove()
        prefix = f"{last}." if last else ""
        weights = {key: value.cpu() for key, value in module.state_dict().items() if not key.startswith(prefix)}
        if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
            raise UserError("The weights of the pretraining became NaN or infinite: lower its learning rate.")
        return weights


def _epochs(count: int, size: int, batches: int, generator: torch.Generator) -> Tensor:
    """Ids for so many batches, each of other items: shuffled epochs, whose rest is left out."""
    each = count // size
    orders = [torch.randperm(count, generator=generator)[: each * size] for _ in range(-(-batches // each))]
    return torch.cat(orders)[: batches * size]


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
    path = cache_folder() / "pretrained" / f"{_digest(network, dataset, settings, device, seed)}.pt"
    with _locked(path):
        known = _read(path)
        if known is not None:
            advance(settings.steps)
            return Pretrained(network, known)
        weights = settings.fit(network, dataset, device, generator=generator, advance=advance)
        try:
            with writing_safely(path) as file:
                torch.save(weights, file)
        except OSError as error:
            _log.warning("what was learned from the pool is not kept for the next run: %s", error)
    return Pretrained(network, weights)


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None]:
    """One process at a time; without a lock where no file can be made."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.warning("another run learns the same from the pool; this one waits for it.")
            lock.acquire()
    except OSError:
        yield
        return
    with lock:
        lock.release()  # once for each time that it was taken
        yield


def _read(path: Path) -> dict[str, Tensor] | None:
    """What was kept; None where there is nothing, or nothing that can be read."""
    try:
        return torch.load(path, weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        _log.warning("'%s' cannot be read, and is learned again: %s", path, error)
        return None


def _digest(
    network: Callable[[], nn.Module], dataset: ActiveDataset, settings: SimCLR, device: torch.device, seed: int
) -> str:
    """Of all that decides what is learned."""
    items = known_by(dataset.pool, SAMPLE)
    seen = hashlib.blake2b(items.contiguous().numpy().data, digest_size=16)
    with global_rng_from(torch.Generator().manual_seed(0), device):  # a network's code cannot be seen, what it does can
        module = network()
    with evaluating(module), torch.no_grad():
        does = module(dataset.normalise(items[:1].repeat(2, *[1] * (items.dim() - 1))))
    bent = settings.augmentation(items[:2].float(), torch.Generator().manual_seed(0))  # nor can its code
    for value in (*module.state_dict().values(), does, bent):
        seen.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    told = (
        str(module),
        len(dataset.pool),
        repr(dataset.normalise),
        without_addresses(repr(settings)),
        device.type,
        seed,
        torch.get_num_threads(),
    )
    seen.update(repr((*told, torch.__version__)).encode())
    return seen.hexdigest()
