"""Stopping rules on rounds that are made up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from activebdl import (
    AllOf,
    AnyOf,
    CostLimit,
    LabelLimit,
    Normalise,
    Numbers,
    OverallUncertainty,
    Round,
    StablePredictions,
    StoppingRule,
    UserError,
    ValidationAccuracy,
    WallTime,
)
from activebdl.build import make_rule, resolved
from activebdl.pool import Pool
from activebdl.scoring import Scorer
from activebdl.signals import draw_stop_set, signals
from activebdl.spec import Named, read_spec
from activebdl.stopping import make_stop, stopping_rules, why
from activebdl.stopping._trial import check_stop
from activebdl.stopping.stable_predictions import cohen_kappa
from activebdl.stopping.validation_accuracy import wilson_lower
from activebdl.targets import Classes
from tests.conftest import KnownDraws


def rounds(n: int, **each: Sequence[Any]) -> list[Round]:
    """Rounds 0 to n - 1 with 10, 20, ... labels; of each field a value for each round."""
    made = [
        Round(i, 10 * (i + 1), (i,), (0,), (None,), {"accuracy": 1.0}, {}, {"fit": 60.0}, [[1]], {"count": [1.0]}, 7)
        for i in range(n)
    ]
    return [replace(round, **{key: values[i] for key, values in each.items()}) for i, round in enumerate(made)]


def first_stop(rule: StoppingRule, done: Sequence[Round]) -> int | None:
    """The number of the round after which a run would have ended."""
    return next((i for i in range(len(done)) if why(rule, done[: i + 1]) is not None), None)


@dataclass(frozen=True)
class Always(StoppingRule):
    words: str | None

    def reason(self, rounds: Sequence[Round]) -> str | None:
        return self.words


# ---- budgets ----


def test_labels_and_costs_end_with_the_first_round_that_reaches_them() -> None:
    done = rounds(4, cost=[1.0, 2.5, 2.5, 4.0])
    assert [first_stop(LabelLimit(n), done) for n in (1, 10, 11, 30, 41)] == [0, 0, 1, 2, None]
    assert [first_stop(CostLimit(c), done) for c in (0.5, 2.5, 2.6, 4, 4.1)] == [0, 1, 3, 3, None]
    assert why(CostLimit(3), done) == "the annotations have cost 4, and the limit is 3"


def test_wall_time_is_that_of_all_phases_of_all_rounds() -> None:
    seconds = [{"fit": 30.0, "ask": 60.0}, {"fit": 30.0}, {"fit": 0.0, "select": 60.0}]
    done = rounds(3, seconds=seconds)  # 1.5, 2 and 3 minutes by their ends
    assert [first_stop(WallTime(m), done) for m in (1.5, 1.6, 2, 2.1, 3, 3.1)] == [0, 1, 1, 2, 2, None]


# ---- validation accuracy ----


def test_validation_accuracy_without_confidence_is_taken_as_it_is() -> None:
    done = rounds(3, validation=[{"accuracy": a, "size": 20} for a in (0.8, 0.95, 0.9)])
    assert [first_stop(ValidationAccuracy(t), done) for t in (0.8, 0.9, 0.95, 0.96)] == [0, 1, 1, None]


@given(st.integers(1, 400), st.data(), st.floats(0.5, 0.999))
def test_the_wilson_bound_is_that_of_scipy(size: int, data: st.DataObject, confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    right = data.draw(st.integers(0, size))
    interval = stats.binomtest(right, size, alternative="greater").proportion_ci(confidence, method="wilson")
    assert wilson_lower(right / size, size, confidence) == pytest.approx(interval.low, abs=1e-12)


def test_the_wilson_bound_of_a_perfect_score_is_known() -> None:
    z = 1.6448536269514722  # of 95 %, one-sided
    assert wilson_lower(1.0, 40, 0.95) == pytest.approx(40 / (40 + z**2))
    assert wilson_lower(0.9, 40, 0.5) == pytest.approx(0.9)


def test_with_confidence_more_items_are_needed_for_the_same_target() -> None:
    done = rounds(2, validation=[{"accuracy": 0.95, "size": 40}, {"accuracy": 0.95, "size": 400}])
    assert first_stop(ValidationAccuracy(0.92), done) == 0
    assert first_stop(ValidationAccuracy(0.92, confidence=0.95), done) == 1  # .8597 of 40, .9289 of 400
    told = why(ValidationAccuracy(0.92, confidence=0.95), done)
    assert told == "95 % of 400 validation items are right, at least 92.89 % with confidence 0.95; the target is 0.92"


# ---- stable predictions ----


def test_kappa_of_a_textbook() -> None:
    """20 and 15 of 50 are agreed on; each rater says yes 25 and 30 times: (.7 - .5) / (1 - .5)."""
    first = torch.tensor([1] * 25 + [0] * 25)
    second = torch.tensor([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15)
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa(first, first) == 1
    assert cohen_kappa(first, 1 - first) == -1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    first, second = zip(*pairs, strict=True)
    assume(len(set(first + second)) > 1)
    expected = sklearn_metrics.cohen_kappa_score(first, second)
    assert cohen_kappa(torch.tensor(first), torch.tensor(second)) == pytest.approx(expected, abs=1e-12)


def test_a_model_that_knows_a_single_class_is_not_stable() -> None:
    assert cohen_kappa(torch.full((9,), 2), torch.full((9,), 2)) == 0


def test_stable_predictions_wait_for_the_mean_of_so_many_agreements() -> None:
    kappas = [None, 0.99, 0.95, 0.97, 0.99, 0.99]
    done = rounds(6, watch=[{"uncertainty": 1.0, **({} if k is None else {"kappa": k})} for k in kappas])
    assert first_stop(StablePredictions(kappa=0.97, rounds=3), done) == 3  # (.99 + .95 + .97) / 3
    assert first_stop(StablePredictions(kappa=0.98, rounds=3), done) == 5
    assert first_stop(StablePredictions(kappa=0.99, rounds=1), done) == 1
    assert first_stop(StablePredictions(kappa=0.5, rounds=6), done) is None
    assert (StablePredictions().kappa, StablePredictions().rounds) == (0.99, 3)


def test_overall_uncertainty_is_below_and_not_at_its_limit() -> None:
    done = rounds(3, watch=[{"uncertainty": u} for u in (0.5, 0.25, 0.1)])
    assert [first_stop(OverallUncertainty(u), done) for u in (0.6, 0.5, 0.25, 0.1)] == [0, 1, 2, None]


# ---- compositions ----


@given(st.lists(st.booleans(), min_size=1, max_size=4))
def test_any_is_one_and_all_is_each(stops: list[bool]) -> None:
    rules = tuple(Always(f"because {i}" if stop else None) for i, stop in enumerate(stops))
    reasons = [rule.words for rule in rules if rule.words is not None]
    assert why(AnyOf(rules), rounds(1)) == (reasons[0] if reasons else None)
    assert why(AllOf(rules), rounds(1)) == ("; and ".join(reasons) if all(stops) else None)


def test_operators_compose_and_what_is_composed_can_be_read() -> None:
    a, b, c = LabelLimit(30), WallTime(9), StablePredictions()
    assert a | b == AnyOf((a, b)) and a & b == AllOf((a, b))
    assert ((a | b) & c).parts == (a, b, c)
    assert (
        str((a | b) & c) == "(LabelLimit(limit=30) or WallTime(minutes=9)) and StablePredictions(kappa=0.99, rounds=3)"
    )
    assert first_stop(LabelLimit(20) & WallTime(3), rounds(4)) == 2
    assert first_stop(LabelLimit(20) | WallTime(3), rounds(4)) == 1


def test_several_rules_are_any_of_them_and_none_is_none() -> None:
    assert make_stop(None) is None and make_stop([]) is None and make_stop(()) is None
    assert make_stop([LabelLimit(3), WallTime(1)]) == AnyOf((LabelLimit(3), WallTime(1)))
    assert make_stop(WallTime(1)) == WallTime(1)
    for bad in ("cost", 3, [3], LabelLimit, [LabelLimit]):
        with pytest.raises(UserError, match="stopping rule"):
            make_stop(bad)


# ---- what a rule is given, and what it may give ----


def test_a_rule_sees_nothing_of_the_test_set() -> None:
    seen: list[Round] = []

    class Looking(StoppingRule):
        def reason(self, rounds: Sequence[Round]) -> str | None:
            seen.extend(rounds)
            return None

    done = rounds(3)
    why(Looking(), done)
    assert [(r.metrics, r.confusion, r.reliability) for r in seen] == [({}, [], {})] * 3
    assert [r.n_labels for r in seen] == [10, 20, 30] and done[0].metrics == {"accuracy": 1.0}


@pytest.mark.parametrize("answer", [True, False, 1, "", "  ", ["why"]])
def test_a_reason_is_words_or_none(answer: Any) -> None:
    for rule in (Always(answer), AnyOf((Always(answer),)), AllOf((Always(answer),))):
        with pytest.raises(UserError, match="'Always' must say in words why to stop, or None; it gave"):
            why(rule, rounds(1))


def test_a_rule_that_fails_is_told_by_its_name() -> None:
    class Failing(StoppingRule):
        def reason(self, rounds: Sequence[Round]) -> str | None:
            return f"{rounds[-1].metrics['accuracy']}"

    with pytest.raises(UserError, match="The stopping rule 'Failing' failed: KeyError: 'accuracy'"):
        why(Failing() | LabelLimit(1), rounds(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelLimit(0), "limit of labels is 1 or more, not 0"),
        (lambda: CostLimit(0), "limit of cost is a number above 0, not 0"),
        (lambda: CostLimit(float("nan")), "limit of cost"),
        (lambda: WallTime(-1), "minutes above 0, not -1"),
        (lambda: WallTime(float("inf")), "minutes above 0"),
        (lambda: ValidationAccuracy(0), "above 0 and at most 1, not 0"),
        (lambda: ValidationAccuracy(95), "above 0 and at most 1, not 95"),
        (lambda: ValidationAccuracy(0.9, confidence=95), "from 0.5 to below 1, not 95"),
        (lambda: ValidationAccuracy(0.9, confidence=1.0), "from 0.5 to below 1"),
        (lambda: StablePredictions(kappa=1.1), "above 0 and at most 1, not 1.1"),
        (lambda: StablePredictions(kappa=float("nan")), "above 0 and at most 1"),
        (lambda: StablePredictions(rounds=0), "1 or more, not 0"),
        (lambda: OverallUncertainty(0), "fall below a number above 0, not 0"),
        (lambda: AnyOf(()), "AnyOf takes a list of one or more stopping rules"),
        (lambda: AllOf((3,)), "AllOf takes stopping rules, such as"),  # type: ignore[arg-type]
        (lambda: AllOf(LabelLimit(3)), "AllOf takes a list of one or more"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


# ---- before a run ----


class NeedsKappa(StoppingRule):
    """Forgets to say that it looks at the stop set."""

    def reason(self, rounds: Sequence[Round]) -> str | None:
        return "so" if rounds[-1].watch["kappa"] > 2 else None


@pytest.mark.parametrize(
    ("rule", "known", "message"),
    [
        (StablePredictions(), {"kind": "numbers"}, "'StablePredictions' is for classes, and the labels are numbers"),
        (WallTime(1) & ValidationAccuracy(0.9), {"kind": "numbers", "validation": 9}, "'ValidationAccuracy' is for"),
        (ValidationAccuracy(0.9) | WallTime(1), {}, "looks at validation items, and there are none; .*validation=100"),
        (ValidationAccuracy(0.98, 0.95), {"validation": 100}, "100 validation items cannot show .* would be 0.9737"),
        (CostLimit(3) & WallTime(1), {"costless": True}, "'CostLimit' counts what annotations cost, and these cost"),
        (NeedsKappa(), {}, "'NeedsKappa' failed: KeyError: 'kappa'"),
        (Always(3), {}, "'Always' must say in words"),  # type: ignore[arg-type]
    ],
)
def test_rules_that_cannot_work_are_refused(rule: StoppingRule, known: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"kind": "classes", "validation": 0, "costless": False}
    with pytest.raises(UserError, match=message):
        check_stop(rule, **(usual | known))


def test_rules_that_can_work_are_not() -> None:
    class OfTheFit(StoppingRule):
        """What a posterior tells of its fit is not known before there is one."""

        def reason(self, rounds: Sequence[Round]) -> str | None:
            return "so" if rounds[-1].diagnostics["kl"] > 2 else None

    for rule in (LabelLimit(1), CostLimit(1), WallTime(1), OverallUncertainty(1), OfTheFit(), Always("at once")):
        for kind in ("classes", "numbers"):
            check_stop(rule, kind=kind, validation=0, costless=False)
    check_stop(StablePredictions(rounds=1), kind="classes", validation=0, costless=True)
    check_stop(ValidationAccuracy(0.97, 0.95), kind="classes", validation=100, costless=True)


@dataclass(frozen=True)
class Covered(StoppingRule):
    """Looks at what only numbers have."""

    needs_validation: ClassVar[bool] = True
    kind: ClassVar[str] = "numbers"

    def reason(self, rounds: Sequence[Round]) -> str | None:
        return "so" if rounds[-1].validation["coverage_90"] > 0.9 else None


def test_a_rule_is_tried_with_all_that_a_round_has() -> None:
    check_stop(Covered(), kind="numbers", validation=9, costless=True)


class Plain(StoppingRule):
    """No dataclass, so that its repr says nothing of its limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def reason(self, rounds: Sequence[Round]) -> str | None:
        return "so" if len(rounds) > self.limit else None


