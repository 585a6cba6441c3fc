"""Acquisition strategies: what is worth a label. One file each; this page holds what they share.

The common kind is a score, a plain function ``f(log_probs [N, K, C]) -> scores [N]``, higher is asked first:

    @strategy("bald")
    def bald(log_probs): ...

Scores of numbers take `activebdl.regression.Moments` in their place: ``@strategy("gaussian_bald", target="numbers")``.

A score becomes a strategy by a selection rule (`activebdl.strategies._selection`): the top Q, or the stochastic rules
power, softmax and softrank, named in front: "power_bald". Where items differ in what their labels cost, "per_cost_" in
front of a score, behind a rule, divides it by the item's cost: "per_cost_bald", "power_per_cost_bald".

A joint strategy looks at the query as a whole:

    @joint_strategy("random", needs=())
    def random(query): ...

Each tells its paper, what it needs, and what it holds in memory; `activebdl list strategies` shows it, and README.md
beside this file has it in a table.

N: unlabelled items, K: draws, C: classes, Q: items asked for.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from activebdl.errors import UserError
from activebdl.registry import Registry
from activebdl.strategies._query import Query, Selection
from activebdl.strategies._selection import DEFAULT_BETA, RULES
from activebdl.strategies._strategy import SCORES, JointFunction, Need, ScoreFunction, Strategy

__all__ = [
    "PER_COST", "SCORES", "Need", "Query", "ScoreFunction", "Selection", "Strategy", "joint_strategy", "resolve",
    "strategies", "strategy", "strategy_names",
]  # fmt: skip

PER_COST = "per_cost_"
"""In front of a score's name: for each unit of what the item's label costs."""


def _adopt(name: str, found: object) -> Strategy:
    """A strategy object as it is; a function by its parameter: ``query`` makes it joint, ``moments`` one of numbers."""
    if isinstance(found, Strategy):
        return found
    if not callable(found):
        raise UserError(f"The strategy '{name}' must be a function of log_probs, of moments, or of a query.")
    decorated = strategies.made_of(found)
    if decorated is not None:
        return decorated
    short = name.rpartition(":")[2]
    first = next(iter(inspect.signature(found).parameters), "")
    doc = inspect.getdoc(found) or ""
    if first == "query":
        return Strategy(short, joint=cast(JointFunction, found), target="any", doc=doc)
    target = "numbers" if first == "moments" else "classes"
    return Strategy(short, score=cast(ScoreFunction, found), target=target, memory=SCORES, doc=doc)


strategies: Registry[Strategy] = Registry("strategy", "activebdl.strategies", _adopt)

S = TypeVar("S", bound=ScoreFunction)
J = TypeVar("J", bound=JointFunction)


def strategy(
    name: str,
    *,
    target: Literal["classes", "numbers"] = "classes",
    needs_disagreement: bool = False,
    paper: str = "",
) -> Callable[[S], S]:
    """Registers a score ``f(log_probs [N, K, C]) -> scores [N]``, or one of numbers, ``f(moments) -> scores [N]``.

    Args:
        name: What it is called, in YAML and on the command line.
        target: What labels it is for.
        needs_disagreement: Whether it is zero when all draws agree, so that K = 1 or a plain network is a mistake.
        paper: Whom it is by, in short: "Houlsby et al. 2011".
    """

    def make(score: ScoreFunction) -> Strategy:
        return Strategy(
            name, score=score, target=target, needs_disagreement=needs_disagreement, paper=paper, memory=SCORES,
            doc=inspect.getdoc(score) or "",
        )  # fmt: skip

    return strategies.decorator(name, make)


def joint_strategy(
    name: str,
    *,
    target: Literal["any", "classes", "numbers"] = "any",
    needs: tuple[Need, ...] = ("draws",),
    needs_disagreement: bool = False,
    paper: str = "",
    memory: str = "",
    check: Callable[..., None] | None = None,
) -> Callable[[J], J]:
    """Registers a strategy that sees the whole query: ``f(query) -> ids [Q]``, or a `Selection`.

    Args:
        name: What it is called, in YAML and on the command line.
        target: What labels it is for.
        needs: What it looks at; see `Need`. A network without "features" is refused before any label is asked for, and
            a strategy that needs neither draws nor features may choose the first items.
        needs_disagreement: Whether it has nothing to go by when all draws agree, as for `strategy`.
        paper: Whom it is by, as for `strategy`.
        memory: How many numbers it holds at once beyond a chunk of predictions, in the letters above: "N K C".
        check: Raises a `UserError` for settings that cannot be, before any label is asked for; takes all of them by
            keyword, as the function does.
    """

    def make(joint: JointFunction) -> Strategy:
        return Strategy(
            name, joint=joint, target=target, needs=needs, needs_disagreement=needs_disagreement, paper=paper,
            memory=memory, check=check, doc=inspect.getdoc(joint) or "",
        )  # fmt: skip

    return strategies.decorator(name, make)


def resolve(strategy: str | Strategy | ScoreFunction, *, beta: float | None = None, **options: Any) -> Strategy:
    """The strategy that is meant.

    Args:
        strategy: A name, with a stochastic rule or "per_cost_" in front or not ("bald", "power_bald", "per_cost_bald",
            "power_per_cost_bald"); a function of ``log_probs``, of ``moments`` or of a ``query``, by the name of its
            parameter; a `Strategy`.
        beta: Of the stochastic rule: higher is closer to the top Q. None takes 1.
        options: Settings of the strategy's own, the keyword-only parameters of its function.

    Raises:
        UserError: An unknown name, a rule or "per_cost_" in front of a strategy without scores, a beta without a rule,
            or an option that the strategy does not take.
    """
    if not isinstance(strategy, str):
        return _with_options(_adopt(getattr(strategy, "__name__", "custom"), strategy), options)
    rule_name, _, rest = strategy.partition("_")
    if rule_name in RULES and rest and not _is_whole(strategy):
        base = _named(rest, options)
        if base.score is None:
            raise UserError(f"'{rest}' has no scores, so the rule '{rule_name}' cannot be put in front of it.")
        beta = DEFAULT_BETA if beta is None else beta
        return replace(base, name=strategy, rule=RULES[rule_name](beta), beta=beta)
    if beta is not None:
        raise UserError(f"'{strategy}' has no stochastic rule, so it takes no beta; is power_{strategy} meant?")
    return _named(strategy, options)


def _named(name: str, options: Mapping[str, Any]) -> Strategy:
    """By its name without a rule."""
    plain = name.removeprefix(PER_COST)
    if plain == name or _is_whole(name):
        return _with_options(strategies.get(name), options)
    rule = plain.partition("_")[0]
    if rule in RULES:
        raise UserError(f"'{PER_COST}' stands behind the rule: {rule}_{PER_COST}{plain.removeprefix(f'{rule}_')}.")
    base = _with_options(strategies.get(plain), options)
    if base.score is None:
        raise UserError(f"'{plain}' has no scores, so '{PER_COST}' cannot be put in front of it.")
    return replace(base, name=name, needs_costs=True)


def _is_whole(name: str) -> bool:
    """Whether a name that begins like a rule's is one of the user's own, as it stands: "power_tools.py:score"."""
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place).is_file()
    return name in strategies.names() or (place != "" and find_spec(place.partition(".")[0]) is not None)


def _with_options(strategy: Strategy, options: Mapping[str, Any]) -> Strategy:
    bare = replace(strategy, options={})
    known = [*bare.settings, *bare.missing]
    for key in options:
        if key not in known:
            raise UserError(
                f"The strategy '{strategy.name}' takes no option '{key}'; its options: {', '.join(known) or 'none'}."
            )
    given = {**strategy.options, **options}.items()
    same = object()  # as nothing that is given
    found = replace(strategy, options={key: value for key, value in given if value != bare.settings.get(key, same)})
    if found.check is not None:
        found.check(**found.settings)
    return found


def strategy_names(target: str = "any", *, forms: bool = True) -> list[str]:
    """All names, the stochastic forms of the scores and those per unit of cost included.

    Args:
        target: Only those for labels of this kind, "classes" or "numbers".
        forms: Whether stochastic forms are told.
    """
    known = {name: strategies.get(name) for name in strategies.names()}
    plain = [name for name, found in known.items() if target == "any" or found.target in ("any", target)]
    scores = [name for name in plain if known[name].score is not None]
    fronts = [f"{rule}_" for rule in RULES]
    fronts += [PER_COST, *(front + PER_COST for front in fronts)]
    return [*plain, *(front + name for front in fronts for name in scores if forms)]
