"""What sharing the work of K draws saves, for every posterior: draws at once, and one after the other.

    python benchmarks/draws.py [--network batchbald_cnn] [--items 2000] [--draws 20]

Each method is fitted for a few steps to 100 labels of MNIST, enough to time its draws. "at once" is how the cycle
scores: chunks of the pool, all draws for each, what they share computed once. "one by one" is the naive loop: a pass
over the pool for each draw, and for MC-dropout the masks multiplied in. Both take turns; rates are medians, in
posterior samples (an image by a draw) a second.
"""

import argparse
import time
from statistics import median

import torch
from torch import Tensor

from activebdl import Labelled, load
from activebdl.build import make_method
from activebdl.data.dataset import ActiveDataset
from activebdl.likelihoods import Categorical
from activebdl.networks import make_network
from activebdl.posteriors import Posterior, posteriors
from activebdl.posteriors.mc_dropout import DropoutPosterior
from activebdl.scoring import Scorer
from activebdl.spec import Named

TRAINING = {"steps": 20, "learning_rate": 1e-3}
CPU = torch.device("cpu")


def fitted(name: str, network: str, data: ActiveDataset) -> Posterior:
    assert data.labels is not None
    method = make_method(Named.model_validate({"name": name, "training": TRAINING}))
    known = Labelled(data.pool[torch.arange(100)], data.labels[:100], Categorical(10), data.normalise)
    return method.fit(make_network(network, (1, 28, 28), 10), known, generator=torch.Generator().manual_seed(0))


def at_once(posterior: Posterior, data: ActiveDataset, images: Tensor, k: int) -> float:
    begin = time.perf_counter()
    draws = posterior.draw(k, generator=torch.Generator().manual_seed(1))
    Scorer(draws, images, data.normalise, CPU).predictions(torch.arange(len(images)))
    return time.perf_counter() - begin


def one_by_one(posterior: Posterior, data: ActiveDataset, images: Tensor, k: int) -> float:
    begin = time.perf_counter()
    rng = torch.Generator().manual_seed(1)
    for _ in range(k):
        Scorer(posterior.draw(1, generator=rng), images, data.normalise, CPU).predictions(torch.arange(len(images)))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="batchbald_cnn")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    data = load("mnist")
    images, k = data.pool[torch.arange(arguments.items)], arguments.draws
    print(f"{arguments.network}, {arguments.items} images, {k} draws, {torch.get_num_threads()} threads")
    print(f"{'':<20}{'at once':>12}{'one by one':>12}{'faster':>9}")
    for name in posteriors.names():
        posterior = fitted(name, arguments.network, data)
        naive = posterior
        if isinstance(posterior, DropoutPosterior):
            naive = DropoutPosterior(posterior.module, data.normalise(images[:2]), thin=False)
        count = posterior.draw(k, generator=torch.Generator()).count  # an ensemble has no more than its members
        took = [
            (at_once(posterior, data, images, count), one_by_one(naive, data, images, count))
            for _ in range(arguments.times)
        ]
        shared, naively = (len(images) * count / median(seconds) for seconds in zip(*took, strict=True))
        print(f"{name:<20}{shared:>12,.0f}{naively:>12,.0f}{shared / naively:>8.1f}x", flush=True)


if __name__ == "__main__":
    main()
