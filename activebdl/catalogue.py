"""What `activebdl list` shows, at once: torch takes seconds to load, so what is registered is told from a file.

The file is written the first time, and again when any source of the package has changed. Where another package adds
something by an entry point, that is looked up each time.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from activebdl.files import cache_folder, write_safely
from activebdl.registry import installed
from activebdl.run_folders import list_comparisons, list_runs
from activebdl.settings import about_preset, presets

Rows = list[tuple[str, str]]

HERE = Path(__file__).parent
LOADED = sys.modules

GROUPS = {"datasets": "activebdl.data"}
"""Entry-point groups that are not named after their kind."""


def rows_of(kind: str, runs: Path) -> Rows:
    """Names, and what each is about.

    Args:
        kind: "presets", "runs", or one that `activebdl.listings.listings` knows.
        runs: The folder of all runs.
    """
    if kind == "presets":
        return [(name, about_preset(name)) for name in presets()]
    if kind == "runs":
        return _runs(runs)
    return _listed([kind])[kind] if _is_added_to(kind) else _remembered(kind)


def _is_added_to(kind: str) -> bool:
    """Whether another package has something of that kind."""
    return bool(installed(GROUPS.get(kind, f"activebdl.{kind}")))


def _listed(kinds: Iterable[str]) -> dict[str, Rows]:
    from activebdl.listings import listings

    return {kind: listings()[kind]() for kind in kinds}


def _remembered(kind: str) -> Rows:
    """From the file, which has all kinds that no other package adds to."""
    if "torch" in LOADED:  # it costs nothing now, and this process may have registered things of its own
        return _listed([kind])[kind]
    now = _fingerprint()
    try:
        file = _file()
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["of"] == now:
            return [(name, about) for name, about in kept["rows"][kind]]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        pass  # none yet, or of other sources, or spoilt; or there is no home
    from activebdl.listings import listings

    rows = _listed(each for each in listings() if not _is_added_to(each))
    with contextlib.suppress(OSError, RuntimeError):  # where nothing can be written, it takes its time again
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_safely(file, json.dumps({"of": now, "rows": rows}))
    return rows[kind]


def _file() -> Path:
    """One for each place where the package is installed."""
    place = hashlib.blake2b(f"{HERE} {sys.version}".encode(), digest_size=8).hexdigest()
    return cache_folder() / f"catalogue-{place}.json"


def _fingerprint() -> str:
    """Of all sources of the package, by their sizes and times."""
    stats = ((file, file.stat()) for file in sorted(HERE.rglob("*.py")))
    known = [f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats]
    return hashlib.blake2b("\n".join(known).encode(), digest_size=16).hexdigest()


def _runs(runs: Path) -> Rows:
    rows: Rows = [(name, "comparison") for name in list_comparisons(runs)]
    for info in list_runs(runs, lambda name, error: rows.append((name, f"cannot be read: {error}"))):
        done, total = len(info.rounds), len(info.spec.label_counts())
        last = info.rounds[-1] if info.rounds else None
        reached = _reached(last.results["metrics"]) if last else ""
        if last and not info.stopped:
            reached += f" at {last.n_labels:,} labels"
        state = "finished" if info.finished else f"round {done} of {total}"
        why = f", stopped at {last.n_labels:,} labels: {info.stopped}" if last and info.stopped else ""
        rows.append((info.name, f"{state:<16}{reached}{why}"))
    return rows


def _reached(metrics: dict[str, float]) -> str:
    return f"{100 * metrics['accuracy']:.2f} %" if "accuracy" in metrics else f"RMSE {metrics['rmse']:.4g}"
