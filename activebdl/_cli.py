"""What several commands share: options, folders, MLflow, and how a command ends."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
except ImportError as error:
    raise SystemExit(f"The command line needs '{error.name}': pip install 'activebdl[cli]'") from None

from activebdl.errors import UserError

Runs = Annotated[Path, typer.Option("--runs", help="The folder of all runs.")]
Mlflow = Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Whether MLflow is told.")]
Jobs = Annotated[int | None, typer.Option("--jobs", help="Runs at a time, each with its share of the cores.")]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="A cluster of Ray, HOST:PORT; auto begins one on this machine."),
]
Cpus = Annotated[float | None, typer.Option("--cpus", help="Of each process on Ray, which has as many threads.")]
Gpus = Annotated[float | None, typer.Option("--gpus", help="Of each process on Ray; 0.25 for four to a GPU.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Its name, as 'activebdl list runs' shows it.")]


def folder_of(run: str, runs: Path) -> Path:
    """The run's folder, by its name or by its path."""
    for folder in (runs / run, Path(run)):
        if folder.is_dir():
            return folder
    from activebdl.catalogue import rows_of

    known = ", ".join(name for name, _ in rows_of("runs", runs)) or "none yet"
    raise UserError(f"There is no run '{run}' in '{runs}'. Known: {known}.")


def runs_of(folder: Path, runs: Path) -> Path:
    """The folder of all runs that this one is in, though it was found by its path."""
    if folder.resolve().is_relative_to(runs.resolve()):
        return runs
    from activebdl.files import is_compared

    return folder.parent.parent if is_compared(folder) else folder.parent


def tracking_for(runs: Path, experiment: str, mlflow: bool) -> Any:
    """MLflow's store, made and checked before anything else is done."""
    if not mlflow:
        from activebdl.runs import NO_TRACKING

        return NO_TRACKING
    from activebdl.tracking.store import MlflowTracking

    return MlflowTracking.prepare(runs, experiment)


def cluster_for(ray: str | None, cpus: float | None, gpus: float | None) -> Any:
    """The cluster, where one is wanted."""
    if ray is None:
        if cpus is not None or gpus is not None:
            raise UserError("--cpus and --gpus are of processes on Ray: say where it is, --ray ADDRESS.")
        return None
    from activebdl.cluster import Cluster

    return Cluster(ray, 1 if cpus is None else cpus, gpus or 0)


@contextlib.contextmanager
def resumable(folder: Path, runs: Path, how: str = "") -> Generator[None]:
    """Says how to go on, when the run is stopped from the keyboard."""
    from activebdl.run_folders import resume_command

    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nStopped. Nothing is lost; go on with: {resume_command(folder, runs)}{how}", err=True)
        raise typer.Exit(130) from None


def side_by_side(
    spec: Any,
    folder: Path,
    runs: Path,
    *,
    jobs: int | None,
    mlflow: bool,
    cluster: Any = None,
    more: str = "",
    earlier: Any = (),
) -> None:
    """Runs a comparison, or goes on with it and with what earlier commands compared, and tells how it ended."""
    from activebdl import sweep
    from activebdl.report import conclude
    from activebdl.run_folders import resume_command

    executor = sweep.executor_for(jobs, cluster)
    side = f" --jobs {jobs}" if jobs is not None and (cluster is not None or jobs > 1) else ""
    how = side + ("" if cluster is None else cluster.as_options) + more
    tracking = tracking_for(runs, spec.experiment, mlflow)
    plot = folder / "curves.png"
    with resumable(folder, runs, how):
        try:
            curves = sweep.compare(spec, folder, tracking=tracking, executor=executor, earlier=earlier)
        except sweep.Unfinished as unfinished:
            if unfinished.curves:
                close(conclude(unfinished.curves, folder), folder, runs, mlflow, plot=plot)
            again = f"when that is mended, go on with: {resume_command(folder, runs)}{how}"
            typer.secho(f"\n{unfinished}\n{again}", fg="red", err=True)
            raise typer.Exit(1) from None
    close(conclude(curves, folder), folder, runs, mlflow, plot=plot)


def close(table: str, folder: Path, runs: Path, mlflow: bool, plot: Path | None = None) -> None:
    """The table, and where to look."""
    from activebdl.run_folders import runs_option

    typer.echo(f"\n{table}\n")
    if plot is not None:
        typer.echo(f"plot      {plot}")
    typer.echo(f"kept in   {folder}")
    if mlflow:
        typer.echo(f"MLflow    activebdl ui{runs_option(runs)}")