def test_a_rule_whose_settings_are_not_known_is_refused() -> None:
    with pytest.raises(UserError, match="'Plain' keeps something that is no field of a dataclass"):
        check_stop(Plain(3) | WallTime(1), kind="classes", validation=0, costless=True)


def test_ones_own_rule_is_found_in_its_file(tmp_path: Path) -> None:
    file = tmp_path / "my_rules.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom activebdl import StoppingRule\n"
        "@dataclass(frozen=True)\nclass Mine(StoppingRule):\n    rounds: int = 2\n"
        "    def reason(self, rounds):\n        return 'enough' if len(rounds) >= self.rounds else None\n"
        "class Other: ...\n"
        "@dataclass(frozen=True)\nclass Picky(Mine):\n    def __post_init__(self):\n        raise ValueError('7')\n"
        "class Needy(Mine):\n    def __init__(self, n):\n        self.n = n\n"
        "@dataclass(frozen=True)\nclass Holder(Mine):\n    rules: tuple[StoppingRule, ...] = ()\n"
    )
    assert first_stop(stopping_rules.get(f"{file}:Mine")(), rounds(3)) == 1
    for name, message in (
        ("Picky", r"'.*:Picky' cannot be made: ValueError: 7 \(my_rules.py, line 12\)"),
        ("Needy", r"'.*:Needy' cannot be made: TypeError: .* missing 1 required"),
    ):
        with pytest.raises(UserError, match=message):
            make_rule(Named(name=f"{file}:{name}"))
    holder = resolved(read_spec("digits-small", {"stop": f"{file}:Holder"})).stop[0]
    assert holder.options["rules"] == [] and make_rule(holder).parts == (make_rule(holder),)
    with pytest.raises(UserError, match="input should be a valid list, not 'labels'"):
        make_rule(Named.model_validate({"name": "any_of", "rules": "labels"}))
    with pytest.raises(UserError, match="frozen dataclass that inherits from activebdl.StoppingRule"):
        stopping_rules.get(f"{file}:Other")
    with pytest.raises(UserError, match="Unknown stopping rule 'cots'. Known: all_of, any_of, cost, labels, "):
        stopping_rules.get("cots")


