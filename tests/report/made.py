"""Curves for tests."""

from collections.abc import Sequence

from activebdl.report import Curve


def curve(
    strategy: str,
    seed: int,
    accuracy: Sequence[float],
    counts: tuple[int, ...] = (20, 40, 60),
    posterior: str = "mc_dropout",
) -> Curve:
    metrics = {"accuracy": tuple(accuracy), "nll": tuple(1 - a for a in accuracy), "ece": tuple(accuracy)}
    return Curve(strategy, posterior, seed, counts, metrics, seconds=90.0)


def of_numbers(strategy: str, seed: int, rmse: Sequence[float]) -> Curve:
    metrics = {"rmse": tuple(rmse), "nll": (1.0, 1.0, 1.0), "coverage_90": (0.9, 0.9, 0.9)}
    return Curve(strategy, "mc_dropout", seed, (20, 40, 60), metrics)
