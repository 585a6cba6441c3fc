"""From a spec to the live things it names."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from torch import nn

from activebdl.candidates import Candidates
from activebdl.cluster import Cluster
from activebdl.data import ActiveDataset, datasets, load
from activebdl.data.augment import AUGMENTATIONS, Augmentation
from activebdl.errors import UserError, is_ours, told
from activebdl.loop import ActiveLearning
from activebdl.networks import make_network, networks
from activebdl.oracles import make_oracle, oracles
from activebdl.posteriors import InferenceMethod, posteriors
from activebdl.pretraining import SimCLR
from activebdl.progress import Progress, silent
from activebdl.racing import Race, make_race
from activebdl.shards import Shards
from activebdl.spec import Named, RunSpec
from activebdl.stopping import StoppingRule, stopping_rules
from activebdl.strategies import Strategy, resolve
from activebdl.strategies._start import find_start
from activebdl.views import Views

D = TypeVar("D")


def build(
    spec: RunSpec,
    *,
    dataset: ActiveDataset | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
    cluster: Cluster | None = None,
) -> ActiveLearning:
    """The cycle that a spec describes.

    Args:
        spec: What the run is.
        dataset: The data set, when it is at hand already; loaded when not given.
        folder: Where the run is kept, for oracles that keep something there.
        progress: Shows progress bars.
        cluster: Where the processes are that look at the pool, if the spec has shards; this machine when not given.

    Raises:
        UserError: A name that is unknown, an option that does not exist, numbers that do not fit together.
    """
    counts, strategy, posterior = spec.label_counts(), make_strategy(spec.strategy), make_method(spec.posterior)
    scoring, candidates, stop = make_scoring(spec), make_candidates(spec), [make_rule(named) for named in spec.stop]
    start, views, pretraining = make_starter(spec.start), make_views(spec), make_pretraining(spec)
    networks.get(spec.network.name)  # unknown names are told before any byte of data is fetched
    options = _options(oracles.get(spec.oracle.name), spec.oracle, "oracle")
    dataset = dataset or make_dataset(spec.dataset, progress=progress is not silent)
    return ActiveLearning(
        dataset,
        make_fresh(spec.network, dataset),
        counts=counts,
        posterior=posterior,
        strategy=strategy,
        oracle=make_oracle(spec.oracle.name, dataset, options=options, seed=spec.seed, folder=folder),
        time_limit=spec.time_limit,
        max_cost=spec.max_cost,
        start=start,
        draws=spec.draws,
        test_draws=spec.test_draws,
        scoring=scoring,
        candidates=candidates,
        stop=stop,
        validation=spec.validation,
        stop_set=spec.stop_set,
        seed=spec.seed,
        device=spec.device,
        chunk=spec.chunk,
        pretraining=pretraining,
        views=views,
        shards=None if spec.shards is None else Shards.on(cluster or Cluster(), spec.shards),
        progress=progress,
    )


def make_dataset(named: Named, *, cache: Path | None = None, progress: bool = True) -> ActiveDataset:
    """The data set by that name; see `activebdl.data.load`."""
    options = _options(datasets.get(named.name), named, "dataset")
    return load(named.name, cache=cache, progress=progress, **options)


def make_fresh(named: Named, dataset: ActiveDataset) -> Callable[[], nn.Module]:
    """Makes fresh networks for that data set; see `activebdl.networks.make_network`."""
    options = _options(networks.get(named.name), named, "network")
    return make_network(named.name, dataset.input_shape, dataset.target.width, **options)


def make_strategy(named: Named) -> Strategy:
    """The strategy by that name, with the ``beta`` of a stochastic rule and the options of its own."""
    options = _options(resolve(named.name).function, named, "strategy")
    beta = _checked(float | None, options.pop("beta", None), f"'beta' of the strategy '{named.name}'")
    return resolve(named.name, beta=beta, **options)


def make_scoring(spec: RunSpec) -> Race:
    """How many draws see an item."""
    if isinstance(spec.scoring, str):
        return make_race(spec.scoring)
    options = dict(spec.scoring)
    if options.get("name") == "race":  # written as a word, and then given options
        del options["name"]
    return _from_options(Race, options, "setting 'scoring'")


def make_candidates(spec: RunSpec) -> Candidates:
    """Which items a strategy sees."""
    given = {"random": spec.candidates} if isinstance(spec.candidates, int | None) else spec.candidates
    return _from_options(Candidates, given, "setting 'candidates'")


def make_views(spec: RunSpec) -> Views | None:
    """From where items are looked at."""
    if isinstance(spec.views, dict):
        return _from_options(Views, spec.views, "setting 'views'")
    return Views.of(spec.views)


def make_pretraining(spec: RunSpec) -> SimCLR | None:
    """How features are learned from the pool without labels."""
    if isinstance(spec.pretraining, bool):
        return SimCLR.of(spec.pretraining)
    return _from_options(SimCLR, spec.pretraining, "setting 'pretraining'")


def make_starter(named: Named) -> str | Strategy:
    """What chooses the first items: "balanced", or the strategy by that name with the options of its own."""
    if find_start(named.name) is not None:
        return make_strategy(named)
    if named.options:
        raise UserError(f"The start '{named.name}' takes no option '{next(iter(named.options))}'.")
    return named.name


def make_rule(named: Named) -> StoppingRule:
    """The stopping rule by that name, with its settings; those of a composition are rules again."""
    return _from_options(stopping_rules.get(named.name), named.options, f"stopping rule '{named.name}'")


def _rules(given: object, where: str) -> tuple[StoppingRule, ...]:
    return tuple(make_rule(named) for named in _checked(list[Named], given, where))


def make_method(named: Named) -> InferenceMethod:
    """The inference method by that name, with its hyperparameters."""
    method = posteriors.get(named.name)
    if not dataclasses.is_dataclass(method):
        return method(**named.options)
    return _from_options(method, named.options, f"posterior '{named.name}'")


def named_posterior(spec: RunSpec, name: str) -> Named:
    """An inference method by name: as the spec has it, or another that takes over its training."""
    if name == spec.posterior.name:
        return spec.posterior
    method = posteriors.get(name)
    training = spec.posterior.options.get("training")
    if training is None or not dataclasses.is_dataclass(method) or "training" not in get_type_hints(method):
        return Named(name=name)
    return Named.model_validate({"name": name, "training": training})


def resolved(spec: RunSpec) -> RunSpec:
    """The same run with every default written out, so that it can be done again when defaults have changed."""
    method = make_method(spec.posterior)
    options = plain(method) if dataclasses.is_dataclass(method) else spec.posterior.options
    strategy, start = make_strategy(spec.strategy), make_starter(spec.start)
    settings = strategy.settings if strategy.beta is None else {"beta": strategy.beta, **strategy.settings}
    start_settings = start.settings if isinstance(start, Strategy) else {}
    written_out = spec.model_copy(
        update={
            "strategy": Named.model_validate({"name": spec.strategy.name, **settings}),
            "start": Named.model_validate({"name": spec.start.name, **start_settings}),
            "dataset": _with_defaults(spec.dataset, datasets.get(spec.dataset.name)),
            "network": _with_defaults(spec.network, networks.get(spec.network.name)),
            "oracle": _with_defaults(
                spec.oracle, oracles.get(spec.oracle.name), ("seed", "folder")
            ),  # the run has them
            "posterior": Named.model_validate({"name": spec.posterior.name, **options}),
            "scoring": spec.scoring if spec.scoring == "full" else plain(make_scoring(spec)),
            "candidates": spec.candidates if isinstance(spec.candidates, int | None) else plain(make_candidates(spec)),
            "pretraining": False if spec.pretraining is False else plain(make_pretraining(spec)),
            "views": None if (views := make_views(spec)) is None else plain(views),
            "stop": tuple(_resolved_rule(named) for named in spec.stop),
            "counts": spec.label_counts(),
        }
    )
    return RunSpec.model_validate(written_out.model_dump(mode="json"))  # as it is read back: lists, not tuples


def _resolved_rule(named: Named) -> Named:
    rule = make_rule(named)
    settings: dict[str, Any] = {"name": named.name}
    for field in dataclasses.fields(rule):
        settings[field.name] = getattr(rule, field.name)
        if get_type_hints(type(rule))[field.name] == tuple[StoppingRule, ...]:
            within = _checked(list[Named], named.options.get(field.name, []), field.name)
            settings[field.name] = [_resolved_rule(each).model_dump() for each in within]
    return Named.model_validate(settings)


def _from_options(cls: type[D], options: Mapping[str, Any], where: str) -> D:
    """A dataclass of hyperparameters, checked field by field, nested ones too."""
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    hints = {field.name: get_type_hints(cls)[field.name] for field in fields}  # without class variables
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in hints:
            raise UserError(f"The {where} has no setting '{key}'; it has: {', '.join(hints) or 'none'}.")
        inner = _dataclass_of(hints[key])
        if inner is not None:
            values[key] = _inner(inner, value, key, where, switch=inner is not hints[key])
        elif hints[key] == tuple[StoppingRule, ...]:
            values[key] = _rules(value, f"'{key}' of the {where}")
        elif hints[key] in (Augmentation, Augmentation | None):
            values[key] = _augmentation(value, _default(cls, key))
            if values[key] is None and hints[key] == Augmentation:
                raise UserError(f"'{key}' of the {where} cannot be left out.")
        else:
            values[key] = _checked(hints[key], value, f"'{key}' of the {where}")
    for field in fields:
        if field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"The {where} needs a setting '{field.name}'.")
    try:
        return cls(**values)
    except UserError:
        raise
    except Exception as error:
        if is_ours(cls):
            raise
        raise UserError(f"The {where} cannot be made: {told(error)}.") from error


def _dataclass_of(hint: Any) -> type[Any] | None:
    """The dataclass that a hint asks for, as it is or with ``| None``."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    options = [part for part in parts if part is not type(None)]
    return options[0] if len(options) == 1 and dataclasses.is_dataclass(options[0]) else None  # pyright: ignore[reportReturnType]


