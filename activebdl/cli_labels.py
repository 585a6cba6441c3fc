"""The commands that deal with labels and runs that wait for them: ``resume``, ``label``, ``ingest``, ``labels``."""

import math
from pathlib import Path
from typing import Annotated, Any

from activebdl._cli import (
    Cpus,
    Gpus,
    Jobs,
    Mlflow,
    Ray,
    Run,
    Runs,
    close,
    cluster_for,
    folder_of,
    resumable,
    runs_of,
    side_by_side,
    tracking_for,
    typer,
)
from activebdl.errors import UserError, Waiting

PEOPLE = ("web", "files", "label_studio")  # oracles whose labels come from people, who may go over to the page


def resume(
    run: Run,
    jobs: Jobs = None,
    ray: Ray = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    budget: Annotated[
        int | None, typer.Option(help="Labels at the end, where they are to be more; counts go on from the last one.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", help="What all annotations may cost, where it is to be more.")
    ] = None,
    runs: Runs = Path("runs"),
    mlflow: Mlflow = True,
) -> None:
    """Goes on with a run or a comparison, after any stop or to more labels; the result is that of one without stops."""
    from activebdl.files import is_compared
    from activebdl.run_folders import asked_earlier, read_comparison, spec_of

    folder, cluster = folder_of(run, runs), cluster_for(ray, cpus, gpus)
    comparison = read_comparison(folder)
    larger = {"--budget": budget, "--max-cost": max_cost}
    how = "".join(f" {option} {value}" for option, value in larger.items() if value is not None)
    if comparison is not None:
        spec, runs = _with_more(comparison, budget, max_cost), runs_of(folder, runs)
        earlier = asked_earlier(folder)
        side_by_side(spec, folder, runs, jobs=jobs, mlflow=mlflow, cluster=cluster, more=how, earlier=earlier)
    elif how and is_compared(folder):
        raise UserError(
            f"Runs that are compared have their budgets in common; give '{folder.parent.name}' the larger one."
        )
    elif jobs is not None:
        raise UserError(f"'{run}' is a single run; --jobs is for comparisons, which have several.")
    else:
        spec = _with_more(spec_of(folder), budget, max_cost)
        _go_on(folder, runs, mlflow, cluster=cluster, spec=spec, how=how)


def _with_more(spec: Any, budget: int | None, max_cost: float | None) -> Any:
    """The spec with a larger budget; says at which counts it will be measured."""
    more = spec.more(budget, max_cost)
    further = more.label_counts()[len(spec.label_counts()) :]
    if further:
        typer.echo(f"goes on to {', '.join(f'{count:,}' for count in further)} labels")
    return more


def label(
    run: Run,
    port: Annotated[int | None, typer.Option(help="The page's port on this machine.")] = None,
    open: Annotated[bool | None, typer.Option("--open/--no-open", help="Whether a browser is opened.")] = None,
    predictions: Annotated[
        bool | None,
        typer.Option("--predictions/--no-predictions", help="Whether the page shows what the model thinks."),
    ] = None,
    runs: Runs = Path("runs"),
    mlflow: Mlflow = True,
) -> None:
    """Serves a page on this machine where people label what the run asks for, while it goes on."""
    from activebdl.run_folders import spec_of
    from activebdl.spec import Named

    folder = folder_of(run, runs)
    oracle = spec_of(folder).oracle
    if oracle.name not in PEOPLE:
        raise UserError(
            f"The labels of '{run}' come from '{oracle.name}', not from people; start a run for them: "
            "activebdl run PRESET --oracle web."
        )
    options: dict[str, Any] = dict(oracle.options) if oracle.name == "web" else {}
    if "cost" in oracle.options:
        options["cost"] = oracle.options["cost"]
    if port is not None:
        options["port"] = port
    if predictions is not None:
        options["predictions"] = "shown" if predictions else "hidden"
    if open is not None:
        options["open_browser"] = open
    page = Named.model_validate({**options, "name": "web"})
    _go_on(folder, runs, mlflow, page)


