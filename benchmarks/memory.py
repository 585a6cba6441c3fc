"""Scores of a pool that is larger than memory need: the most memory a process held, for N images and for 2 N.

    python benchmarks/memory.py FOLDER [--items 1000000] [--draws 20] [--threads 2]

FOLDER gets a file of 2 N images of random bytes, 1 x 28 x 28 uint8, unless it is there already: 1.6 GB for a million.
BALD of every image by K draws of MC-dropout on the BatchBALD CNN, in a fresh process each time, so that the second
number owes nothing to the first. Beside the resident memory, its part that is pages of files, of which a pool that is
mapped must not leave more the longer it is.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SHAPE, BLOCK = (1, 28, 28), 20_000


def written(folder: Path, count: int) -> Path:
    """A file of that many images; made when it is not there."""
    path = folder / f"random-{count}x28x28.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        rng = np.random.default_rng(0)
        images = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (count, *SHAPE))
        for start in range(0, count, BLOCK):
            stop = min(start + BLOCK, count)
            images[start:stop] = rng.integers(0, 256, (stop - start, *SHAPE), dtype=np.uint8)
        images.flush()
        unfinished.rename(path)
    return path


def memory(key: str) -> float:
    """A line of what Linux tells of this process, in GiB: VmHWM is the most that was resident since it began."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 2**20 if found else float("nan")


def score(path: Path, count: int, draws: int, threads: int) -> None:
    """Scores the first ``count`` images of the file, and prints a line of the table."""
    import torch

    from activebdl import ActiveDataset, Labelled, MCDropout, Normalise, Training
    from activebdl.likelihoods import Categorical
    from activebdl.networks import make_network
    from activebdl.scoring import Scorer
    from activebdl.strategies.bald import bald

    torch.set_num_threads(threads)
    images = np.load(path, mmap_mode="r")[:count]
    labels = torch.arange(20) % 10
    data = ActiveDataset.from_arrays(images, None, np.array(images[:20]), labels, normalise=Normalise(255.0, 0.5, 0.3))
    labelled = Labelled(data.pool[torch.arange(20)], labels, Categorical(10), data.normalise)
    rng = torch.Generator().manual_seed(0)
    network = make_network("batchbald_cnn", SHAPE, 10)
    posterior = MCDropout(Training(steps=20)).fit(network, labelled, generator=rng)
    scorer = Scorer(posterior.draw(draws, generator=rng), data.pool, data.normalise, torch.device("cpu"))
    scorer.scores(torch.arange(1024), bald)  # what is made once is there before the clock starts
    before = memory("VmHWM")
    begin = time.perf_counter()
    scores = scorer.scores(torch.arange(count), bald)
    seconds = time.perf_counter() - begin
    assert scores.shape == (count,)
    print(
        f"{count:>12,}{count * 784 / 2**30:>12.2f}{before:>12.2f}{memory('VmHWM'):>12.2f}{memory('RssFile'):>12.2f}"
        f"{seconds:>12.1f}{count / seconds:>12.0f}",
        flush=True,
    )


def main() -> None:
    """N, then 2 N."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--score", type=int, help=argparse.SUPPRESS)  # what a process of its own does
    arguments = parser.parse_args()
    path = written(arguments.folder, 2 * arguments.items)
    if arguments.score is not None:
        score(path, arguments.score, arguments.draws, arguments.threads)
        return
    head = ("items", "pool GiB", "fitted GiB", "peak GiB", "files GiB", "seconds", "items / s")
    print("".join(f"{name:>12}" for name in head), flush=True)
    for count in (arguments.items, 2 * arguments.items):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], f"--score={count}"], check=True)


if __name__ == "__main__":
    main()
