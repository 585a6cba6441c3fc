"""What a run is: a pydantic model, read from a preset or a YAML file and changed from the command line.

experiment: my-trial
dataset: mnist
network: {name: batchbald_cnn, dropout: 0.5}
posterior: {name: mc_dropout, training: {steps: 800, augmentation: {rotation: 12}}}
strategy: {name: power_bald, beta: 4}
budget: 1000
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from activebdl.counts import check_counts, label_counts
from activebdl.errors import UserError
from activebdl.settings import Lines, change_all, experiment_of, place, read_tree


class Named(BaseModel):
    """Something by name with its options: ``bald``, or ``{name: power_bald, beta: 4}``."""

    model_config = ConfigDict(extra="allow", frozen=True, ser_json_inf_nan="constants")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: object) -> object:
        if not isinstance(given, str | Mapping | Named):
            raise PydanticCustomError("named", "should be a name, or a name with options")
        return {"name": given} if isinstance(given, str) else given

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class Comparison(BaseModel):
    """What `activebdl compare` sets side by side: every strategy with every posterior and every seed.

    What a spec does not say is its own: its strategy beside random, its posterior, its seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
    strategies: tuple[Named, ...] = Field(default=(Named(name="power_bald"), Named(name="random")), min_length=1)
    posteriors: tuple[Named, ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)

    def covers(self, other: "Comparison") -> bool:
        """Whether all that the other sets side by side is among what this one does."""
        return (
            set(map(repr, other.strategies)) <= set(map(repr, self.strategies))
            and set(map(repr, other.posteriors or [None])) <= set(map(repr, self.posteriors or [None]))
            and set(other.seeds) <= set(self.seeds)
        )

    @model_validator(mode="after")
    def _none_twice(self) -> Self:
        axes = {"strategies": self.strategies, "posteriors": self.posteriors, "seeds": self.seeds}
        for key, values in axes.items():
            again = [value for i, value in enumerate(values) if value in values[:i]]
            if again:
                what = again[0].name if isinstance(again[0], Named) else again[0]
                raise ValueError(f"compare.{key} has {what} twice; each stands there once")
        return self


BUDGETS = ("budget", "counts", "max_cost")
"""Settings of a run that may become more when it goes on."""


