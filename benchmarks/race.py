"""Racing against the full count: how often the choice is the same, what is lost when it is not, what is saved.

    python benchmarks/race.py                                    # 20, 100 and 500 labels, 100 trials each
    python benchmarks/race.py --labels 100 --heats 10:.2,30:.05 --precision bfloat16

MNIST, the network and the training of the preset mnist-batchbald, items labelled at random. A posterior is fitted once
for each number of labels and drawn from some more times than a trial needs; a trial takes its K draws out of these, and
the first of them for the heats, as the cycle does. It compares the race's top Q of BALD with that of all K draws of
the whole pool. "total" is the sum of their scores as a share of the best Q; "samples" says how many times fewer items
times draws were looked at; "seconds" is how many times faster a whole query was, full and raced in turns.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from activebdl import Race, resolve
from activebdl.build import make_dataset, make_fresh, make_method
from activebdl.data import ActiveDataset, Labelled
from activebdl.data.dataset import Inputs
from activebdl.devices import Precision, choose_device
from activebdl.likelihoods import Categorical
from activebdl.posteriors import Posterior
from activebdl.racing import Heat, race
from activebdl.scoring import Scorer, in_precision
from activebdl.spec import RunSpec, read_spec
from activebdl.strategies import Query
from activebdl.targets import log_probs

SPARE = 3  # draws that are kept, for each that a trial takes: so that trials differ


class Some:
    """Draws that are known by their number in a table alone."""

    def __init__(self, table: "Table", taken: Tensor) -> None:
        self.table, self.taken, self.count = table, taken, len(taken)

    def log_probs(self, x: Tensor) -> Tensor:
        """What they say is in a table, and nobody asks."""
        raise NotImplementedError


class Table:
    """What many draws say of the whole pool: probabilities ``[draws, N, C]``, in half precision, and entropies."""

    def __init__(
        self, posterior: Posterior, count: int, pool: Inputs, data: ActiveDataset, precision: Precision
    ) -> None:
        device, predict = choose_device("auto"), in_precision(precision, log_probs)
        self.probs = torch.empty(count, len(pool), len(data.classes), dtype=torch.half)
        self.entropy = torch.empty(count, len(pool))
        rng = torch.Generator().manual_seed(1)
        for some in torch.arange(count).split(50):
            draws = posterior.draw(len(some), generator=rng)
            found = Scorer(draws, pool, data.normalise, device, predict=predict).predictions(torch.arange(len(pool)))
            self.probs[some] = found.exp().transpose(0, 1).half()  # found is [N, 50, C]
            self.entropy[some] = -(found.exp() * found).sum(dim=-1).t()


def bald(scorer: Scorer, ids: Tensor) -> Tensor:
    """BALD by these draws, ``[len(ids)]`` in nats."""
    assert isinstance(scorer.draws, Some)
    table = scorer.draws.table
    total, entropy = torch.zeros(len(ids), table.probs.shape[2]), torch.zeros(len(ids))
    for draw in scorer.draws.taken.tolist():
        total += table.probs[draw, ids]
        entropy += table.entropy[draw, ids]
    mean = (total / scorer.draws.count).clamp_min(1e-30)
    return (-(mean * mean.log()).sum(dim=-1) - entropy / scorer.draws.count).double()


def trial(
    table: Table, early: Table, data: ActiveDataset, racing: Race, k: int, q: int, seed: int
) -> tuple[bool, float, float]:
    """Whether the choice is the same, its share of the best total, and how many times fewer samples it took."""
    heats, n = racing.before(k), table.probs.shape[1]
    order = torch.randperm(len(table.probs), generator=torch.Generator().manual_seed(seed))[:k]

    def scorer(table: Table, draws: int) -> Scorer:
        return Scorer(Some(table, order[:draws]), data.pool, data.normalise, torch.device("cpu"))

    def best(scores: Tensor, quantity: int) -> Tensor:
        return scores.topk(quantity).indices

    full = scorer(table, k)
    entrants = [Heat(scorer(early, draws), share) for draws, share in heats]
    chosen, _, samples = race(entrants, full, torch.arange(n), bald, best, q)
    scores = bald(full, torch.arange(n))
    truth = best(scores, q)
    same = set(chosen.tolist()) == set(truth.tolist())
    return same, float(scores[chosen].sum() / scores[truth].sum()), n * k / samples


def seconds(posterior: Posterior, data: ActiveDataset, racing: Race, k: int, q: int, times: int) -> float:
    """How many times longer a query of the full count takes; the median of some, in turns."""
    device, ids = choose_device("auto"), torch.arange(len(data.pool))

    def scorer(draws: int, precision: Precision = "float32") -> Scorer:
        taken = posterior.draw(draws, generator=torch.Generator().manual_seed(0))
        return Scorer(taken, data.pool, data.normalise, device, predict=in_precision(precision, log_probs))

    ratios: list[float] = []
    for seed in range(times):
        took: list[float] = []
        for heats in ((), racing.before(k)):
            begin = time.perf_counter()
            entrants = tuple(Heat(scorer(draws, racing.precision), share) for draws, share in heats)
            rng = torch.Generator().manual_seed(seed)
            resolve("bald").select(Query(ids, ids[:0], q, rng, scorer(k), heats=entrants))
            took.append(time.perf_counter() - begin)
        ratios.append(took[0] / took[1])
    return statistics.median(ratios)


def fitted(spec: RunSpec, data: ActiveDataset, labels: int) -> Posterior:
    """The posterior given so many labels of items drawn at random."""
    assert data.labels is not None
    ids = torch.randperm(len(data.pool), generator=torch.Generator().manual_seed(labels))[:labels]
    device = choose_device("auto")
    known = Labelled(
        data.pool[ids].to(device), data.labels[ids].to(device), Categorical(len(data.classes)), data.normalise
    )
    rng = torch.Generator().manual_seed(0)
    return make_method(spec.posterior).fit(make_fresh(spec.network, data), known, generator=rng)


def parsed(text: str) -> Race:
    """Heats as "8:.2,30:.04"."""
    pairs = (heat.split(":") for heat in text.split(","))
    return Race(tuple((int(draws), float(share)) for draws, share in pairs))


def main() -> None:
    """A line for each number of labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[20, 100, 500])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--draws", type=int, default=100, help="K")
    parser.add_argument("--query", type=int, default=10, help="Q")
    parser.add_argument("--heats", type=parsed, nargs="+", default=[Race()], metavar="DRAWS:SHARE,...")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the early heats")
    parser.add_argument("--times", type=int, default=5, help="of the queries that are timed; 0 times none")
    parser.add_argument("--keep", type=Path, help="a folder for the tables, to try other heats on")
    arguments = parser.parse_args()
    spec = read_spec("mnist-batchbald")
    data = make_dataset(spec.dataset)
    print(f"{torch.get_num_threads()} threads, N = {len(data.pool):,}, K = {arguments.draws}, Q = {arguments.query}")
    print(f"{'labels':>7}{'same':>12}{'worst total':>13}{'samples':>9}{'seconds':>9}  heats")
    for labels in arguments.labels:
        posterior = fitted(spec, data, labels)

        def table(precision: Precision, posterior: Posterior = posterior, labels: int = labels) -> Table:
            kept = None if arguments.keep is None else arguments.keep / f"{labels}-{precision}.pt"
            if kept is not None and kept.exists():
                return torch.load(kept, weights_only=False)
            made = Table(posterior, SPARE * arguments.draws, data.pool, data, precision)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                torch.save(made, kept)
            return made

        exact = table("float32")
        early = exact if arguments.precision == "float32" else table(arguments.precision)
        for racing in arguments.heats:
            racing = replace(racing, precision=arguments.precision)
            numbers = (arguments.draws, arguments.query)
            found = [trial(exact, early, data, racing, *numbers, seed) for seed in range(arguments.trials)]
            same, worst = sum(same for same, _, _ in found), min(total for _, total, _ in found)
            fewer = statistics.median(fewer for _, _, fewer in found)
            timed = ""
            if arguments.times:
                timed = f"{seconds(posterior, data, racing, *numbers, arguments.times):.1f} x"
            print(
                f"{labels:>7}{same:>6} of {len(found):<3}{100 * worst:>11.2f} %{fewer:>7.1f} x{timed:>9}  "
                f"{racing.told(arguments.draws)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
