"""A way to choose, by name: a function of the user's or of ours, what it needs, and how it is called.

N: unlabelled items, K: draws, C: classes, Q: items asked for.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from activebdl.errors import UserError, is_ours, told
from activebdl.racing import race
from activebdl.regression import Moments
from activebdl.scoring import Scorer, check_draws
from activebdl.strategies._query import Query, Selection
from activebdl.strategies._selection import Rule, top_k

Need = Literal["draws", "features", "items"]
"""What a strategy looks at: what draws of the posterior predict, what the network's last layer reads, the inputs."""

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
        check: Refuses settings that cannot be, by keyword as the function takes them; None where all can.
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
    check: Callable[..., None] | None = None
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
        given = ({} if self.beta is None else {"beta": self.beta}) | dict(self.options)
        values = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in given.items()]
        return f"{self.name}({', '.join(values)})" if given else self.name

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
        query = query.that_can_be_met()
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
        state = query.generator.get_state()

        def score(scorer: Scorer, ids: Tensor) -> Tensor:
            scores = scorer.scores(ids, self.scores)
            return self._per_cost(scores, ids, query) if self.needs_costs else scores

        def choose(scores: Tensor, quantity: int) -> Tensor:
            query.generator.set_state(state)  # in every heat the same noise, and the same order of what is tied
            return self.rule(scores, quantity, query.generator)

        chosen, scores, samples = race(query.heats, query.model, query.unlabelled, score, choose, query.quantity)
        return Selection(query.unlabelled[chosen], scores[chosen], samples)

    def _per_cost(self, scores: Tensor, ids: Tensor, query: Query) -> Tensor:
        if query.costs is None:
            raise UserError(f"This query has no costs, by which '{self.name}' divides.")
        # A negative score would be the better for a high cost. BALD and its like are >= 0 up to rounding.
        if bool((scores.isfinite() & (scores < -1e-4)).any()):
            raise UserError(f"'{self.name}' divides scores by costs, so they must not be negative, and some are.")
        scores = torch.where(scores.isfinite(), scores.clamp_min(0), scores)  # -inf is never asked for, at any cost
        return scores / query.costs[ids]

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
        if scores is not None and bool(scores.isnan().any()):
            raise UserError(f"The strategy '{self.name}' gave a score that is NaN.")
        return Selection(ids.long().cpu(), scores)


def _parts(chosen: object) -> tuple[object, object]:
    """Ids and scores of what a joint strategy gave."""
    return (chosen.ids, chosen.scores) if isinstance(chosen, Selection) else (chosen, None)