def _inner(cls: type[D], value: object, key: str, where: str, *, switch: bool) -> D | None:
    """A dataclass within another; where it may be left out, true does for one of defaults, false and null for none."""
    if switch and isinstance(value, bool | None):
        return cls() if value else None
    if not isinstance(value, Mapping):
        takes = ", ".join(get_type_hints(cls))
        also = ", true or false" if switch else ""
        raise UserError(f"'{key}' of the {where} takes settings ({takes}){also}, not {value!r}.")
    return _from_options(cls, cast(Mapping[str, Any], value), f"{key} of the {where}")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's parameters; none where it has some that are known to type checkers alone."""
    try:
        return get_type_hints(function)
    except (NameError, AttributeError, TypeError):
        return {}


def _options(maker: Callable[..., Any], named: Named, kind: str) -> dict[str, Any]:
    """The options, each of its type, or refused; those that do not exist are refused by the maker."""
    hints = _hints(maker)
    return {
        key: _checked(hints[key], value, f"'{key}' of the {kind} '{named.name}'") if key in hints else value
        for key, value in named.options.items()
    }


def _checked(hint: Any, value: Any, where: str) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"].partition(", unable")[0]
        raise UserError(f"{where}: {message[:1].lower()}{message[1:]}, not {value!r}.") from None


