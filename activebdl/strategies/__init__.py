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
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor

from activebdl.data.dataset import Inputs, Normalise
from activebdl.errors import UserError, is_ours, told
from activebdl.registry import Registry
from activebdl.regression import Moments
from activebdl.scoring import Scorer, check_draws
from activebdl.strategies._selection import DEFAULT_BETA, RULES, Rule, top_k

__all__ = ["Query", "Selection", "Strategy", "joint_strategy", "resolve", "strategies", "strategy", "strategy_names"]

PER_COST = "per_cost_"
"""In front of a score's name: for each unit of what the item's label costs."""

Need = Literal["draws", "features", "items"]
"""What a strategy looks at: what draws of the posterior predict, what the network's last layer reads, the inputs."""


@dataclass(frozen=True)
class Query:
    """What a joint strategy may use to choose.

    Args:
        unlabelled: Ids ``[N]`` that may be chosen, ascending.
        labelled: Ids that have a label, ascending.
        quantity: Q, how many to choose; a strategy is never shown more than N.
        generator: The source of all randomness of the choice.
        scorer: The posterior's draws over the pool; None for strategies that need no model.
        inputs: The pool's inputs, as they are stored; ids are positions in it.
        normalise: Turns them into what a network reads.
        costs: What a label of each of the pool's items costs, ``[N]`` by id, float64; None where nobody says.
        target_inputs: Inputs that predictions will be wanted for, as they are stored; None where the pool is like them.
    """

    unlabelled: Tensor
    labelled: Tensor
    quantity: int
    generator: torch.Generator
    scorer: Scorer | None = None
    inputs: Inputs | None = None
    normalise: Normalise = field(default_factory=Normalise)
    costs: Tensor | None = None
    target_inputs: Inputs | None = None

    def items(self, ids: Tensor) -> Tensor:
        """Inputs ``[n, ...]`` as a network reads them, on the CPU: for strategies that look at the items themselves."""
        if self.inputs is None:
            raise UserError("This query has no inputs, which the strategy looks at.")
        return self.normalise(self.inputs[ids])

    @property
    def model(self) -> Scorer:
        """The posterior's draws over the pool."""
        if self.scorer is None:
            raise UserError(
                "A strategy asked for the model that it is registered without: say needs=('draws',), or 'features'."
            )
        return self.scorer


@dataclass(frozen=True)
class Selection:
    """What a strategy chose: ids ``[Q]`` in the order of choice, and their scores ``[Q]`` where it has any."""

    ids: Tensor
    scores: Tensor | None = None


_INTEGERS = (torch.long, torch.int, torch.short, torch.int8, torch.uint8)

ScoreFunction = Callable[..., Tensor]
"""``f(log_probs [N, K, C]) -> scores [N]``, or ``f(moments) -> scores [N]`` for numbers."""

SCORES = "N"
"""What every score holds in memory: themselves."""

JointFunction = Callable[..., Tensor | Selection]
"""``f(query) -> ids [Q]``, or a `Selection`."""


