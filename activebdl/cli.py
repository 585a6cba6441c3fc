"""The command line: ``run``, ``compare``, ``list``, ``data``, ``uncertainty``, ``ui``, `cli_labels`, `cli_report`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    import yaml
except ImportError as error:
    raise SystemExit(f"The command line needs '{error.name}': pip install 'activebdl[cli]'") from None

from activebdl._cli import (
    Cpus,
    Gpus,
    Jobs,
    Mlflow,
    Ray,
    Runs,
    close,
    cluster_for,
    resumable,
    side_by_side,
    tracking_for,
)
from activebdl.cli_labels import ingest, label, labels, resume
from activebdl.cli_report import report
from activebdl.errors import UserError, Waiting

DEFAULT_PRESET = "mnist-1000"

app = typer.Typer(
    name="activebdl",
    help="Active learning on Bayesian deep networks: more accuracy for every label.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Source = Annotated[str, typer.Argument(metavar="PRESET|FILE.yaml", help="What to run; see 'activebdl list presets'.")]
Name = Annotated[str | None, typer.Option(help="The run's name; made of what it is when not given.")]
Data = Annotated[str | None, typer.Option("--data", help="Data set by name, module:function or file.py:function.")]
Network = Annotated[str | None, typer.Option(help="Network by name, module:function or file.py:function.")]
Posterior = Annotated[str | None, typer.Option(help="Inference method: a name, module:class or file.py:class.")]
OracleName = Annotated[str | None, typer.Option("--oracle", help="Who labels: a name, module:name or file.py:name.")]
StrategyName = Annotated[
    str | None, typer.Option("--strategy", help="Acquisition strategy: a name, module:function or file.py:function.")
]
Budget = Annotated[int | None, typer.Option(help="Labels at the end.")]
QuerySize = Annotated[int | None, typer.Option(help="Items asked for at a time, the same number in every round.")]
Initial = Annotated[int | None, typer.Option(help="Labels before the first fit.")]
Draws = Annotated[int | None, typer.Option(help="Posterior draws that the strategy sees.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps, ...")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any setting, e.g. posterior.training.steps=400; again for another."
    ),
]


@app.command()
def run(
    source: Source = DEFAULT_PRESET,
    strategy: StrategyName = None,
    seed: Annotated[int | None, typer.Option(help="The source of all randomness.")] = None,
    data: Data = None,
    network: Network = None,
    posterior: Posterior = None,
    oracle: OracleName = None,
    budget: Budget = None,
    query_size: QuerySize = None,
    initial: Initial = None,
    draws: Draws = None,
    device: Device = None,
    set: Set = None,
    ray: Ray = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    mlflow: Mlflow = True,
) -> None:
    """Runs one strategy with one seed."""
    from activebdl.report import table
    from activebdl.run_folders import folder_for, run_name
    from activebdl.runs import start
    from activebdl.spec import named_strategy, read_spec

    first: dict[str, Any] = {} if seed is None else {"seed": seed}
    if strategy is not None:
        first["strategy"] = named_strategy(read_spec(source), strategy).model_dump()
    changes = _changes(source, data, network, posterior, oracle, budget, query_size, initial, draws, device, set)
    spec, cluster = read_spec(source, first | changes), cluster_for(ray, cpus, gpus)
    if cluster is not None and spec.shards is None:
        raise UserError("A single run has its pool looked at on Ray: say by how many processes, --set shards=4.")
    tracking = tracking_for(runs, spec.experiment, mlflow)
    folder = folder_for(runs, name or run_name(spec))
    with resumable(folder, runs, "" if cluster is None else cluster.as_options):
        curve = start(spec, folder, tracking=tracking, cluster=cluster)
    close(table([curve]), folder, runs, mlflow)


@app.command()
def compare(
    source: Source = DEFAULT_PRESET,
    strategies: Annotated[str | None, typer.Option(help="By name, with commas: bald,random.")] = None,
    posteriors: Annotated[
        str | None, typer.Option(help="By name, with commas: mc_dropout,laplace; all trained as the preset's own.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="How many (3 is 0,1,2), or which ones (0,4,7).")] = None,
    jobs: Jobs = None,
    ray: Ray = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    data: Data = None,
    network: Network = None,
    posterior: Posterior = None,
    oracle: OracleName = None,
    budget: Budget = None,
    query_size: QuerySize = None,
    initial: Initial = None,
    draws: Draws = None,
    device: Device = None,
    set: Set = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    mlflow: Mlflow = True,
) -> None:
    """Runs several strategies, posteriors and seeds side by side; the same command again goes on where it stopped."""
    from activebdl import sweep
    from activebdl.build import named_posterior
    from activebdl.spec import named_strategy, read_spec, validate

    changes = _changes(source, data, network, posterior, oracle, budget, query_size, initial, draws, device, set)
    spec = read_spec(source, changes)
    wanted = spec.compare.model_dump()
    if strategies is not None:
        wanted["strategies"] = [named_strategy(spec, each.strip()) for each in strategies.split(",")]
    if posteriors is not None:
        known = {named.name: named for named in spec.compare.posteriors}
        names = [each.strip() for each in posteriors.split(",")]
        wanted["posteriors"] = [known.get(each) or named_posterior(spec, each) for each in names]
    if seeds is not None:
        wanted["seeds"] = _seeds(seeds)
    spec = validate({**spec.model_dump(), "compare": wanted}, "the command line")
    cluster, folder = cluster_for(ray, cpus, gpus), sweep.comparison_folder(spec, runs, name)
    side_by_side(spec, folder, runs, jobs=jobs, mlflow=mlflow, cluster=cluster)


for command in (resume, label, ingest, labels, report):
    app.command()(command)


class What(StrEnum):
    """What `activebdl list` can list."""

    presets = "presets"
    strategies = "strategies"
    posteriors = "posteriors"
    networks = "networks"
    datasets = "datasets"
    oracles = "oracles"
    stopping = "stopping"
    runs = "runs"


@app.command("list")
def list_things(
    what: Annotated[What | None, typer.Argument(help="One kind; all when not given.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Lists what there is, by name."""
    from activebdl.catalogue import rows_of

    for kind in [what] if what is not None else list(What):
        rows = rows_of(kind, runs)
        typer.secho(f"{kind.value}", bold=True)
        width = max((len(name) for name, _ in rows), default=0)
        for row, about in rows:
            typer.echo(f"  {row.ljust(width)}  {about}".rstrip())
        if not rows:
            typer.echo("  none yet")


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="A data set's name.")] = "mnist",
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of it, e.g. repeats=5.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Where the bytes are kept.")] = None,
) -> None:
    """Fetches a data set, checks its bytes, and tells what it is."""
    from activebdl.build import make_dataset
    from activebdl.spec import Named

    dataset = make_dataset(Named.model_validate({**_assigned(set), "name": name}), cache=cache)
    shape = " x ".join(str(side) for side in dataset.input_shape)
    typer.echo(f"{dataset.name}: pool {len(dataset.pool):,}, test {len(dataset.test):,}, items of {shape}")
    if dataset.classes:
        typer.echo(f"{len(dataset.classes)} classes: {', '.join(dataset.classes)}")
    if dataset.labels is not None and dataset.target.kind == "numbers":
        mean, sd = float(dataset.labels.mean()), float(dataset.labels.std())
        typer.echo(f"labels are numbers; in the pool: mean {mean:.4g}, standard deviation {sd:.4g}")
    elif dataset.labels is not None:
        counts = dataset.labels.bincount(minlength=len(dataset.classes)).tolist()
        typer.echo(f"in the pool: {', '.join(f'{count:,}' for count in counts)}")