def ingest(
    run: Run,
    file: Annotated[Path, typer.Argument(help="Answers: .jsonl or .csv, with an id and a label in each line.")],
    runs: Runs = Path("runs"),
    mlflow: Mlflow = True,
) -> None:
    """Takes the answers of a file, says what is missing, and goes on with the run when nothing is."""
    from activebdl.journal import Journal
    from activebdl.labels import read_answers, target_of, waits_for
    from activebdl.run_folders import JOURNAL, begun

    folder = folder_of(run, runs)
    path, spec = folder / JOURNAL, begun(folder)
    target = target_of(path)
    cost = spec.oracle.options.get("cost", 0.0) if spec is not None and spec.oracle.name in PEOPLE else 0.0
    most = math.inf if spec is None or spec.max_cost is None else cost
    with Journal(path) as journal:
        asked = journal.asked()
        paid = [id for id, cost in journal.paid_for(list(asked)).items() if cost > 0]
        found = read_answers(file, target, asked, cost, paid, most)
        before = journal.lines()
        journal.write_annotations(found.annotations)
        new, missing = journal.lines() - before, journal.waits_for()
    typer.echo(f"{new} new answers taken, {len(found.annotations) - new} were known")
    if found.mistakes:
        told = "\n".join(f"  {mistake}" for mistake in found.mistakes[:20])
        more = f"\n  and {len(found.mistakes) - 20} more" if len(found.mistakes) > 20 else ""
        raise UserError(
            f"{len(found.mistakes)} lines of '{file}' cannot be taken; mend them and ingest it again:\n{told}{more}"
        )
    if missing:
        raise Waiting(f"The run still waits for {waits_for(missing)}; add their labels and ingest the file again.")
    if spec is None:
        typer.echo("nothing is missing; the program that began this run can go on with it")
    else:
        _go_on(folder, runs, mlflow)


def labels(
    run: Run,
    export: Annotated[Path | None, typer.Option(help="Writes all that was said to this CSV file.")] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=LABEL", help="Corrects a label, from the next round on; again for another."),
    ] = None,
    annotator: Annotated[str, typer.Option(help="Who corrects.")] = "correction",
    runs: Runs = Path("runs"),
) -> None:
    """Shows a run's labels, writes them to a file, or corrects some; at any time, also while the run goes on."""
    from activebdl import labels as book
    from activebdl.files import write_safely
    from activebdl.run_folders import journal_of, list_runs

    folder = folder_of(run, runs)
    path = journal_of(folder)
    if fix:
        for line in book.fix(path, fix, annotator):
            typer.echo(line)
        finished = any(info.finished for info in list_runs(folder))
        use = "; the run is finished, and uses it no more" if finished else ", and used from the next labels on"
        typer.echo(f"kept{use}")
    lines, missing, trouble = book.all_lines(path)
    target = book.target_of(path)
    if export is not None:
        try:
            write_safely(export, book.to_csv(lines, target))
        except OSError as error:
            raise UserError(f"'{export}' cannot be written: {error.strerror or error}.") from error
        typer.echo(f"{len(lines):,} lines written to {export}")
    elif not fix:
        typer.echo(book.summary(lines, target, missing))
    if trouble is not None:
        raise UserError(f"The journal '{path}' is damaged ({trouble}); these are the lines that can still be read.")


def _go_on(
    folder: Path,
    runs: Path,
    mlflow: bool,
    oracle: Any = None,
    cluster: Any = None,
    spec: Any = None,
    how: str = "",
) -> None:
    from activebdl.report import table
    from activebdl.run_folders import spec_of
    from activebdl.runs import resume

    was, runs = spec_of(folder), runs_of(folder, runs)
    if cluster is not None and was.shards is None:
        raise UserError(f"'{folder.name}' looks at its pool by itself: it was begun without shards, so without --ray.")
    with resumable(folder, runs, ("" if cluster is None else cluster.as_options) + how):
        tracking = tracking_for(runs, was.experiment, mlflow)
        curve = resume(folder, tracking=tracking, oracle=oracle, cluster=cluster, spec=spec)
    close(table([curve]), folder, runs, mlflow)