def _default(cls: type[Any], key: str) -> object:
    """What a field is when nobody says."""
    field = next(field for field in dataclasses.fields(cls) if field.name == key)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _augmentation(given: object, default: object) -> Augmentation | None:
    """None, a name, or a name with options; options alone change those of the default, or of affine maps."""
    if given is None or callable(given):
        return given  # pyright: ignore[reportReturnType]
    if not isinstance(given, str | Mapping):
        raise UserError(f"The augmentation is a name ({', '.join(AUGMENTATIONS)}), or null for none, not {given!r}.")
    if isinstance(given, Mapping) and "name" not in given:
        given = {**(plain(default) if type(default) in AUGMENTATIONS.values() else {"name": "affine"}), **given}
    named = Named.model_validate(given)
    if named.name not in AUGMENTATIONS:
        raise UserError(f"Unknown augmentation '{named.name}'. Known: {', '.join(AUGMENTATIONS)}; or null for none.")
    return _from_options(AUGMENTATIONS[named.name], named.options, f"augmentation '{named.name}'")


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass of hyperparameters as plain data; an augmentation keeps its name."""
    names = [name for name, cls in AUGMENTATIONS.items() if type(settings) is cls]
    found: dict[str, Any] = {"name": names[0]} if names else {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        found[field.name] = plain(value) if dataclasses.is_dataclass(value) else value
    return found


def _takes_paths(hint: Any) -> bool:
    """Whether a parameter may be given a path, or a list of some."""
    return hint is Path or any(_takes_paths(part) for part in get_args(hint))


def _from_the_root(value: Any) -> Any:
    """A path from the root on, those in a list too; what is none as it is."""
    if isinstance(value, list | tuple):
        return [_from_the_root(part) for part in cast(Sequence[Any], value)]
    return str(Path(value).expanduser().resolve()) if isinstance(value, str | Path) else value


def _with_defaults(named: Named, maker: Callable[..., Any], left_out: Sequence[str] = ("cache", "progress")) -> Named:
    """The options as given, paths from the root on, and the others as the function's signature has them."""
    hints = _hints(maker)
    given = {
        name: _from_the_root(value) if _takes_paths(hints.get(name)) else value for name, value in named.options.items()
    }
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(maker).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.default is not parameter.empty
        and name not in left_out
    }
    return Named.model_validate({"name": named.name, **defaults, **given})
