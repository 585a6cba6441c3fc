"""The command ``report``: what a comparison has shown, in words, numbers and pictures."""

from pathlib import Path
from typing import Annotated

from activebdl._cli import Runs, typer


def report(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A comparison, an experiment, or a folder of runs.")],
    against: Annotated[
        str | None, typer.Option(help="The strategy that all others are compared with; random when not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write to; 'report' in the comparison's own.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Tells which strategies are better, as far as the seeds can tell, and writes tables and plots; at any time."""
    from activebdl.report import find_studies, write_studies
    from activebdl.report.writing import FOLDER

    studies, folder, notes = find_studies(name, runs)
    place = out or (runs / "reports" / name if folder is None else folder / FOLDER)
    written = write_studies(studies, place, against=against, notes=notes)
    typer.echo(f"{written.text}\n\nreport    {written.document}")