# ---- what is measured ----


def scorer(predictions: Tensor, target: str = "classes") -> Scorer:
    inputs = torch.arange(len(predictions)).float()[:, None]
    draws, cpu = KnownDraws(predictions), torch.device("cpu")
    return Scorer(draws, inputs, Normalise(), cpu, 2, predict=KnownDraws.log_probs, target=target)


def test_on_the_stop_set_entropy_and_agreement_are_those_of_the_mean_of_the_draws() -> None:
    sure, torn = [1.0 - 1e-7, 1e-7], [0.5, 0.5]
    draws = [[sure, sure], [sure, sure[::-1]], [torn, torn], [sure[::-1], sure[::-1]], [[0.9, 0.1], [0.1, 0.9]]]
    pool = Pool(5, Classes(("a", "b")))
    known = scorer(torch.tensor(draws).log())
    told = signals(known, pool, torch.tensor([0, 1, 3]), before=None)
    assert told["watch"] == {"uncertainty": pytest.approx(torch.tensor(2.0).log().item() / 3, abs=1e-5)}
    assert told["predicted"] == [0, 0, 1]  # a tie goes to the first
    told = signals(known, pool, torch.tensor([0, 3]), before=[1, 1])
    assert told["watch"]["kappa"] == 0  # half of them agree, as by chance
    assert signals(known, pool, torch.empty(0, dtype=torch.long), before=None) == {}


def test_of_numbers_the_uncertainty_is_the_deviation_of_the_mixture() -> None:
    predictions = torch.tensor([[[0.0, 9.0], [0.0, 9.0]], [[-4.0, 9.0], [4.0, 9.0]]])  # mean, variance of two draws
    told = signals(scorer(predictions, "numbers"), Pool(2, Numbers()), torch.tensor([0, 1]), before=None)
    assert told == {"watch": {"uncertainty": pytest.approx((3 + 5) / 2)}}


@given(st.integers(0, 9), st.integers(1, 50), st.integers(1, 60))
def test_a_stop_set_is_some_of_the_pool(seed: int, pool_size: int, size: int) -> None:
    ids = draw_stop_set(seed, pool_size, size).tolist()
    assert len(ids) == min(size, pool_size) and ids == sorted(set(ids)) and set(ids) <= set(range(pool_size))
    assert ids == draw_stop_set(seed, pool_size, size).tolist()
