"""Every draw of randomness in a run comes from (seed, round, purpose).

So round 57 can be done again alone, a resumed run equals an uninterrupted one, and two strategies with the
same seed share their initial set. Nothing in the project reads torch's global generator for its own ends.
"""

import contextlib
import hashlib
from collections.abc import Generator

import torch
from torch import Tensor


def generator(seed: int, round: int, purpose: str) -> torch.Generator:
    """A CPU generator that depends on its three arguments alone.

    Args:
        seed: The run's one integer seed.
        round: The round of the cycle, counted from 0.
        purpose: What the numbers are for ("fit", "score", "select", ...); different purposes are independent.
    """
    digest = hashlib.blake2b(f"{seed}/{round}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@contextlib.contextmanager
def global_rng_from(generator: torch.Generator, device: torch.device) -> Generator[None]:
    """Seeds torch's global generators from ``generator`` inside the block, and puts them back afterwards.

    Weight initialisation and ``nn.Dropout`` know only the global generators; this is how they obey ours.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with global_rng_kept(device):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def global_rng_kept(device: torch.device) -> Generator[None]:
    """Puts torch's global generators, those of the CPU and of ``device``, back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def normal_like(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers of the shape, type, device and layout in memory of ``like``.

    torch draws numbers that do not follow each other in memory nine times slower, which those of a channels_last
    tensor do not; here they are drawn in the order of memory.

    Args:
        like: Any tensor.
        generator: On any device, so that one on the CPU gives every device the same numbers; None for the global one.
            More numbers at once do not begin with those of fewer: what must, draws one after the other.
    """
    noise = torch.empty_like(like)
    flat = noise.as_strided((noise.numel(),), (1,))  # empty_like leaves no holes
    if generator is None or generator.device.type == like.device.type:
        flat.normal_(generator=generator)
    else:
        flat.copy_(torch.empty(flat.shape, dtype=like.dtype).normal_(generator=generator))
    return noise


def some_of(ids: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the ids ``[N]`` at random, or all where there are no more, in the order in which they stand."""
    return ids[torch.randperm(len(ids), generator=generator)[:count].sort().values]


def uniforms(seed: int, purpose: str, id: int, count: int) -> list[float]:
    """Numbers between 0 and 1, both excluded, that one item gets whatever other items are drawn for, and when.

    Args:
        seed: The run's one integer seed.
        purpose: What the numbers are for; different purposes are independent.
        id: The item's.
        count: How many, at most 8.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{id}".encode(), digest_size=8 * count).digest()
    return [(int.from_bytes(digest[8 * k : 8 * k + 8], "little") // 2**12 + 0.5) / 2**52 for k in range(count)]
