"""One fit, here, as a plain PyTorch loop with a DataLoader, and in BaaL: seconds, and the accuracy it leads to.

    python benchmarks/fit.py                                     # ours and the plain loop
    pip install --no-deps baal==2.1.0 structlog torchmetrics lightning-utilities
    python benchmarks/fit.py --baal
    python benchmarks/fit.py --network gal2017_cnn --labels 100 --steps 600 --batch 128 --baal
    python benchmarks/fit.py --augment --labels 100 --seeds 8    # what our settings cost with augmentation

The CNN of the BatchBALD paper, 500 labels of MNIST, 800 steps of 64 with AdamW, without augmentation: the same images,
number of steps, optimiser and schedule for all, but BaaL, which has no schedule for each step, keeps the rate constant.
With fewer labels than a batch has items, a batch of the others has all labels once, and ours some of them twice.
Ours comes as it is by default, with `masks_per_batch: 2` or 4, with `precision: bfloat16`, and with 2 masks and
bfloat16. With `--augment` it has the augmentation of the preset mnist-batchbald, and is alone: the others have none.

Each has a process of its own (ours tells the C library to keep memory, which the others would profit from), and a fit
of each takes turns with the others, with seeds of its own. The table has medians of the seconds, means of the
accuracy on the 10,000 test images by 20 draws of MC-dropout, and the mean of the paired differences to the plain loop
with the half-width of its 95 % interval (Student's t); with `--augment` they are differences to our default.
"""

import argparse
import logging
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from activebdl import ActiveDataset, Labelled, Training, load
from activebdl.build import make_method
from activebdl.data.augment import Augmentation
from activebdl.evaluation import evaluate
from activebdl.likelihoods import Categorical
from activebdl.networks import make_network
from activebdl.posteriors.mc_dropout import DropoutPosterior, MCDropout
from activebdl.scoring import Scorer
from activebdl.spec import read_spec

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # by the number of pairs


@dataclass(frozen=True)
class Work:
    """What every fit does."""

    network: str
    labels: int
    steps: int
    batch: int
    threads: int
    augmentation: Augmentation | None
    rate: float = 3e-3
    decay: float = 1e-2

    def fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return make_network(self.network, (1, 28, 28), 10)()


Fit = Callable[[Work, ActiveDataset, Tensor, int], nn.Module]
"""``f(work, data, ids of the labelled items, seed) -> the trained network``."""


def ours(
    work: Work, data: ActiveDataset, ids: Tensor, seed: int, *, masks: int | None = None, **options: Any
) -> nn.Module:
    assert data.labels is not None
    known = Labelled(data.pool[ids], data.labels[ids], Categorical(10), data.normalise)
    training = Training(
        work.steps, batch_size=work.batch, learning_rate=work.rate, weight_decay=work.decay,
        augmentation=work.augmentation, **options,
    )  # fmt: skip
    network = make_network(work.network, (1, 28, 28), 10)
    rng = torch.Generator().manual_seed(seed)
    return MCDropout(training, masks_per_batch=masks).fit(network, known, generator=rng).module


def plain(work: Work, data: ActiveDataset, ids: Tensor, seed: int) -> nn.Module:
    """As a tutorial has it."""
    module, (images, labels) = work.fresh(seed).train(), stored(data, ids)
    some = TensorDataset(images, labels)
    loader = DataLoader(some, batch_size=work.batch, shuffle=True, drop_last=work.labels >= work.batch)
    optimizer = torch.optim.AdamW(module.parameters(), lr=work.rate, weight_decay=work.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, work.rate, total_steps=work.steps)
    step = 0
    while step < work.steps:
        for x, y in loader:
            if step == work.steps:
                break
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
            schedule.step()
            step += 1
    return module


def baal(work: Work, data: ActiveDataset, ids: Tensor, seed: int) -> nn.Module:
    import structlog  # pyright: ignore
    from baal.modelwrapper import ModelWrapper, TrainingArgs  # pyright: ignore

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    module, (images, labels) = work.fresh(seed), stored(data, ids)
    epochs = round(work.steps / math.ceil(work.labels / work.batch))
    arguments: Any = TrainingArgs(
        optimizer=torch.optim.AdamW(module.parameters(), lr=work.rate / 3, weight_decay=work.decay),
        batch_size=work.batch,
        epoch=epochs, criterion=nn.CrossEntropyLoss(), use_cuda=False, workers=0,
    )  # fmt: skip
    ModelWrapper(module, arguments).train_on_dataset(TensorDataset(images, labels))  # pyright: ignore
    return module


