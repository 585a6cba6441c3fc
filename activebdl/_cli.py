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
    return folder.parent.parent if (folder.parent / "comparison.yaml").is_file() else folder.parent


def tracking_for(runs: Path, experiment: str, mlflow: bool) -> Any:
    """MLflow's store, made and checked before anything else is done."""
    if not mlflow:
        from activebdl.runs import NO_TRACKING

        return NO_TRACKING
    from activebdl.tracking import MlflowTracking

    return MlflowTracking.prepare(runs, experiment)


@contextlib.contextmanager
def resumable(folder: Path, runs: Path) -> Generator[None]:
    """Says how to go on, when the run is stopped from the keyboard."""
    try:
        yield
    except KeyboardInterrupt:
        name = folder.relative_to(runs) if folder.is_relative_to(runs) else folder
        from activebdl.run_folders import runs_option

        typer.echo(f"\nStopped. Nothing is lost; go on with: activebdl resume {name}{runs_option(runs)}", err=True)
        raise typer.Exit(130) from None


def close(table: str, folder: Path, runs: Path, mlflow: bool, plot: Path | None = None) -> None:
    """The table, and where to look."""
    from activebdl.run_folders import runs_option

    typer.echo(f"\n{table}\n")
    if plot is not None:
        typer.echo(f"plot      {plot}")
    typer.echo(f"kept in   {folder}")
    if mlflow:
        typer.echo(f"MLflow    activebdl ui{runs_option(runs)}")
