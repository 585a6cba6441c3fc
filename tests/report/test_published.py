"""Published curves: the figures of the paper, and beside which runs they are drawn."""

from typing import Any

import pytest

from activebdl.report.published import matching, published
from activebdl.spec import RunSpec, read_spec


def spec(**changes: Any) -> RunSpec:
    return read_spec("mnist-1000", changes)


def at(key: str, n_labels: int) -> float:
    curve = next(curve for curve in published() if curve.key == key)
    return curve.heights[curve.counts.index(n_labels)]


def test_the_figures_are_those_that_the_paper_tells() -> None:
    """Repeated MNIST of five copies at 300 labels: BatchBALD far above random, which is above BALD (its figure 4)."""
    keys = [
        f"repeated_mnist_w_noise5_{how}_k10_b10" for how in ("multibald_bald", "independent_random", "independent_bald")
    ]
    batchbald, random, bald = (at(key, 300) for key in keys)
    assert batchbald > random > bald
    assert (batchbald, random, bald) == pytest.approx((0.956, 0.925, 0.891), abs=0.001)
    assert all(list(curve.counts) == sorted(set(curve.counts)) for curve in published())
    assert all(0 < height < 1 for curve in published() for height in curve.heights)


def test_they_are_drawn_beside_the_same_data_acquisition_and_nearest_query_size() -> None:
    def keys(spec: RunSpec, *strategies: str) -> list[str]:
        return [curve.key for curve in matching(spec, strategies)]

    assert keys(spec(query_size=10), "bald", "random") == ["bald_20"]
    assert keys(spec(query_size=40), "power_bald(beta=4)") == ["bald_40"]  # a stochastic form of it
    assert keys(spec(query_size=5), "batchbald(samples=2000)") == ["mnist_multibald_bald_k100_b5"]
    assert keys(spec(), "margin") == []
    assert keys(spec(dataset="digits"), "bald") == []
    assert keys(spec(**{"dataset.tuning": True}), "bald") == []  # on other images
    repeated = spec(dataset={"name": "repeated_mnist", "repeats": 5}, query_size=10)
    assert keys(repeated, "epig") == ["repeated_mnist_w_noise5_independent_random_k10_b10"]
    assert keys(spec(dataset={"name": "repeated_mnist", "noise": 0.3}), "bald") == []
    assert keys(spec(dataset={"name": "repeated_mnist"}), "mean_std")[0].startswith("rmnist_w_noise_independent_mean")


def test_the_legend_says_whose_they_are_and_what_differs() -> None:
    (bald,) = matching(spec(query_size=20), ["bald"])
    assert bald.label == "bald (Kirsch et al. 2019): 10 at a time, 20 draws, 12 runs"
