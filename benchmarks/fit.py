"""One fit, here, as a plain PyTorch loop with a DataLoader, and in BaaL: seconds, and the accuracy it leads to.

    python benchmarks/fit.py                                     # ours and the plain loop
    pip install --no-deps baal==2.1.0 structlog torchmetrics lightning-utilities
    python benchmarks/fit.py --baal

The CNN of the BatchBALD paper, 500 labels of MNIST, 800 steps of 64 with AdamW, without augmentation: the same images,
number of steps, optimiser and schedule for all, but BaaL, which has no schedule for each step, keeps the rate constant.
A fit of each takes turns with the others, with seeds of its own; the table has medians of the seconds, means of the
accuracy on the 10,000 test images by 20 draws of MC-dropout, and for each rival the mean of the paired differences to
ours with the half-width of its 95 % interval (Student's t).
"""

import argparse
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from activebdl import ActiveDataset, Labelled, Training, load
from activebdl.evaluation import evaluate
from activebdl.likelihoods import Categorical
from activebdl.networks import make_network
from activebdl.posteriors.mc_dropout import DropoutPosterior, MCDropout
from activebdl.scoring import Scorer

LABELS, STEPS, BATCH, RATE, DECAY = 500, 800, 64, 3e-3, 1e-2
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # by the number of pairs

Fit = Callable[[ActiveDataset, Tensor, int], nn.Module]
"""``f(data, ids of the labelled items, seed) -> the trained network``."""


def fresh(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make_network("batchbald_cnn", (1, 28, 28), 10)()


def ours(data: ActiveDataset, ids: Tensor, seed: int) -> nn.Module:
    assert data.labels is not None
    known = Labelled(data.pool[ids], data.labels[ids], Categorical(10), data.normalise)
    method = MCDropout(Training(STEPS, batch_size=BATCH, learning_rate=RATE, weight_decay=DECAY))
    rng = torch.Generator().manual_seed(seed)
    return method.fit(make_network("batchbald_cnn", (1, 28, 28), 10), known, generator=rng).module


def plain(data: ActiveDataset, ids: Tensor, seed: int) -> nn.Module:
    """As a tutorial has it."""
    module, (images, labels) = fresh(seed).train(), stored(data, ids)
    loader = DataLoader(TensorDataset(images, labels), batch_size=BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    step = 0
    while step < STEPS:
        for x, y in loader:
            if step == STEPS:
                break
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
            schedule.step()
            step += 1
    return module


def baal(data: ActiveDataset, ids: Tensor, seed: int) -> nn.Module:
    import structlog  # pyright: ignore
    from baal.modelwrapper import ModelWrapper, TrainingArgs  # pyright: ignore

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    module, (images, labels) = fresh(seed), stored(data, ids)
    epochs = round(STEPS / math.ceil(LABELS / BATCH))
    arguments: Any = TrainingArgs(
        optimizer=torch.optim.AdamW(module.parameters(), lr=RATE / 3, weight_decay=DECAY), batch_size=BATCH,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--baal", action="store_true", help="beside BaaL")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    fits: dict[str, Fit] = {"ours": ours, "plain loop": plain}
    if arguments.baal:
        fits["BaaL"] = baal
    data = load("mnist")
    took: dict[str, list[float]] = {name: [] for name in fits}
    reached: dict[str, list[float]] = {name: [] for name in fits}
    for seed in range(arguments.seeds):
        ids = torch.randperm(len(data.pool), generator=torch.Generator().manual_seed(seed))[:LABELS]
        for name, fit in fits.items():
            begin = time.perf_counter()
            try:
                module = fit(data, ids, seed)
            except ModuleNotFoundError as error:
                sys.exit(f"{error.name} is not here; the first lines of this file say how to install it.")
            took[name].append(time.perf_counter() - begin)
            reached[name].append(accuracy(module, data))
            print(f"seed {seed} {name:<12}{took[name][-1]:8.1f} s{reached[name][-1]:8.2f} %", flush=True)
    print(f"\n{LABELS} labels, {STEPS} steps of {BATCH}, {arguments.threads} threads, {arguments.seeds} paired seeds")
    print(f"{'':<12}{'seconds':>9}{'ms a step':>11}{'ours is':>9}{'accuracy':>11}{'less than ours':>18}")
    mine = statistics.median(took["ours"])
    for name in fits:
        median = statistics.median(took[name])
        row = f"{name:<12}{median:9.1f}{1000 * median / STEPS:11.1f}{median / mine:8.1f}x"
        row += f"{statistics.fmean(reached[name]):9.2f} %"
        gaps = [a - b for a, b in zip(reached["ours"], reached[name], strict=True)]
        if name != "ours" and len(gaps) in T_95:
            half = T_95[len(gaps)] * statistics.stdev(gaps) / math.sqrt(len(gaps))
            row += f"{statistics.fmean(gaps):9.2f} ± {half:.2f} %"
        print(row)


if __name__ == "__main__":
    main()
