"""A round of active learning as Gal et al. (2017) have it, here and in BaaL: seconds to fit, and to score the pool.

    python benchmarks/cycle.py                                      # ours, 60,000 images, K = 100: minutes
    python benchmarks/cycle.py --labels 100 --pool 6000 --draws 20  # a look
    python benchmarks/cycle.py --set scoring=race posterior.masks_per_batch=2 posterior.training.precision=bfloat16
    pip install --no-deps baal==2.1.0 structlog torchmetrics lightning-utilities
    python benchmarks/cycle.py --baal

The protocol is that of the preset `mnist-gal2017`: its network, its optimiser and its number of steps for so many
labels, and BALD over the whole pool. Ours is measured whole, by `ActiveLearning` itself: the round that ends with so
many labels, in which ten items are chosen and a fresh network is fitted; the evaluation on the test set is left out.
`--set` changes the preset's settings of the posterior and of scoring, for ours.

BaaL would take hours, and so it is measured on a part: some of the steps, by its `train_on_dataset`, and some of the
pool, by its `predict_on_dataset` and its BALD in the fastest of the settings tried. Both are scaled linearly. It comes
first, for ours tells the C library to keep memory. A batch of its fit has all labels while they are fewer than 128,
where ours has 128 always.
"""

import argparse
import copy
import itertools
import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from activebdl import ActiveDataset, ActiveLearning, Training
from activebdl.build import make_dataset, make_fresh, make_method, make_scoring
from activebdl.posteriors.mc_dropout import MCDropout
from activebdl.spec import RunSpec, read_spec
from activebdl.training import make_optimizer

QUERY = 10
Seconds = tuple[float, float]
"""To fit, and to score."""


def seconds(what: Callable[[], object]) -> float:
    begin = time.perf_counter()
    what()
    return time.perf_counter() - begin


def ours(spec: RunSpec, data: ActiveDataset, n: int, arguments: argparse.Namespace) -> Seconds:
    """The round that ends with ``n`` labels."""
    cycle = ActiveLearning(
        data,
        make_fresh(spec.network, data),
        counts=(n - QUERY, n),
        posterior=make_method(spec.posterior),
        strategy=spec.strategy.name,
        start=spec.start.name,
        draws=arguments.draws,
        test_draws=1,
        device="cpu",
        scoring=make_scoring(spec),
    )
    *_, last = cycle
    return last.seconds["fit"], last.seconds["select"]


def training_of(spec: RunSpec) -> Training:
    method = make_method(spec.posterior)
    assert isinstance(method, MCDropout)
    return method.training


