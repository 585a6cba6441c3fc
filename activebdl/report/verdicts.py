"""Which arms are better than a baseline, as far as the seeds can tell.

Two runs of one seed start from the same labels, so arms are compared seed by seed. The verdict is on the area under the
learning curve, the one measure that is chosen before anything is seen; the end of the curve is told beside it. Each of
the two is corrected (Holm) over all arms that answer the same question: which strategies differ from the baseline, and,
where there are several posteriors, which posteriors differ from the first one under the same strategy. Where nothing
differs, at most one question of twenty is answered with a difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from activebdl.errors import UserError
from activebdl.report.arms import Arm, Estimate, summary
from activebdl.report.curves import Curve, area, by_label, common_counts, ends_differ
from activebdl.report.intervals import mean_interval
from activebdl.report.paired import SIGNIFICANT, fewest_seeds, holm, leads_from, rank_biserial, seeds_needed, wilcoxon_p

BASELINE = "random"


@dataclass(frozen=True)
class Test:
    """A paired comparison of one measure.

    Args:
        differences: Arm less baseline, of each seed that both have; for an error, turned so that more is better.
        mean: Theirs, and its 95 % interval.
        effect: The matched-pairs rank-biserial correlation, from -1 to 1.
        p: Wilcoxon's, two-sided, of this comparison alone.
        p_holm: The same, corrected over all arms that answer the same question.
    """

    differences: tuple[float, ...]
    mean: Estimate
    effect: float
    p: float
    p_holm: float = math.nan

    @property
    def tells(self) -> bool:
        """Whether there is a difference, at 5 % over all arms that answer the same question.

        Where a pair far from the others turns the mean against the ranks that the test goes by, nobody is told better.
        """
        return self.p_holm <= SIGNIFICANT and self.mean.mean * self.effect > 0


@dataclass(frozen=True)
class Verdict:
    """One arm against another.

    Args:
        arm: Its label.
        against: The label of the baseline.
        headline: "accuracy" or "rmse".
        seeds: Those that both have.
        missing: Those that only one of them has, and that are left out.
        area: Of the area under the learning curve: the verdict goes by this one.
        final: Of the headline at the last count.
        comparisons: How many arms answer the same question.
        leads_from: The count from which on the arm is ahead at every count, each beyond chance, see
            `paired.leads_from`; None where it is not at the last.
        needed: Seeds at which a difference like this one would be seen in four of five such comparisons; None for more
            than can be told.
    """

    arm: str
    against: str
    headline: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    area: Test
    final: Test
    comparisons: int
    leads_from: int | None
    needed: int | None

    @property
    def outcome(self) -> str:
        """Better, worse, or "cannot tell"."""
        if not self.area.tells:
            return "cannot tell"
        return "better" if self.area.mean.mean > 0 else "worse"

    def __str__(self) -> str:
        """The verdict in a sentence."""
        n, p = len(self.seeds), f"p = {told_p(self.area.p_holm)}{' after Holm' if self.comparisons > 1 else ''}"
        difference = told_difference(self.area.mean, self.headline, " of area")
        end = f"at the end {told_difference(self.final.mean, self.headline)}, p = {told_p(self.final.p_holm)}"
        seeds = f"{n} seed{'s' if n != 1 else ''}"
        left_out = f" (left out, for only one of the two has them: {_listed(self.missing)})" if self.missing else ""
        if self.outcome == "cannot tell":
            start = f"cannot tell {self.arm} from {self.against}"
            return f"{start}: {difference}, {p}, {seeds}{left_out}; {end}; {self._what_it_takes()}."
        words = {"better": "above", "worse": "below"} if self.headline == "accuracy" else {}
        relation = words.get(self.outcome, f"{self.outcome} than")
        ahead = "" if self.leads_from is None else f"; ahead at every count from {self.leads_from:,} labels on"
        return f"{self.arm} is {relation} {self.against}: {difference}, {p}, {seeds}{left_out}; {end}{ahead}."

    def _what_it_takes(self) -> str:
        fewest, seeds = fewest_seeds(self.comparisons), len(self.seeds)
        n = sum(round(difference, 12) != 0 for difference in self.area.differences) or seeds  # ties tell nothing
        told = f"{n} seed{'s' if n != 1 else ''}{' that differ' if n < seeds else ''}"
        hopeless = f"{told} cannot tell whatever they show, {fewest} are the fewest"
        if n < 2:
            return hopeless
        if not any(self.area.differences):
            likely = "the two are the same with every seed"
        elif self.area.p_holm <= SIGNIFICANT:
            likely = "most seeds say one thing and the mean another: a seed far from the others turns the mean"
        elif self.needed is None:
            likely = "more than 1,000 seeds would be needed for a difference like this one"
        elif self.needed <= n:
            likely = f"a difference like this one is mostly seen with {self.needed} seeds, and was not here"
        else:
            likely = f"about {self.needed:,} seeds would be needed for a difference like this one"
        return f"{hopeless}; {likely}" if n < fewest and self.needed != fewest else hopeless if n < fewest else likely


@dataclass(frozen=True)
class Statistics:
    """A comparison in numbers; as text, the verdicts, one a line.

    Args:
        headline: "accuracy" or "rmse".
        last: The number of labels up to which areas go, and at which the end is.
        arms: By label.
        verdicts: Strategies against the baseline, then posteriors against the first one.
        against: The label of the baseline strategy.
        notes: What was left out, and why.
        curves: The runs that all of it is about.
    """

    headline: str
    last: int
    arms: dict[str, Arm]
    verdicts: tuple[Verdict, ...]
    against: str
    notes: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()

    def __str__(self) -> str:
        """The verdicts, and what was left out."""
        lines = [*map(str, self.verdicts), *self.notes]
        return "\n".join(lines) if lines else "There is one arm, and nothing to compare it with."


def compare_arms(curves: Sequence[Curve], against: str | None = None) -> Statistics:
    """Means with intervals, areas, prices of target accuracies, and verdicts on which arm is better.

    Args:
        curves: Runs of one protocol: strategies, posteriors and seeds may differ, nothing else.
        against: The baseline: a strategy's name or label; random when not given, or the first where it is not there.

    Raises:
        UserError: There are no curves, they do not measure the same, or the baseline is not among them.
    """
    if not curves:
        raise UserError("There are no learning curves to compare.")
    if len({curve.headline for curve in curves}) > 1:
        raise UserError("Accuracies and errors of numbers cannot be compared; give the curves of one kind at a time.")
    _none_twice(curves)
    used, notes = _at_their_end(curves)
    baseline, note = _baseline(used, against)
    shared, groups = common_counts(used), by_label(used)
    last = shared[-1]
    if (starts := sorted({curve.counts[0] for curve in used}))[1:]:
        told = ", ".join(f"{start:,}" for start in starts)
        raise UserError(f"These curves begin at {told} labels; areas are of curves that begin at the same number.")
    if ends_differ(used) and not notes:
        notes.append(f"Runs end at different counts: areas go up to {last:,} labels, and the end is there.")
    if len(shared) == 1 and not any(curve.complete for curve in used):
        notes = ["All runs have their first labels alone in common, so there is nothing to compare yet."]
        questions: list[list[tuple[str, str]]] = []
    else:
        questions = _questions(groups, baseline)
    arms = {label: summary(label, group, last) for label, group in groups.items()}
    verdicts: list[Verdict] = []
    for pairs in questions:
        paired = [(a, b) for a, b in pairs if _share_a_seed(groups[a], groups[b])]
        notes += [f"{a} and {b} share no seed, and are not compared." for a, b in pairs if (a, b) not in paired]
        verdicts += _family([_compared(a, b, groups, shared, len(paired)) for a, b in paired])
    if note and len(groups) > 1:
        notes.append(note)
    return Statistics(curves[0].headline, last, arms, tuple(verdicts), baseline, tuple(notes), tuple(used))


def told_difference(gain: Estimate, headline: str, of: str = "") -> str:
    """As "+1.90 points (+0.40 to +3.40)"; a gain that is less error as "RMSE -2.1 (-3.9 to -0.3)".

    Args:
        gain: More is better.
        headline: "accuracy" or "rmse".
        of: Of what, where it is not of the end.
    """
    if headline == "accuracy":
        mean, low, high = (f"{100 * value:+.2f}" for value in (gain.mean, gain.low, gain.high))
        what = f"{mean} points{of}"
    else:
        mean, low, high = (f"{-value:+.3g}" for value in (gain.mean, gain.high, gain.low))
        what = f"{'mean RMSE' if of else 'RMSE'} {mean}"
    return what if math.isnan(gain.low) else f"{what} ({low} to {high})"


def told_p(p: float) -> str:
    """With as many digits as mean something."""
    return "1" if p >= 0.995 else f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _none_twice(curves: Sequence[Curve]) -> None:
    for label, group in by_label(curves).items():
        seeds = [curve.seed for curve in group]
        if len(set(seeds)) < len(seeds):
            again = next(seed for seed in seeds if seeds.count(seed) > 1)
            raise UserError(f"There are two runs of {label} with seed {again}; each seed counts once.")


def _at_their_end(curves: Sequence[Curve]) -> tuple[list[Curve], list[str]]:
    """Runs that are at their end; all of them, as far as all are, where none is."""
    complete = [curve for curve in curves if curve.complete]
    if len(complete) == len(curves):
        return complete, []
    if not complete:
        last = common_counts(curves)[-1]
        return list(curves), [f"No run is at its end yet; they are compared up to {last:,} labels, as far as all are."]
    notes: list[str] = []
    for label, group in by_label(curves).items():
        going = [curve for curve in group if not curve.complete]
        if going:
            where = ", ".join(f"seed {curve.seed} at {curve.counts[-1]:,} labels" for curve in going)
            notes.append(f"{label} is not at its end, and left out of all numbers: {where}.")
    return complete, notes


def _baseline(curves: Sequence[Curve], against: str | None) -> tuple[str, str | None]:
    """The strategy that others are compared with, and what is to be said of the choice."""
    known = list(dict.fromkeys(curve.strategy for curve in curves))
    wanted = BASELINE if against is None else against
    found = [strategy for strategy in known if strategy == wanted]
    found = found or [strategy for strategy in known if strategy.partition("(")[0] == wanted]
    if len(found) > 1:
        raise UserError(f"'{wanted}' may be {' or '.join(found)}; say which of them the others are compared with.")
    if found:
        return found[0], None
    if against is not None:
        raise UserError(f"There is no strategy '{against}' to compare with. There are: {', '.join(known)}.")
    return known[0], f"{BASELINE} is not among the strategies; the others are compared with {known[0]}."


def _questions(groups: dict[str, list[Curve]], baseline: str) -> list[list[tuple[str, str]]]:
    """Pairs of labels, arm and what it is compared with: strategies first, then posteriors."""
    of = {(group[0].strategy, group[0].posterior): label for label, group in groups.items()}
    first = next(iter(of))[1]
    strategies = [(label, of[baseline, p]) for (s, p), label in of.items() if s != baseline and (baseline, p) in of]
    posteriors = [(label, of[s, first]) for (s, p), label in of.items() if p != first and (s, first) in of]
    return [strategies, posteriors]


def _share_a_seed(one: Sequence[Curve], other: Sequence[Curve]) -> bool:
    return bool({curve.seed for curve in one} & {curve.seed for curve in other})


def _compared(label: str, against: str, groups: dict[str, list[Curve]], counts: list[int], comparisons: int) -> Verdict:
    """The verdict on a pair of arms at the counts that all have; areas and ends are not corrected yet."""
    ours, theirs = ({curve.seed: curve for curve in groups[each]} for each in (label, against))
    seeds, last = tuple(sorted(set(ours) & set(theirs))), counts[-1]
    headline = groups[label][0].headline
    sign = 1 if headline == "accuracy" else -1
    areas = [sign * (area(ours[seed], last) - area(theirs[seed], last)) for seed in seeds]
    gains = [[sign * (ours[seed].at(count) - theirs[seed].at(count)) for seed in seeds] for count in counts]
    missing = tuple(sorted(set(ours) ^ set(theirs)))
    place = leads_from(gains, comparisons)
    return Verdict(
        label, against, headline, seeds, missing, _test(areas), _test(gains[-1]),
        comparisons, None if place is None else counts[place], None,
    )  # fmt: skip


def _test(differences: Sequence[float]) -> Test:
    mean, low, high = (float(each[0]) for each in mean_interval(np.array(differences)[:, None]))
    return Test(tuple(differences), Estimate(mean, low, high), rank_biserial(differences), wilcoxon_p(differences))


def _family(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The same verdicts, corrected over all of them."""
    areas, ends = holm([each.area.p for each in verdicts]), holm([each.final.p for each in verdicts])
    return [
        replace(
            each,
            area=replace(each.area, p_holm=area),
            final=replace(each.final, p_holm=end),
            needed=seeds_needed(each.area.differences, len(verdicts)),
        )
        for each, area, end in zip(verdicts, areas, ends, strict=True)
    ]