def stored(data: ActiveDataset, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised images and their labels, as the others' loaders take them."""
    assert data.labels is not None
    return data.normalise(data.pool[ids]), data.labels[ids]


def accuracy(module: nn.Module, data: ActiveDataset) -> float:
    """On the test set in %, by 20 draws of MC-dropout."""
    module.eval().requires_grad_(False)
    posterior = DropoutPosterior(module, data.normalise(data.test[torch.arange(2)]))
    draws = posterior.draw(20, generator=torch.Generator().manual_seed(0))
    found = evaluate(Scorer(draws, data.test, data.normalise, torch.device("cpu")), data)
    return 100 * found["metrics"]["accuracy"]


FITS: dict[str, Fit] = {
    "plain loop": plain,
    "ours": ours,
    "ours, 2 masks": partial(ours, masks=2),
    "ours, 4 masks": partial(ours, masks=4),
    "ours, bfloat16": partial(ours, precision="bfloat16"),
    "ours, both": partial(ours, masks=2, precision="bfloat16"),
    "BaaL": baal,
}


def run(name: str, work: Work, seed: int) -> tuple[float, float]:
    """Seconds and accuracy of one fit, in the process that is this contender's own."""
    torch.set_num_threads(work.threads)
    data = load("mnist")
    ids = torch.randperm(len(data.pool), generator=torch.Generator().manual_seed(seed))[: work.labels]
    begin = time.perf_counter()
    module = FITS[name](work, data, ids, seed)
    return time.perf_counter() - begin, accuracy(module, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="batchbald_cnn")
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--baal", action="store_true", help="beside BaaL")
    parser.add_argument("--augment", action="store_true", help="ours alone, with augmentation")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    preset = make_method(read_spec("mnist-batchbald").posterior)
    assert isinstance(preset, MCDropout)
    augmentation = preset.training.augmentation if chosen.augment else None
    work = Work(chosen.network, chosen.labels, chosen.steps, chosen.batch, chosen.threads, augmentation)
    names = [name for name in FITS if chosen.baal or name != "BaaL"]
    if chosen.augment:
        names = [name for name in names if name.startswith("ours")]
    base = names[0]
    spawn = multiprocessing.get_context("spawn")
    processes = {name: ProcessPoolExecutor(1, mp_context=spawn) for name in names}
    took: dict[str, list[float]] = {name: [] for name in names}
    reached: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(chosen.seeds):
        for name in names:
            try:
                seconds, percent = processes[name].submit(run, name, work, seed).result()
            except ModuleNotFoundError as error:
                sys.exit(f"{error.name} is not here; the first lines of this file say how to install it.")
            took[name].append(seconds)
            reached[name].append(percent)
            print(f"seed {seed} {name:<15}{seconds:8.1f} s{percent:8.2f} %", flush=True)
    print(f"\n{work.network}, {work.labels} labels, {work.steps} steps of {work.batch}, {work.threads} threads")
    print(f"{'':<15}{'seconds':>9}{'ms a step':>11}{'faster':>9}{'accuracy':>11}{'above ' + base:>22}")
    for name in names:
        median = statistics.median(took[name])
        row = f"{name:<15}{median:9.1f}{1000 * median / work.steps:11.1f}"
        row += f"{statistics.median(took[base]) / median:8.1f}x{statistics.fmean(reached[name]):9.2f} %"
        gaps = [a - b for a, b in zip(reached[name], reached[base], strict=True)]
        if name != base and len(gaps) in T_95:
            half = T_95[len(gaps)] * statistics.stdev(gaps) / math.sqrt(len(gaps))
            row += f"{statistics.fmean(gaps):+13.2f} ± {half:.2f} %"
        print(row)
    for process in processes.values():
        process.shutdown()


if __name__ == "__main__":
    main()
