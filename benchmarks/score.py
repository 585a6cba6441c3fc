"""Scoring a pool by BALD with MC-dropout, here and elsewhere: posterior samples (image x draw) a second.

    python benchmarks/score.py                                  # batchbald_cnn; ours, and masks multiplied in
    python benchmarks/score.py --network gal2017_cnn resnet --data random
    python benchmarks/score.py --items 60000 --draws 100 --only ours
    pip install --no-deps baal==2.1.0 structlog torchmetrics lightning-utilities batchbald_redux==2.0.5 toma
    python benchmarks/score.py --peers baal redux --network batchbald_cnn gal2017_cnn resnet

Every code gets the same weights and the same images, and turns them into one BALD score each; what it does with the
images is its own. First each code tries the settings it has, batch sizes and layouts among them, on a few images; its
fastest then takes turns with the others. The table has medians over the turns. FLOPs are those of the layers that are
computed, counted by torch, a multiplication with its addition being two; those of the peers are the whole network's,
whatever they keep from draw to draw. The share is of the rate at which the same machine multiplies matrices of 2,000 x
2,000, measured in the same turns. Convolutions have another library than matrices, and may be faster: see their rate.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from activebdl import Labelled, MCDropout, Normalise, Training, load
from activebdl.likelihoods import Categorical
from activebdl.networks import make_network
from activebdl.posteriors.mc_dropout import DropoutPosterior
from activebdl.scoring import Scorer
from activebdl.strategies.bald import bald

NORMALISE = Normalise(scale=255.0, mean=0.1307, std=0.3081)
CPU = torch.device("cpu")
SIDE = 2000  # of the matrices that are multiplied for the machine's rate
CHANNELS = 64  # of the convolution of 3 x 3 for the same


class Block(nn.Module):
    """Two convolutions and a way around them, with dropout between them as in wide residual networks."""

    def __init__(self, before: int, after: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.dropout = nn.Dropout2d(dropout)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class ResNet(nn.Module):
    """A small residual network as one would write it, with nothing in it for our sake."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block1, self.block2 = Block(16, 16, 1, dropout), Block(16, 32, 2, dropout)
        self.block3 = Block(32, 64, 2, dropout)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(self.stem(x))))
        return self.head(self.dropout(F.adaptive_avg_pool2d(h, 1).flatten(1)))


def make(name: str, dropout: float) -> Callable[[], nn.Module]:
    if name == "resnet":
        return lambda: ResNet(dropout)
    return make_network(name, (1, 28, 28), 10, **({"dropout": dropout} if name == "batchbald_cnn" else {}))


def make_data(kind: str, items: int) -> tuple[Tensor, Tensor]:
    """uint8 images ``[items, 1, 28, 28]`` and their labels ``[items]``."""
    if kind == "random":
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (items, 1, 28, 28), generator=generator, dtype=torch.uint8)
        return images, torch.randint(10, (items,), generator=generator)
    data = load(kind)
    assert isinstance(data.pool, Tensor) and data.labels is not None
    return data.pool[:items], data.labels[:items]


