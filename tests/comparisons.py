"""What tests of comparisons share: tiny ones, and what of them counts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from activebdl.build import named_posterior
from activebdl.journal import Journal
from activebdl.journal_reading import read_rounds
from activebdl.report import Curve
from activebdl.run_folders import JOURNAL
from activebdl.spec import Comparison, Named, RunSpec, read_spec

TINY = {"posterior.training.steps": 2, "budget": 40, "query_size": 10, "draws": 4, "test_draws": 4}


def tiny(strategies: Sequence[str], seeds: Sequence[int] = (0,), posteriors: Sequence[str] = ()) -> RunSpec:
    spec = read_spec("digits-small", TINY)
    compared = Comparison(
        strategies=tuple(Named(name=name) for name in strategies),
        posteriors=tuple(named_posterior(spec, name) for name in posteriors),
        seeds=tuple(seeds),
    )
    return spec.model_copy(update={"compare": compared})


def asked(folder: Path) -> dict[str, list[Any]]:
    """Ids and scores of all requests of each run."""
    found: dict[str, list[Any]] = {}
    for path in folder.rglob(JOURNAL):
        with Journal(path) as journal:
            requests = [journal.request(round, 0) for round in range(len(read_rounds(path)))]
        found[path.parent.name] = [(request.ids, request.scores) for request in requests if request]
    return found


def told(curves: Sequence[Curve]) -> list[Any]:
    """All of the curves but the clock."""
    return [(c.strategy, c.posterior, c.seed, c.counts, c.metrics) for c in curves]
