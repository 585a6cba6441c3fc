"""What MLflow is told of a spec and of a round."""

from dataclasses import replace
from typing import Any

import pytest

from activebdl.build import build, resolved
from activebdl.rounds import Round
from activebdl.spec import RunSpec, read_spec
from activebdl.targets import Classes
from activebdl.tracking.told import flat, metrics_of

CLASSES = Classes(("a", "b", "c"))


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return resolved(read_spec("digits-small", {"budget": 20, "posterior.training.steps": 5}))


@pytest.fixture(scope="module")
def rounds(spec: RunSpec) -> list[Round]:
    return list(build(spec))


def test_of_a_thousand_classes_the_rest_of_a_round_is_told(rounds: list[Round]) -> None:
    told = metrics_of(rounds[0], Classes(tuple(map(str, range(1000)))))
    assert len(told) < 50 and told["accuracy"] == rounds[0].metrics["accuracy"]


def test_what_was_asked_is_told_as_shares(rounds: list[Round]) -> None:
    round = replace(rounds[0], labels=(0, 0, 2, 0), scores=(None, 0.5, 1.5, None))
    told = metrics_of(round, CLASSES)
    assert [told[f"asked/class_{name}"] for name in CLASSES.names] == [0.75, 0.0, 0.25]
    assert told["asked/mean_score"] == 1.0
    assert told["time/round"] == pytest.approx(sum(round.seconds.values()))


def test_parameters_are_names_and_options(spec: RunSpec) -> None:
    params = flat(spec)
    assert params["dataset"] == "digits"
    assert params["network"] == "mlp"
    assert params["network.hidden"] == "[128]"
    assert params["posterior.training.learning_rate"] == "0.003"
    assert "compare" not in params
    assert all(len(value) <= 500 for value in params.values())


def test_runs_that_charts_average_have_one_protocol() -> None:
    def label(**changes: Any) -> str:
        return flat(resolved(read_spec("digits-small", changes)))["label"]

    assert label() == label(seed=5) == label(device="cpu") == "bald, mc_dropout"  # the preset's own
    steps = {"posterior.training.steps": 20}
    custom = label(**steps)
    assert custom.startswith("bald, mc_dropout, ") and custom == label(**steps, seed=5)
    assert custom == label(**steps, budget=200)  # the same run, with more labels
    others = {label(**steps, oracle="noisy"), label(oracle="noisy"), label(draws=7), label(**steps, draws=7)}
    assert len(others | {custom, label()}) == 6
