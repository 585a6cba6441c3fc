"""What is said of arms: right where the truth is known, and nothing where it cannot be known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from activebdl import UserError
from activebdl.report import Curve, Price, compare_arms
from activebdl.report.arms import price
from tests.report.made import curve, of_numbers


def seeds_of(strategy: str, ends: Sequence[float], posterior: str = "mc_dropout") -> list[Curve]:
    """Two counts; all begin at .5."""
    return [curve(strategy, seed, [0.5, end], (20, 40), posterior) for seed, end in enumerate(ends)]


RANDOM = seeds_of("random", [0.70, 0.71, 0.72, 0.73, 0.74, 0.75, 0.76, 0.77])


def raised(strategy: str, by: Sequence[float], posterior: str = "mc_dropout") -> list[Curve]:
    return seeds_of(strategy, [c.heights[-1] + gain for c, gain in zip(RANDOM, by, strict=False)], posterior)


def test_a_difference_that_is_there_is_told_with_its_size() -> None:
    better, worse = (
        [0.04, 0.05, 0.06, 0.05, 0.04, 0.06, 0.05, 0.05],
        [-0.02, -0.03, -0.02, -0.01, -0.02, -0.03, -0.02, -0.01],
    )
    told = compare_arms([*RANDOM, *raised("bald", better), *raised("margin", worse)])
    bald, margin = told.verdicts
    assert bald.outcome == "better" and margin.outcome == "worse"
    assert bald.area.mean.mean == pytest.approx(0.025)  # half of .05: all begin at the same height
    assert bald.final.mean.mean == pytest.approx(0.05)
    assert bald.area.effect == 1 and margin.area.effect == -1
    assert (bald.area.p, bald.area.p_holm) == (2 / 256, 4 / 256)
    assert str(bald).startswith("bald is above random: +2.50 points of area (")
    assert "p = 0.016 after Holm, 8 seeds" in str(bald)
    assert str(margin).startswith("margin is below random: -1.00 points of area (")
    assert told.arms["bald"].final.mean == pytest.approx(0.785) and told.against == "random"


def test_a_mean_that_one_seed_turns_against_all_others_tells_nothing() -> None:
    behind = [-0.01 - i / 1e4 for i in range(19)]
    random = seeds_of("random", [0.5] * 20)
    for turned in (1, -1):
        ours = seeds_of("bald", [0.5 + turned * gain for gain in (*behind, 0.4)])
        (verdict,) = compare_arms([*random, *ours]).verdicts
        assert verdict.area.p < 0.01 and verdict.area.mean.mean * turned > 0 > verdict.area.effect * turned
        assert verdict.outcome == "cannot tell" and verdict.leads_from is None
        assert "a seed far from the others turns the mean" in str(verdict)
    (verdict,) = compare_arms([*random, *seeds_of("bald", [0.5 + gain for gain in (*behind, -0.4)])]).verdicts
    assert verdict.outcome == "worse"


def test_from_where_on_an_arm_is_ahead_at_every_count_is_told() -> None:
    counts, base = (20, 40, 60, 80), [0.5, 0.6, 0.7, 0.8]
    random = [curve("random", seed, [h + 0.001 * seed for h in base], counts) for seed in range(6)]
    ours: list[Curve] = []
    for seed in range(6):
        gains = [0.0, 0.05 if seed else -0.05, 0.05, 0.04]  # at 40 labels one seed is behind
        heights = [h + 0.001 * seed + gain + 0.0001 * seed * (gain > 0) for h, gain in zip(base, gains, strict=True)]
        ours.append(curve("bald", seed, heights, counts))
    verdict = compare_arms([*random, *ours]).verdicts[0]
    assert verdict.leads_from == 60
    assert str(verdict).endswith("; ahead at every count from 60 labels on.")
    assert compare_arms([*random[:5], *ours[:5]]).verdicts[0].leads_from is None


def test_what_so_few_seeds_can_never_show_is_said() -> None:
    told = compare_arms([*RANDOM[:3], *raised("bald", [0.05, 0.06, 0.07])])
    assert told.verdicts[0].outcome == "cannot tell" and told.verdicts[0].area.p == 0.25
    assert str(told).startswith("cannot tell bald from random: +3.00 points of area (")
    assert str(told).endswith("; 3 seeds cannot tell whatever they show, 6 are the fewest.")


def test_how_many_seeds_it_would_take_is_said() -> None:
    told = compare_arms([*RANDOM, *raised("bald", [0.03, -0.02, 0.04, -0.01, 0.02, 0.01, -0.03, 0.03])])
    verdict = told.verdicts[0]
    assert verdict.outcome == "cannot tell" and verdict.needed is not None
    assert f"about {verdict.needed} seeds would be needed for a difference like this one" in str(verdict)
    same = compare_arms([*RANDOM, *raised("bald", [0.0] * 8)])
    assert "the two are the same with every seed" in str(same) and same.verdicts[0].area.p == 1
    single = compare_arms([RANDOM[0], *raised("bald", [0.1])])
    assert "1 seed cannot tell whatever they show, 6 are the fewest" in str(single)


def false_alarms(comparisons: int) -> int:
    """Of comparisons of four strategies with nothing but noise, those in which any is said to differ."""
    random, alarms = np.random.default_rng(0), 0
    for _ in range(comparisons):
        curves: list[Curve] = []
        levels = random.normal(0, 0.02, 8)  # of the seeds, shared by all strategies
        for strategy in ("random", "bald", "margin", "badge"):
            curves += seeds_of(strategy, (0.8 + levels + random.normal(0, 0.02, 8)).tolist())
        alarms += any(verdict.outcome != "cannot tell" for verdict in compare_arms(curves).verdicts)
    return alarms


def test_strategies_that_are_the_same_are_seldom_told_apart() -> None:
    """At a chance of 5 %, more than 8 of 60 has a chance of 3 in 1,000."""
    assert false_alarms(60) <= 8


@pytest.mark.slow
def test_strategies_that_are_the_same_are_told_apart_in_at_most_one_comparison_of_twenty() -> None:
    """At a chance of 5 %, more than 67 of 1,000 has a chance of 1 in 100."""
    assert false_alarms(1000) <= 67


def test_seeds_that_only_one_has_are_left_out_of_the_pairs_and_named() -> None:
    bald = raised("bald", [0.05] * 8)
    told = compare_arms([*RANDOM[1:], *bald[:-1]])
    verdict = told.verdicts[0]
    assert verdict.seeds == (1, 2, 3, 4, 5, 6) and verdict.missing == (0, 7)
    assert verdict.area.differences == pytest.approx([0.025] * 6)
    assert "6 seeds (left out, for only one of the two has them: seeds 0, 7)" in str(verdict)
    assert told.arms["bald"].seeds == (0, 1, 2, 3, 4, 5, 6)
    apart = compare_arms([*RANDOM[:2], *bald[4:6]])
    assert apart.verdicts == () and str(apart) == "bald and random share no seed, and are not compared."


def test_of_errors_less_is_better() -> None:
    ours = [of_numbers("gaussian_bald", seed, [70, 60 + seed, 50]) for seed in range(6)]
    random = [of_numbers("random", seed, [70, 64 + seed + 0.1 * seed, 60]) for seed in range(6)]
    verdict = compare_arms([*random, *ours]).verdicts[0]
    assert verdict.outcome == "better" and verdict.area.mean.mean > 0
    assert str(verdict).startswith("gaussian_bald is better than random: mean RMSE -4.6")
    assert compare_arms([*random, *ours], "gaussian_bald").verdicts[0].outcome == "worse"
    assert compare_arms([*random, *ours]).arms["random"].prices == {}


def test_posteriors_are_compared_under_the_same_strategy() -> None:
    curves = [
        *RANDOM, *seeds_of("random", [c.heights[-1] for c in RANDOM], "map"),
        *raised("bald", [0.05] * 8), *raised("bald", [0.03] * 8, "map"),
    ]  # fmt: skip
    pairs = [(verdict.arm, verdict.against) for verdict in compare_arms(curves).verdicts]
    assert pairs == [
        ("bald, mc_dropout", "random, mc_dropout"),
        ("bald, map", "random, map"),
        ("random, map", "random, mc_dropout"),
        ("bald, map", "bald, mc_dropout"),
    ]
    outcomes = [verdict.outcome for verdict in compare_arms(curves).verdicts]
    assert outcomes == ["better", "better", "cannot tell", "worse"]


def test_the_baseline_is_found_by_its_name_or_its_label() -> None:
    curves = [*RANDOM, *raised("power_bald(beta=4)", [0.05] * 8), *raised("bald", [0.04] * 8)]
    for against in ("power_bald", "power_bald(beta=4)"):
        assert [verdict.arm for verdict in compare_arms(curves, against).verdicts] == ["random", "bald"]
    with pytest.raises(UserError, match=r"no strategy 'badge' .* There are: random, power_bald\(beta=4\), bald\."):
        compare_arms(curves, "badge")
    without = compare_arms(curves[8:])
    assert without.against == "power_bald(beta=4)" and "random is not among the strategies" in str(without)


def test_runs_that_are_under_way_are_left_out_and_told() -> None:
    going = replace(curve("bald", 7, [0.5], (20,)), complete=False)
    told = compare_arms([*RANDOM, *raised("bald", [0.05] * 7), going])
    assert told.last == 40 and told.verdicts[0].seeds == tuple(range(7))
    assert "bald is not at its end, and left out of all numbers: seed 7 at 20 labels." in told.notes
    all_going = [replace(each, complete=False) for each in (*RANDOM, *raised("bald", [0.05] * 7))]
    told = compare_arms(all_going)
    assert told.last == 40 and "compared up to 40 labels" in str(told) and len(told.verdicts) == 1
    told = compare_arms([*all_going, going])
    assert str(told) == "All runs have their first labels alone in common, so there is nothing to compare yet."


def test_a_run_that_a_rule_stopped_shortens_the_comparison_and_that_is_told() -> None:
    whole = [curve(name, seed, [0.5, 0.6, 0.7]) for name in ("random", "bald") for seed in range(3)]
    assert compare_arms(whole).last == 60 and compare_arms(whole).notes == ()
    told = compare_arms([*whole[1:], replace(curve("random", 0, [0.5, 0.6], (20, 40)), stopped=True)])
    assert told.last == 40
    assert "Runs end at different counts: areas go up to 40 labels, and the end is there." in told.notes


def test_seeds_without_a_difference_tell_nothing() -> None:
    """Of seven pairs two are ties, and five whose signs agree have a p of 2 / 2^5 at best."""
    (verdict,) = compare_arms([*RANDOM, *raised("bald", [0, 0, 0.05, 0.05, 0.05, 0.05, 0.05])]).verdicts
    assert verdict.area.p == pytest.approx(2 / 2**5)
    assert "5 seeds that differ cannot tell whatever they show, 6 are the fewest" in str(verdict)


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="no learning curves"):
        compare_arms([])
    with pytest.raises(UserError, match="two runs of random with seed 0"):
        compare_arms([RANDOM[0], RANDOM[0]])
    with pytest.raises(UserError, match="Accuracies and errors"):
        compare_arms([RANDOM[0], of_numbers("bald", 0, [1, 2, 3])])
    with pytest.raises(UserError, match="no number of labels in common"):
        compare_arms([RANDOM[0], curve("bald", 0, [0.5, 0.6], (30, 50))])
    with pytest.raises(UserError, match="begin at 20, 40 labels"):
        compare_arms([RANDOM[0], curve("bald", 0, [0.6, 0.7], RANDOM[0].counts[1:3])])
    betas = [replace(each, strategy=f"power_bald(beta={beta})") for each in RANDOM for beta in (1, 4)]
    with pytest.raises(UserError, match=r"'power_bald' may be power_bald\(beta=1\) or power_bald\(beta=4\)"):
        compare_arms(betas, against="power_bald")
    assert compare_arms(betas, against="power_bald(beta=4)").against == "power_bald(beta=4)"
    assert str(compare_arms(RANDOM)) == "There is one arm, and nothing to compare it with."


def test_never_is_the_most_of_all() -> None:
    group = [curve("bald", 0, [0.5, 0.9, 0.9]), curve("bald", 1, [0.5, 0.6, 0.9]), curve("bald", 2, [0.5, 0.6, 0.7])]
    assert price(0.5, group) == Price(20, 20, 20)
    assert price(0.9, group) == Price(60, 40, float("inf"))
    assert str(price(0.9, group)) == "60 (40 - never)"
    assert str(price(0.9, group[1:])) == "never (60 - never)"  # of two the upper one
    assert str(price(0.95, group)) == "never" and str(price(0.5, group)) == "20"
    stopped = [replace(each, stopped=True) for each in group]
    assert str(price(0.95, stopped)) == "not by 60"
    under_way = [replace(each, complete=False) for each in group]
    assert str(price(0.95, under_way)) == "not by 60"
