"""Every draw of randomness in a run comes from (seed, round, purpose).

So round 57 can be done again alone, a resumed run equals an uninterrupted one, and two strategies with the
same seed share their initial set. Nothing in the project reads torch's global generator for its own ends.
"""

import contextlib
import hashlib
from collections.abc import Generator

import torch


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