class Baal:
    """BaaL with the same network, optimiser and number of steps, measured on a part."""

    def __init__(self, spec: RunSpec, data: ActiveDataset, arguments: argparse.Namespace) -> None:
        assert isinstance(data.pool, Tensor) and data.labels is not None
        self.spec, self.data, self.arguments = spec, data, arguments
        most = max(arguments.part, *arguments.labels)
        self.images, self.labels = data.normalise(data.pool[:most]), data.labels[:most]
        self.fastest: tuple[torch.memory_format, int, bool, bool] | None = None

    def wrapper(self, module: nn.Module, **options: Any) -> Any:
        import structlog  # pyright: ignore
        from baal.modelwrapper import ModelWrapper, TrainingArgs  # pyright: ignore

        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        return ModelWrapper(module, TrainingArgs(use_cuda=False, workers=0, **options))

    def fit(self, n: int) -> tuple[float, nn.Module]:
        """Seconds of a fit to ``n`` labels, scaled from some of its steps; and the network."""
        from baal.bayesian.dropout import MCDropoutModule  # pyright: ignore

        training = training_of(self.spec)
        plain = make_fresh(self.spec.network, self.data)()
        optimizer = make_optimizer(plain, training, n)
        a_batch = -(-n // training.batch_size)  # steps of an epoch
        epochs = max(1, self.arguments.steps // a_batch)
        wrapper = self.wrapper(
            MCDropoutModule(plain), optimizer=optimizer, batch_size=training.batch_size, epoch=epochs,
            criterion=nn.CrossEntropyLoss(),
        )  # fmt: skip
        known = TensorDataset(self.images[:n], self.labels[:n])
        spent = seconds(partial(wrapper.train_on_dataset, known))
        return spent * training.total_steps(n) / (epochs * a_batch), wrapper.model

    def score(self, module: nn.Module, count: int, layout: torch.memory_format, batch: int, *how: bool) -> float:
        """Seconds to score the pool, scaled from ``count`` of its items."""
        from baal.active.heuristics import BALD  # pyright: ignore
        from baal.bayesian.caching_utils import MCCachingModule  # pyright: ignore

        replicate, cache = how
        model: nn.Module = copy.deepcopy(module)  # the cache would change it
        model = MCCachingModule(model) if cache else model
        model.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        wrapper = self.wrapper(model, batch_size=batch, replicate_in_memory=replicate)
        some = TensorDataset(self.images[:count], self.labels[:count])

        def score() -> None:
            BALD().get_uncertainties(wrapper.predict_on_dataset(some, self.arguments.draws, verbose=False))

        return seconds(score) * len(self.data.pool) / count

    def round(self, n: int) -> Seconds:
        fit, module = self.fit(n)
        if self.fastest is None:
            ways = [(4, True, False), (16, True, False), (32, False, False), (32, False, True), (128, False, True)]
            layouts = (torch.contiguous_format, torch.channels_last)
            trials = [(layout, *way) for layout, way in itertools.product(layouts, ways)]
            few = min(128, self.arguments.part)
            self.fastest = min(trials, key=lambda trial: self.score(module, few, *trial))
            layout, batch, replicate, cache = self.fastest
            how = ("replicated" if replicate else "looped") + (", cached" if cache else "")
            print(f"BaaL's fastest of {len(trials)} settings: {layout}, batches of {batch}, {how}", flush=True)
        return fit, self.score(module, self.arguments.part, *self.fastest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 500, 1000], help="at the end of the round")
    parser.add_argument("--pool", type=int, default=60_000)
    parser.add_argument("--draws", type=int, default=100, help="K")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="of posterior and scoring"
    )
    parser.add_argument("--baal", action="store_true", help="beside BaaL")
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps that BaaL is measured on")
    parser.add_argument("--part", type=int, default=500, help="images that BaaL is measured on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", module="baal")
    changed = read_spec(
        "mnist-gal2017", {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in arguments.set)}
    )
    spec = read_spec("mnist-gal2017")
    data = make_dataset(spec.dataset)
    assert isinstance(data.pool, Tensor) and data.labels is not None
    data = replace(data, pool=data.pool[: arguments.pool], labels=data.labels[: arguments.pool])
    try:
        peer = Baal(spec, data, arguments) if arguments.baal else None
        compare(changed, data, peer, arguments)
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not here; the first lines of this file say how to install it.")


def compare(spec: RunSpec, data: ActiveDataset, peer: Baal | None, arguments: argparse.Namespace) -> None:
    settings = f", {' '.join(arguments.set)}" if arguments.set else ""
    print(f"{len(data.pool)} images x {arguments.draws} draws, {torch.get_num_threads()} threads{settings}")
    rows: list[tuple[int, str, Seconds]] = []
    if peer is not None:
        rows += [(n, "BaaL, scaled", peer.round(n)) for n in arguments.labels]
    rows += [(n, "ours", ours(spec, data, n, arguments)) for n in arguments.labels]
    rows.sort(key=lambda row: (row[0], row[1] != "ours"))
    print(f"{'labels':>6} {'':<14} {'fit s':>9} {'score s':>9} {'round s':>9} {'ours is':>8}")
    for n, called, (fit, score) in rows:
        mine = sum(next(spent for labels, name, spent in rows if (labels, name) == (n, "ours")))
        print(f"{n:6} {called:<14} {fit:9.1f} {score:9.1f} {fit + score:9.1f} {(fit + score) / mine:7.1f}x")
    if peer is not None:
        print(
            f"BaaL: {arguments.steps} of the steps and {arguments.part} of the images were measured, the rest is "
            "linear in both."
        )


if __name__ == "__main__":
    main()