def train(network: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> nn.Module:
    """A short fit, so that draws differ and batch norm has statistics."""
    known = Labelled(images[:200], labels[:200], Categorical(10), NORMALISE)
    return MCDropout(Training(steps=100)).fit(network, known, generator=torch.Generator().manual_seed(0)).module


# ---- the codes: each a function of images [N, 1, 28, 28] and K, to BALD scores [N]

Code = Callable[[Tensor, int], Tensor]


def ours(module: nn.Module, thin: bool = True) -> Code:
    posterior = DropoutPosterior(module, torch.zeros(2, 1, 28, 28), thin=thin)  # a fit ends with it

    def score(images: Tensor, k: int) -> Tensor:
        draws = posterior.draw(k, generator=torch.Generator())
        return Scorer(draws, images, NORMALISE, CPU).scores(torch.arange(len(images)), bald)

    return score


@dataclass(frozen=True)
class Setting:
    """One way to run a peer."""

    batch: int
    layout: torch.memory_format = torch.contiguous_format
    replicate: bool = True
    cache: bool = False

    def __str__(self) -> str:
        words = [f"batch {self.batch}", "NHWC" if self.layout == torch.channels_last else "NCHW"]
        words += ["replicated" if self.replicate else "looped"] + ["cached"] * self.cache
        return ", ".join(words)


def batchwise(predict: Callable[[Tensor, int], Tensor], setting: Setting) -> Code:
    """Scores from ``predict(x [B, ...], K) -> logits [B, K, C]``, some images at a time."""

    def score(images: Tensor, k: int) -> Tensor:
        parts: list[Tensor] = []
        with torch.inference_mode():
            for raw in images.split(setting.batch):
                x = NORMALISE(raw).contiguous(memory_format=setting.layout)
                parts.append(bald(predict(x, k).log_softmax(dim=-1)))
        return torch.cat(parts)

    return score


def baal(module: nn.Module, setting: Setting) -> Code:
    """BaaL's own `ModelWrapper.predict_on_batch`, with its cache of what comes before the first dropout where told."""
    from baal.bayesian.caching_utils import MCCachingModule  # pyright: ignore
    from baal.bayesian.dropout import MCDropoutModule  # pyright: ignore
    from baal.modelwrapper import ModelWrapper, TrainingArgs  # pyright: ignore

    model: nn.Module = MCDropoutModule(copy.deepcopy(module))
    model = MCCachingModule(model) if setting.cache else model
    model.to(memory_format=setting.layout)  # pyright: ignore[reportCallIssue]
    wrapper = ModelWrapper(model, TrainingArgs(use_cuda=False, replicate_in_memory=setting.replicate))
    wrapper.eval()

    def predict(x: Tensor, k: int) -> Tensor:
        return wrapper.predict_on_batch(x, iterations=k).transpose(1, 2)  # from [B, C, K]

    return batchwise(predict, setting)


def redux(module: nn.Module, setting: Setting) -> Code:
    """batchbald_redux's BayesianModule, K copies of each image under masks that are the same for all images."""
    from batchbald_redux import consistent_mc_dropout as consistent  # pyright: ignore

    class Bayesian(consistent.BayesianModule):  # pyright: ignore
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(module)
            for name, child in list(self.network.named_modules()):
                if isinstance(child, nn.Dropout | nn.Dropout2d):
                    channels = isinstance(child, nn.Dropout2d)
                    kind = consistent.ConsistentMCDropout2d if channels else consistent.ConsistentMCDropout
                    parent, _, attribute = name.rpartition(".")
                    setattr(self.network.get_submodule(parent), attribute, kind(child.p))

        def mc_forward_impl(self, x: Tensor) -> Tensor:
            return self.network(x)

    bayesian = Bayesian().eval().to(memory_format=setting.layout)  # pyright: ignore

    def score(images: Tensor, k: int) -> Tensor:
        bayesian.eval()  # new masks
        return batchwise(bayesian, setting)(images, k)

    return score


def settings(name: str) -> Iterator[Setting]:
    for layout in (torch.contiguous_format, torch.channels_last):
        for batch in (4, 16, 64):
            yield Setting(batch, layout)
        if name == "baal":
            for batch in (32, 128):
                yield Setting(batch, layout, replicate=False)
                yield Setting(batch, layout, replicate=False, cache=True)


PEERS = {"baal": baal, "redux": redux}


def fastest(name: str, module: nn.Module, images: Tensor, k: int, layout: torch.memory_format) -> tuple[str, Code]:
    """The peer's fastest setting in a layout, and what it is."""
    rates: dict[Setting, float] = {}
    for setting in settings(name):
        if setting.layout == layout:
            code, some = PEERS[name](module, setting), images[: max(32, setting.batch)]
            code(some[:2], k)
            rates[setting] = len(some) * k / seconds(partial(code, some, k))
            print(f"    {name:>6} {setting!s:<36} {rates[setting]:10,.0f} samples/s", flush=True)
    best = max(rates, key=lambda setting: rates[setting])
    return f"{name}: {best}", PEERS[name](module, best)


# ---- measuring


def seconds(what: Callable[[], object]) -> float:
    begin = time.perf_counter()
    what()
    return time.perf_counter() - begin


def matrix_rate() -> Callable[[], float]:
    """FLOP a second of a product of matrices."""
    matrix = torch.randn(SIDE, SIDE)
    return lambda: 2 * SIDE**3 / median(seconds(lambda: matrix @ matrix) for _ in range(5))


def convolution_rate() -> Callable[[], float]:
    """FLOP a second of a convolution, in the layout that suits it."""
    x = torch.randn(256, CHANNELS, 14, 14).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3).contiguous(memory_format=torch.channels_last)
    flops = 2 * 9 * CHANNELS * x.numel()
    return lambda: flops / median(seconds(lambda: F.conv2d(x, weight, padding=1)) for _ in range(5))


def linear_flops(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    return 2 * x.numel() * weight[0]


def flops_per_sample(module: nn.Module, images: Tensor, k: int, thin: bool) -> float:
    """Of the layers that are computed, what all draws share among them."""
    x = NORMALISE(images[:64])
    draws = DropoutPosterior(module, x[:2], thin=thin).draw(k, generator=torch.Generator())
    with FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: linear_flops}) as counter:
        draws.log_probs(x)
    return counter.get_total_flops() / (len(x) * k)