class RunSpec(BaseModel):
    """One run: data, model, strategy, oracle and budget. Two runs of one spec on one CPU give the same bits."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    experiment: str = Field("custom", min_length=1, description="MLflow experiment: data set and protocol")
    dataset: Named = Named(name="mnist")
    network: Named = Named(name="batchbald_cnn")
    posterior: Named = Named(name="mc_dropout")
    strategy: Named = Named(name="power_bald")
    oracle: Named = Named(name="dataset")
    time_limit: float | None = Field(None, gt=0, description="seconds the oracle may go without a new answer")
    max_cost: float | None = Field(None, gt=0, description="what all annotations together may cost")
    start: Named = Field(Named(name="random"), description="the first items: balanced, or a strategy without a model")
    initial: int = Field(20, description="labels before the first fit")
    budget: int = Field(1000, description="labels at the end")
    query_size: int = Field(20, description="items asked for at a time, at least")
    growth: float = Field(0.0, description="later queries are this share of the labels there are")
    counts: tuple[int, ...] | None = Field(None, description="label counts one by one, in place of the four above")
    draws: int = Field(20, ge=1, description="draws of the posterior that the strategy sees")
    test_draws: int = Field(
        50, ge=1, description="draws that the test set, validation items and the stop set are predicted with"
    )
    scoring: str | dict[str, Any] = Field(
        "full", description="full: all draws see every item; race: most see those ahead alone; or {heats, precision}"
    )
    candidates: int | dict[str, Any] | None = Field(
        None,
        description="what a strategy sees: null for all, a number at random, or {top, by, draws, random}",
    )
    pretraining: bool | dict[str, Any] = Field(
        False, description="features learned from the pool before any label (SimCLR): true, or its settings"
    )
    views: bool | int | dict[str, Any] | None = Field(
        None, description="test-time augmentation: true, a number of views, or {count, augmentation, scoring}"
    )
    stop: tuple[Named, ...] = Field((), description="stopping rules, of which any may end the run early")
    validation: int = Field(0, ge=0, description="labels no network is trained on; they count in the budget")
    stop_set: int = Field(2000, ge=1, description="items of the pool that stopping rules look at without labels")
    seed: int = Field(0, ge=0)
    device: str = "auto"
    chunk: int | None = Field(None, ge=1, description="items at a time while scoring; null takes what suits the device")
    keep_model: bool = Field(True, description="whether the last posterior is kept, to predict with; see load_model")
    shards: int | None = Field(None, ge=1, description="processes of Ray that look at the pool in place of the run's")
    compare: Comparison = Comparison()

    def label_counts(self) -> tuple[int, ...]:
        """The numbers of labels at which the run fits and is measured.

        Raises:
            UserError: They do not fit together.
        """
        if self.counts is not None:
            counts = self.counts
        else:
            counts = label_counts(self.initial, self.budget, self.query_size, self.growth)
        check_counts(counts, counts[-1] if counts else 0, self.validation)
        return counts

    def more(self, budget: int | None, max_cost: float | None) -> "RunSpec":
        """The same run to more labels, or for more money; None for as much as it has.

        Further queries are as large as ``query_size`` and ``growth`` say, from the last count that there was.

        Raises:
            UserError: It is less.
        """
        changes: dict[str, Any] = {}
        if budget is not None:
            counts = self.label_counts()
            if budget < counts[-1]:
                raise UserError(f"It goes to {counts[-1]:,} labels as it is; a budget of {budget:,} is less.")
            if further := label_counts(counts[-1], budget, self.query_size, self.growth)[1:]:
                changes |= {"budget": budget, "counts": counts + further}
        if max_cost is not None:
            if max_cost < (limit := self.max_cost or math.inf):
                told = "whatever it costs" if limit == math.inf else f"{limit:g}"
                raise UserError(f"It may cost {told} as it is; a budget in cost of {max_cost:g} is less.")
            changes["max_cost"] = max_cost
        return self.model_copy(update=changes)

    def with_budgets_of(self, other: "RunSpec") -> "RunSpec":
        """The same run, to as many labels and for as much money as another."""
        return self.model_copy(update={key: getattr(other, key) for key in BUDGETS})

    def continues(self, earlier: "RunSpec") -> bool:
        """Whether this is the earlier run, or that run to more labels or for more money."""
        counts = earlier.label_counts()
        return (
            self == earlier.with_budgets_of(self)
            and self.label_counts()[: len(counts)] == counts
            and (self.max_cost or math.inf) >= (earlier.max_cost or math.inf)
        )

    @model_validator(mode="before")
    @classmethod
    def _compares_its_own(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        tree = cast(Mapping[str, Any], given)
        compare: object = tree.get("compare", {})
        if not isinstance(compare, Mapping):
            return tree
        own: dict[str, object] = {}
        if "strategy" in tree:
            is_random = tree["strategy"] in ("random", {"name": "random"})
            own["strategies"] = ["random"] if is_random else [tree["strategy"], "random"]
        if "seed" in tree:
            own["seeds"] = [tree["seed"]]
        return {**tree, "compare": own | cast(dict[str, object], compare)}

    @field_validator("stop", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: object) -> object:
        return [] if given is None else given if isinstance(given, list | tuple) else [given]


def named_strategy(spec: RunSpec, name: str) -> Named:
    """A strategy by name, with the options that the spec has for it."""
    known = (spec.strategy, *spec.compare.strategies)
    return next((named for named in known if named.name == name), Named(name=name))


def read_spec(source: str, changes: Mapping[str, Any] | None = None) -> RunSpec:
    """Reads a preset or a YAML file, and changes it.

    A file that says ``extends: mnist-1000`` differs from that preset, or file beside it, only in what it says. Settings
    within settings are changed one by one; something by another name, and a list, take the place of what there was.

    Args:
        source: A preset's name, or the path of a YAML file.
        changes: By dotted key, e.g. ``{"posterior.training.steps": 400}``.

    Raises:
        UserError: No such preset or file, not YAML, or a value that cannot be; with the file's line.
    """
    tree, lines, name = read_tree(source)
    changes = changes or {}
    change_all(tree, changes, name)
    for key in changes:
        for end in range(len(key.split("."))):  # a mistake in it is not on any of the file's lines
            lines.pop(tuple(key.split(".")[: end + 1]), None)
    for key, field in RunSpec.model_fields.items():
        given = tree.get(key)
        if isinstance(given, dict) and "name" not in given and isinstance(field.default, Named):
            tree[key] = {"name": field.default.name, **cast(dict[str, Any], given)}  # options alone: of the default
    if "experiment" in tree and "experiment" not in changes:
        tree["experiment"] = experiment_of(tree, changes)
    return validate(tree, name, lines)


def validate(tree: Mapping[str, Any], name: str, lines: Lines | None = None) -> RunSpec:
    """A spec of plain data; mistakes are told by key and, where known, by line.

    Raises:
        UserError: The first mistake.
    """
    try:
        return RunSpec.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        keys = tuple(str(key) for key in first["loc"])
        where = place(lines or {}, keys) or name
        if first["type"] == "extra_forbidden":
            known = ", ".join(Comparison.model_fields if keys[0] == "compare" else RunSpec.model_fields)
            raise UserError(f"{where}: there is no setting '{'.'.join(keys)}'. Known: {known}.") from None
        if first["type"] == "value_error":  # our own words, which name the key
            raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from None
        if len(keys) == 2 and not isinstance(tree[keys[0]], Mapping | list):  # one of several forms: all are told
            about = RunSpec.model_fields[keys[0]].description
            raise UserError(f"{where}: {keys[0]} cannot be {tree[keys[0]]!r}; it is {about}.") from None
        got = "" if first["type"] == "missing" else f", not {first['input']!r}"
        message = first["msg"].removeprefix("Input ").partition(", unable")[0].replace("valid tuple", "list")
        raise UserError(f"{where}: {'.'.join(keys)} {message[:1].lower()}{message[1:]}{got}.") from None


def spec_text(spec: RunSpec) -> str:
    """The spec as YAML."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, default_flow_style=None)
