"""How often the intervals of a report cover the true mean, beside other intervals, for few seeds and several noises.

In brackets the mean width, where that of Student's t is 1.

python -m benchmarks.intervals [--samples 20000]
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import t

from activebdl.report.intervals import LEVEL, mean_interval, resample_weights

Array = np.ndarray[Any, Any]
Noise = Callable[[np.random.Generator, tuple[int, int]], Array]

NOISES: dict[str, Noise] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "uniform": lambda random, shape: random.uniform(-1, 1, shape),
    "beta(97, 3), skew -1.1": lambda random, shape: random.beta(97, 3, shape) - 0.97,
    "gamma(4), skew 1": lambda random, shape: random.gamma(4, 1, shape) - 4,
    "exponential, skew 2": lambda random, shape: random.exponential(1, shape) - 1,
}
SEEDS = (3, 4, 5, 6, 8, 10)
CHUNK = 500


def student(values: Array) -> tuple[Array, Array]:
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return values.mean(axis=0) - half, values.mean(axis=0) + half


def percentile(values: Array) -> tuple[Array, Array]:
    low, high = np.quantile(resample_weights(len(values)) @ values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


METHODS: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "report": lambda values: mean_interval(values)[1:],
    "Student": student,
    "percentile": percentile,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20000)
    samples: int = parser.parse_args().samples
    print(f"{'noise':<24}{'seeds':>6}" + "".join(f"{name:>20}" for name in METHODS))
    for noise, draw in NOISES.items():
        for n in SEEDS:
            random = np.random.default_rng(n)
            values = [draw(random, (n, CHUNK)) for _ in range(samples // CHUNK)]
            cells: list[str] = []
            for method in METHODS.values():
                ends = [method(chunk) for chunk in values]
                covered = np.mean([(low <= 0) & (high >= 0) for low, high in ends])
                usual = [student(chunk) for chunk in values]
                wide = np.mean([high - low for low, high in ends]) / np.mean([high - low for low, high in usual])
                cells.append(f"{100 * covered:.1f} % ({wide:.2f})")
            print(f"{noise:<24}{n:>6}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
