"""Published learning curves, to be drawn beside one's own and used for nothing else.

`published_curves.csv` has the means over runs of the experiments that Andreas Kirsch logged for "BatchBALD: Efficient
and Diverse Batch Acquisition for Deep Bayesian Active Learning" (Kirsch, van Amersfoort, Gal 2019), from the paper's
public logs (github.com/BlackHC/BatchBALD), up to the count that all runs of an experiment reached. `repeats` is that of
the data set repeated_mnist, and the noise there is .1 as here.

The rule of matching, which `matching` is:

    data set      the same, with the same repeats, noise and test set
    acquisition   that of a strategy in the report, or of the score in a stochastic form of it (power_bald: bald);
                  random wherever it was published
    query size    the nearest to ours, then the most runs: one curve for each acquisition

What differs all the same is told in words: query size and draws in the legend, and in the caption that those networks
had no augmentation and were stopped early on validation labels that are not counted.
"""

import csv
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from activebdl.spec import RunSpec

SOURCE = "Kirsch et al. 2019"
CAPTION = (
    "Dashed: means in the logs of the BatchBALD paper (Kirsch, van Amersfoort, Gal 2019). Their networks had no "
    "augmentation, and were stopped early on validation labels that are not counted here; they are in no statistics."
)
_NOISE = 0.1
_STOCHASTIC = ("power_", "softmax_", "softrank_")


@dataclass(frozen=True)
class Published:
    """A published curve: means of the accuracy over ``runs``."""

    key: str
    dataset: str
    repeats: int
    acquisition: str
    draws: int
    query_size: int
    runs: int
    counts: tuple[int, ...]
    heights: tuple[float, ...]

    @property
    def label(self) -> str:
        """As a legend has it."""
        return f"{self.acquisition} ({SOURCE}): {self.query_size} at a time, {self.draws} draws, {self.runs} runs"


@functools.cache
def published() -> tuple[Published, ...]:
    """All that there is."""
    text = (resources.files("activebdl.report") / "published_curves.csv").read_text(encoding="utf-8")
    points: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(text.splitlines()):
        points.setdefault(row["key"], []).append(row)
    return tuple(_curve(key, rows) for key, rows in points.items())


def matching(spec: RunSpec, strategies: Iterable[str]) -> list[Published]:
    """The published curves to draw beside runs of a spec; see the module for the rule.

    Args:
        spec: What the runs have in common.
        strategies: Their labels.
    """
    wanted = {_acquisition(label) for label in strategies} | {"random"}
    fits = [each for each in published() if _same_data(each, spec) and each.acquisition in wanted]
    size = _query_size(spec.label_counts())
    chosen: dict[str, Published] = {}
    for each in sorted(fits, key=lambda each: (abs(each.query_size - size), -each.runs, -each.counts[-1])):
        chosen.setdefault(each.acquisition, each)
    return sorted(chosen.values(), key=lambda each: each.acquisition)


def _curve(key: str, rows: Sequence[dict[str, str]]) -> Published:
    first = rows[0]
    return Published(
        key=key,
        dataset=first["dataset"],
        repeats=int(first["repeats"]),
        acquisition=first["acquisition"],
        draws=int(first["draws"]),
        query_size=int(first["query_size"]),
        runs=int(first["runs"]),
        counts=tuple(int(row["n_labels"]) for row in rows),
        heights=tuple(float(row["accuracy"]) for row in rows),
    )


def _acquisition(label: str) -> str:
    name = label.partition("(")[0]
    return next((name.removeprefix(rule) for rule in _STOCHASTIC if name.startswith(rule)), name)


def _same_data(each: Published, spec: RunSpec) -> bool:
    options = spec.dataset.options
    if each.dataset != spec.dataset.name:
        return False
    if each.dataset == "mnist":
        return not options.get("tuning", False)  # another test set
    return options.get("repeats", 3) == each.repeats and options.get("noise", _NOISE) == _NOISE


def _query_size(counts: Sequence[int]) -> int:
    """The first one; later ones may grow."""
    return counts[1] - counts[0] if len(counts) > 1 else 0
