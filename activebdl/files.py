"""Files that are whole or not there at all, and where those lie that can be had again."""

import contextlib
import errno
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

MODEL = "model.pkl"
"""In a run's folder: what it has learned, see `activebdl.predictor`."""
COMMON = "comparison.yaml"
"""In a comparison's folder: what all its runs have in common."""


def is_compared(folder: Path) -> bool:
    """Whether the folder of a run is in that of a comparison."""
    return (folder.parent / COMMON).is_file()


def write_safely(path: Path, content: str | bytes) -> None:
    """Writes a file that no reader meets half of; see `writing_safely`."""
    with writing_safely(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def writing_safely(path: Path) -> Generator[BinaryIO]:
    """A file beside the target, put in its place when it is on the disk; left out when writing it fails."""
    if not path.name:  # "." or "/"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def cache_folder() -> Path:
    """What can be fetched or made again is kept there: $XDG_CACHE_HOME/activebdl, or else ~/.cache/activebdl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "activebdl"