@dataclass(frozen=True)
class Strategy:
    """A way to choose, by name.

    Args:
        name: As in reports, e.g. "power_bald".
        score: For pointwise strategies.
        joint: For joint ones.
        rule: How scores become a choice.
        needs: What it looks at; see `Need`.
        needs_disagreement: Whether the score is zero unless draws differ.
        needs_costs: Whether the score is divided by what the item's label costs.
        target: What labels it is for: "classes", "numbers" or "any".
        paper: Whom it is by, in short: "Houlsby et al. 2011"; empty where nobody says.
        memory: How many numbers it holds at once beyond a chunk of predictions: "N K C"; empty where nobody says.
        doc: What it does, from its docstring.
        beta: Of the stochastic rule; None where there is none.
        options: Settings of the function that are not its defaults.
    """

    name: str
    score: ScoreFunction | None = None
    joint: JointFunction | None = None
    rule: Rule = top_k
    needs: tuple[Need, ...] = ("draws",)
    needs_disagreement: bool = False
    needs_costs: bool = False
    target: str = "classes"
    paper: str = ""
    memory: str = ""
    doc: str = field(default="", repr=False)
    beta: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if not isinstance(self.needs, tuple) or not set(self.needs) <= set(get_args(Need)):
            raise UserError(
                f"'{self.name}' needs={self.needs!r} must be a tuple of some of {', '.join(get_args(Need))}, "
                "such as ('draws',); () for none."
            )

    @property
    def needs_model(self) -> bool:
        """Whether the posterior has to be fitted for it."""
        return "draws" in self.needs or "features" in self.needs

    @property
    def function(self) -> Callable[..., Any]:
        """What chooses, or what scores."""
        return cast(Callable[..., Any], self.score or self.joint)

    @property
    def settings(self) -> dict[str, Any]:
        """All that it can be told beside the beta of a rule, as it is; what must be told and is not, is not there."""
        defaults = {p.name: p.default for p in self._parameters if p.default is not p.empty}
        return defaults | dict(self.options)

    @property
    def missing(self) -> list[str]:
        """Names of the settings that have no default and were not told."""
        return [p.name for p in self._parameters if p.default is p.empty and p.name not in self.options]

    @property
    def _parameters(self) -> list[inspect.Parameter]:
        """The function's keyword-only ones."""
        return [p for p in inspect.signature(self.function).parameters.values() if p.kind is p.KEYWORD_ONLY]

    @property
    def label(self) -> str:
        """The name, with all that tells it from another of the same name: "power_bald(beta=4)"."""
        told = ({} if self.beta is None else {"beta": self.beta}) | dict(self.options)
        values = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in told.items()]
        return f"{self.name}({', '.join(values)})" if told else self.name

    def scores(self, predictions: Tensor) -> Tensor:
        """The score of what draws say: ``[N, K, C]`` log-probabilities, or ``[N, K, 2]`` mean and variance.

        Raises:
            UserError: A score of the user's own raises.
        """
        given = Moments.of(predictions) if self.target == "numbers" else predictions
        return self._called(given, f"The score '{self.name}' fails on predictions {list(predictions.shape)}")

    def _called(self, given: object, failure: str) -> Any:
        """What the function gives; an error in one that is not the library's is the user's to mend."""
        try:
            return self.function(given, **self.options)
        except UserError:
            raise
        except Exception as error:
            if is_ours(self.function):
                raise
            raise UserError(f"{failure}: {told(error)}.") from error

    def select(self, query: Query) -> Selection:
        """Chooses Q distinct ids out of ``query.unlabelled``; all N where there are no more.

        Raises:
            UserError: Nothing is asked for, or nothing is left; the strategy is for labels of another kind, broke its
                promise, or its score is not one number per item.
        """
        query = _that_can_be_met(query)
        if query.scorer is not None and self.target not in ("any", query.scorer.target):
            raise UserError(f"'{self.name}' is for {self.target}, and the labels are {query.scorer.target}.")
        if self.needs_disagreement:
            check_draws(query.model, query.unlabelled)
        selection = self._pointwise(query) if self.score is not None else self._joint(query)
        ids = selection.ids
        if ids.dim() != 1 or len(ids) != query.quantity or len(ids.unique()) != len(ids):
            raise UserError(
                f"The strategy '{self.name}' was asked for {query.quantity} distinct ids and gave {ids.tolist()[:20]}."
            )
        foreign = ~torch.isin(ids, query.unlabelled)
        if bool(foreign.any()):
            raise UserError(f"The strategy '{self.name}' chose item {int(ids[foreign][0])}, which is not unlabelled.")
        return selection

    def _pointwise(self, query: Query) -> Selection:
        scores = query.model.scores(query.unlabelled, self.scores)
        if self.needs_costs:
            scores = self._per_cost(scores, query)
        chosen = self.rule(scores, query.quantity, query.generator)
        return Selection(query.unlabelled[chosen], scores[chosen])

    def _per_cost(self, scores: Tensor, query: Query) -> Tensor:
        if query.costs is None:
            raise UserError(f"This query has no costs, by which '{self.name}' divides.")
        # A negative score would be the better for a high cost. BALD and its like are >= 0 up to rounding.
        if bool((scores.isfinite() & (scores < -1e-4)).any()):
            raise UserError(f"'{self.name}' divides scores by costs, so they must not be negative, and some are.")
        scores = torch.where(scores.isfinite(), scores.clamp_min(0), scores)  # -inf is never asked for, at any cost
        return scores / query.costs[query.unlabelled]

    def _joint(self, query: Query) -> Selection:
        chosen: object = self._called(query, f"The strategy '{self.name}' failed")
        ids, scores = _parts(chosen)
        if not isinstance(ids, Tensor) or ids.dtype not in _INTEGERS:
            got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise UserError(f"The strategy '{self.name}' must return a tensor of ids, which are integers, not {got}.")
        if scores is not None and not (isinstance(scores, Tensor) and scores.shape == ids.shape):
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise UserError(
                f"The strategy '{self.name}' must give one score for each of its {len(ids)} ids, not {got}."
            )
        return Selection(ids.long().cpu(), scores)


def _parts(chosen: object) -> tuple[object, object]:
    """Ids and scores of what a joint strategy gave."""
    return (chosen.ids, chosen.scores) if isinstance(chosen, Selection) else (chosen, None)


def _that_can_be_met(query: Query) -> Query:
    """The query, for no more than there are."""
    if query.quantity < 1:
        raise UserError(f"A query asks for at least 1 item, not {query.quantity}.")
    if len(query.unlabelled) == 0:
        raise UserError("There is nothing to choose from: no item is unlabelled.")
    return replace(query, quantity=min(query.quantity, len(query.unlabelled)))


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
    """

    def make(joint: JointFunction) -> Strategy:
        return Strategy(
            name, joint=joint, target=target, needs=needs, needs_disagreement=needs_disagreement, paper=paper,
            memory=memory, doc=inspect.getdoc(joint) or "",
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
    return replace(strategy, options={key: value for key, value in given if value != bare.settings.get(key, same)})


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
