"""Members of an ensemble trained one after the other, and together by vmap: milliseconds for a step of all.

    python benchmarks/ensemble.py [--device cuda] [--threads 1]

Five CNNs of the BatchBALD paper, batches of 64. On two CPU cores together takes 1.7 times as long, on one 2.0 times
(torch 2.15). So `activebdl.posteriors.ensemble` trains one by one.
"""

import argparse
import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from activebdl.networks import make_network

MEMBERS, BATCH = 5, 64


def one_by_one(x: Tensor, y: Tensor) -> Callable[[], None]:
    """A step of each member, in turn."""
    fresh = make_network("batchbald_cnn", (1, 28, 28), 10)
    members = [fresh().to(x.device, memory_format=torch.channels_last) for _ in range(MEMBERS)]  # pyright: ignore[reportCallIssue]
    optimizers = [torch.optim.AdamW(member.parameters(), fused=True) for member in members]
    x = torch.stack([images.contiguous(memory_format=torch.channels_last) for images in x])

    def step() -> None:
        for member, optimizer, images, labels in zip(members, optimizers, x, y, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(member(images), labels).backward()
            optimizer.step()

    return step


def together(x: Tensor, y: Tensor) -> Callable[[], None]:
    """One step of all members, their weights stacked."""
    members = [make_network("batchbald_cnn", (1, 28, 28), 10)().to(x.device) for _ in range(MEMBERS)]
    stacked, buffers = stack_module_state(members)
    weights = {name: value.detach().requires_grad_() for name, value in stacked.items()}
    shell = copy.deepcopy(members[0]).to("meta")
    optimizer = torch.optim.AdamW(weights.values(), fused=True)

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(shell, (weights, buffers), (x,)), y)

    losses = vmap(loss, randomness="different")

    def step() -> None:
        optimizer.zero_grad()
        losses(weights, buffers, x, y).sum().backward()
        optimizer.step()

    return step


def main() -> None:
    """Times both, by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x = torch.randn(MEMBERS, BATCH, 1, 28, 28, device=arguments.device)
    y = torch.randint(10, (MEMBERS, BATCH), device=arguments.device)
    steps = {"one by one": one_by_one(x, y), "together": together(x, y)}
    spent = dict.fromkeys(steps, 0.0)
    for turn in range(25):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if x.is_cuda:
                torch.cuda.synchronize()
            spent[name] += (time.perf_counter() - begin) * (turn >= 5)  # the first ones warm up
    for name, seconds in spent.items():
        print(f"{name:>12} {1000 * seconds / 20:8.1f} ms, {seconds / spent['one by one']:.2f}")


if __name__ == "__main__":
    main()
