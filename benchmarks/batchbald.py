"""BatchBALD here and in batchbald_redux, on the same log-probabilities: seconds, working memory, what the batch tells.

    pip install --no-deps batchbald_redux==2.0.5 toma psutil
    OMP_NUM_THREADS=1 python benchmarks/batchbald.py -N 20000 -K 100 -C 10 -b 5 10
    OMP_NUM_THREADS=1 python benchmarks/batchbald.py -N 60000 -b 10 --ours      # needs nothing else

Each runs in a process of its own. Working memory is the highest resident size less that before the choice, when the
log-probabilities are already there. The information of both batches is computed by one estimator that is neither's.
Draws are linear heads over random features, or with ``--kind noise`` independent noise, of which all items tell alike.
"""

import argparse
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from activebdl.strategies.batchbald import greedy

OUTCOMES = 10_000
"""Enumerated, and drawn, by both."""


def make_log_probs(kind: str, n: int, k: int, c: int) -> Tensor:
    """``[N, K, C]``, float32."""
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(1, c, 16, generator=generator) + 0.5 * torch.randn(k, c, 16, generator=generator)
    log_probs = torch.empty(n, k, c)
    for block in log_probs.split(1000):  # so that making them takes little more memory than they do
        if kind == "noise":
            logits = 3 * torch.randn(block.shape, generator=generator)
        else:
            logits = torch.einsum("nd,kcd->nkc", torch.randn(len(block), 16, generator=generator), heads)
        block.copy_(logits.log_softmax(dim=-1))
    return log_probs


def ours(log_probs: Tensor, b: int) -> list[int]:
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(1)
        return greedy(log_probs, b, generator, exact=OUTCOMES, samples=OUTCOMES)[0].tolist()


def redux(log_probs: Tensor, b: int) -> list[int]:
    from batchbald_redux.batchbald import get_batchbald_batch  # pyright: ignore

    torch.manual_seed(1)
    with torch.inference_mode():
        return get_batchbald_batch(log_probs, b, OUTCOMES).indices  # pyright: ignore


CODES: dict[str, Callable[[Tensor, int], list[int]]] = {"ours": ours, "redux": redux}


def information(log_probs: Tensor, samples: int = 200_000) -> tuple[float, float]:
    """I(y_1..y_b; theta) of ``log_probs [b, K, C]`` in nats, and its standard error: enumerated, or E[log p_k(y)/p(y)].

    The labels ``y`` are drawn independently, from draw ``k``, all of it in float64.
    """
    log_probs = log_probs.double()
    b, k, c = log_probs.shape
    if c**b <= samples:
        joint = torch.zeros(1, k, dtype=torch.double)
        for item in log_probs:
            joint = (joint[:, None] + item.t()).flatten(0, 1)  # [C^i, K]
        of_mixture = joint.logsumexp(dim=1) - math.log(k)
        entropy = -(of_mixture.exp() * of_mixture).sum()
        return float(entropy + (log_probs.exp() * log_probs).sum() / k), 0.0
    generator = torch.Generator().manual_seed(2)
    gained: list[Tensor] = []
    for _ in range(samples // 10_000):
        draw = torch.randint(k, (10_000,), generator=generator)
        told = torch.zeros(10_000, k, dtype=torch.double)
        for item in log_probs:
            labels = item.exp()[draw].multinomial(1, generator=generator)[:, 0]
            told += item[:, labels].t()
        gained.append(told[torch.arange(10_000), draw] - told.logsumexp(dim=1) + math.log(k))
    all_gained = torch.cat(gained)
    return float(all_gained.mean()), float(all_gained.std()) / math.sqrt(len(all_gained))


def one(arguments: argparse.Namespace, b: int) -> None:
    """Runs one of the codes in this process, and prints what it took as JSON."""
    log_probs = make_log_probs(arguments.kind, arguments.N, arguments.K, arguments.C)
    unit = 1 if sys.platform == "darwin" else 1024
    CODES[arguments.code](log_probs[:200].clone(), 2)  # what is loaded only once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    begin = time.perf_counter()
    ids = CODES[arguments.code](log_probs, b)
    seconds = time.perf_counter() - begin
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before) / 2**20
    nats, error = information(log_probs[ids])
    told = {"ids": ids, "seconds": seconds, "mib": mib, "peak": before / 2**20 + mib, "nats": nats, "error": error}
    print(json.dumps(told))


def run(code: str, arguments: argparse.Namespace, b: int) -> dict[str, Any]:
    """The same in a process of its own."""
    sizes = [f"-{name}={getattr(arguments, name)}" for name in "NKC"]
    command = [sys.executable, __file__, *sizes, "-b", str(b), "--kind", arguments.kind, "--code", code]
    quiet = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=quiet)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-N", type=int, default=2000, help="items of the pool")
    parser.add_argument("-K", type=int, default=100, help="draws")
    parser.add_argument("-C", type=int, default=10, help="classes")
    parser.add_argument("-b", type=int, nargs="+", default=[5, 10], help="items of the batch")
    parser.add_argument("--kind", choices=["heads", "noise"], default="heads", help="what the draws are")
    parser.add_argument("--ours", action="store_true", help="without the other one")
    parser.add_argument("--code", choices=list(CODES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.code:
        one(arguments, arguments.b[0])
        return
    if not arguments.ours and importlib.util.find_spec("batchbald_redux") is None:
        sys.exit("batchbald_redux is not here: pip install --no-deps batchbald_redux==2.0.5 toma, or take --ours.")
    print(f"N={arguments.N} K={arguments.K} C={arguments.C} {arguments.kind}, {torch.get_num_threads()} threads")
    print(f"{'b':>3} {'code':>6} {'seconds':>9} {'working MiB':>12} {'peak MiB':>9} {'nats':>8} {'s.e.':>7}")
    for b in arguments.b:
        results = {code: run(code, arguments, b) for code in (["ours"] if arguments.ours else CODES)}
        for code, r in results.items():
            print(
                f"{b:3} {code:>6} {r['seconds']:9.2f} {r['mib']:12.0f} {r['peak']:9.0f} {r['nats']:8.4f} "
                f"{r['error']:7.4f}"
            )
        if "redux" in results:
            mine, theirs = results["ours"], results["redux"]
            same = len(set(mine["ids"]) & set(theirs["ids"]))
            print(
                f"    {theirs['seconds'] / mine['seconds']:.1f} times as fast, {mine['mib'] / theirs['mib']:.3f} of "
                f"the working memory, {mine['nats'] - theirs['nats']:+.4f} nats, {same} of {b} items the same"
            )


if __name__ == "__main__":
    main()