def difference(module: nn.Module, images: Tensor, k: int, dtype: torch.dtype) -> tuple[float, float]:
    """The largest difference between thinned and masked draws: of log-probabilities, and of BALD, in nats."""
    module, x = copy.deepcopy(module).to(dtype), NORMALISE(images).to(dtype)
    thinned, masked = (
        DropoutPosterior(module, x[:2], thin=thin).draw(k, generator=torch.Generator()).log_probs(x)
        for thin in (True, False)
    )
    return float((thinned - masked).abs().max()), float((bald(thinned) - bald(masked)).abs().max())


def measure(name: str, arguments: argparse.Namespace, images: Tensor, labels: Tensor) -> None:
    """One network: the table."""
    k = arguments.draws
    module = train(make(name, arguments.dropout), images, labels)
    few = images[: max(1, arguments.peer_samples // k)]
    print(f"\n{name}: {len(images)} images x {k} draws for ours, {len(few)} x {k} for the others")
    codes: dict[str, tuple[Code, Tensor]] = {"ours": (ours(module), images)}
    if not arguments.only:
        codes["masks multiplied in"] = (ours(module, thin=False), few)
    for peer in arguments.peers:
        for layout in (torch.contiguous_format, torch.channels_last):
            called, code = fastest(peer, module, images, k, layout)
            codes[called] = (code, few)
    spent: dict[str, list[float]] = {called: [] for called in codes}
    machine = {"matrices": matrix_rate(), "convolution": convolution_rate()}
    flop_rates: dict[str, list[float]] = {called: [] for called in machine}
    ours(module)(few, 2)
    for _ in range(arguments.turns):
        for called, rate in machine.items():
            flop_rates[called].append(rate())
        for called, (code, these) in codes.items():
            spent[called].append(seconds(partial(code, these, k)))
    peaks = {called: median(rates) for called, rates in flop_rates.items()}
    rates = {called: len(these) * k / median(spent[called]) for called, (_, these) in codes.items()}
    flops = {thin: flops_per_sample(module, images, k, thin) for thin in (True, False)}
    print("    the machine: " + ", ".join(f"{called} {peak / 1e9:.0f} GFLOP/s" for called, peak in peaks.items()))
    report(rates, flops, peaks["matrices"], spent["ours"], len(images) * k)
    for dtype, n, draws in ((torch.float32, 300, k), (torch.float64, 32, 10)):  # convolutions of float64 are slow
        log_probs, scores = difference(module, images[:n], draws, dtype)
        told = f"{log_probs:.1e} in log-probabilities, {scores:.1e} in BALD"
        print(f"    thinned and masked draws in {str(dtype)[6:]} differ by at most {told}")


def report(rates: dict[str, float], flops: dict[bool, float], peak: float, spent: list[float], samples: int) -> None:
    print(f"    {'':<44} {'samples/s':>10} {'ours is':>8} {'MFLOP':>7} {'GFLOP/s':>8} {'share':>6}")
    for called, rate in rates.items():
        each = flops[called == "ours"]
        print(
            f"    {called:<44} {rate:10,.0f} {rates['ours'] / rate:7.1f}x {each / 1e6:7.2f} {rate * each / 1e9:8.1f} "
            f"{rate * each / peak:6.0%}"
        )
    whole = "" if samples == 6_000_000 else f"; 60,000 x 100 would take {6e6 / rates['ours']:,.0f} s, extrapolated"
    print(f"    ours took {median(spent):.2f} s, from {min(spent):.2f} to {max(spent):.2f}{whole}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["batchbald_cnn", "gal2017_cnn", "resnet"]
    parser.add_argument("--network", nargs="+", choices=names, default=names[:1])
    parser.add_argument("--dropout", type=float, default=0.5, help="of batchbald_cnn, and of the blocks of resnet")
    parser.add_argument("--data", choices=["mnist", "random"], default="mnist")
    parser.add_argument("--items", type=int, default=4000, help="images for ours")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--peer-samples", type=int, default=12_800, help="images x draws for each of the others")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=[])
    parser.add_argument("--only", choices=["ours"], help="without masks multiplied in")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, medians of {arguments.turns} turns")
    images, labels = make_data(arguments.data, arguments.items)
    try:
        for name in arguments.network:
            measure(name, arguments, images, labels)
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not here; the first lines of this file say how to install it.")


if __name__ == "__main__":
    main()