class Look(StrEnum):
    """What `activebdl uncertainty` can look at."""

    line = "line"
    moons = "moons"
    digits = "digits"


@app.command()
def uncertainty(
    what: Annotated[Look, typer.Argument(help="line, moons, or digits beside what is none.")],
    posteriors: Annotated[str | None, typer.Option(help="By name, with commas; all when not given.")] = None,
    labels: Annotated[int, typer.Option(min=1, help="Digits only: how many are known.")] = 1000,
    draws: Annotated[int, typer.Option(min=1, help="Posterior draws.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="The source of all randomness.")] = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The folder for the picture.")] = Path("runs/uncertainty"),
) -> None:
    """Draws how sure each posterior is, where there is data and where there is none.

    line: ten points on a line. moons: two half circles in a plane. digits: MNIST beside clothes, turned digits, noise.
    """
    from activebdl.files import write_safely
    from activebdl.uncertainty.digits import digits
    from activebdl.uncertainty.line import line
    from activebdl.uncertainty.moons import moons

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"'{out}' cannot be made: {error.strerror or error}.") from error
    names = None if posteriors is None else [name.strip() for name in posteriors.split(",")]
    if what is not Look.digits:
        picture, text = (line if what is Look.line else moons)(names, draws=draws, seed=seed), ""
    else:
        picture, text = digits(names, labels=labels, draws=draws, seed=seed, device=device or "auto")
    write_safely(out / f"{what.value}.png", picture)
    typer.echo(f"{text}\npicture   {out / what.value}.png")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="The port on this machine.")] = 5000,
    runs: Runs = Path("runs"),
) -> None:
    """Opens MLflow on this machine, with the curves of all runs."""
    from activebdl.tracking.store import open_ui

    open_ui(runs, port)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits.

    0: done. 1: some runs of a comparison failed, the others are finished. 2: a mistake of the user's. 3: the run waits
    for labels, and goes on when they are there. 130: stopped from the keyboard.
    """
    sys.path.insert(0, "")  # where the user stands, for my_module:name; python -m looks there by itself
    try:
        app(arguments)
    except UserError as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(2)
    except Waiting as waiting:
        typer.secho(f"\n{waiting}", err=True)
        sys.exit(3)


def _changes(
    source: str,
    data: str | None,
    network: str | None,
    posterior: str | None,
    oracle: str | None,
    budget: int | None,
    query_size: int | None,
    initial: int | None,
    draws: int | None,
    device: str | None,
    set: list[str] | None,
) -> dict[str, Any]:
    """The options that were given, by the spec's keys."""
    from activebdl.build import named_posterior
    from activebdl.spec import read_spec

    given = {
        "dataset": data, "network": network, "oracle": oracle, "budget": budget,
        "query_size": query_size, "initial": initial, "draws": draws, "device": device,
    }  # fmt: skip
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if posterior is not None:
        changes["posterior"] = named_posterior(read_spec(source), posterior).model_dump()
    if query_size is not None:
        changes["growth"] = 0.0  # whoever says a size wants that size every time
    return changes | _assigned(set)


def _assigned(assignments: list[str] | None) -> dict[str, Any]:
    """What every ``--set KEY=VALUE`` says."""
    values: dict[str, Any] = {}
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise UserError(f"--set takes KEY=VALUE, such as posterior.training.steps=400, not '{assignment}'.")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {key}: '{value}' is not a YAML value.") from None
    return values


def _seeds(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UserError(f"--seeds takes how many (3) or which ones (0,1,2), not '{text}'.") from None
    seeds = tuple(range(numbers[0])) if len(numbers) == 1 else numbers
    if not seeds:
        raise UserError(f"--seeds takes at least one seed, not '{text}'.")
    return seeds
