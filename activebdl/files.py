"""Files that are whole or not there at all, and where those lie that can be had again."""

import os
from pathlib import Path


def write_safely(path: Path, content: str | bytes) -> None:
    """Writes a file beside the target and puts it in its place when it is on the disk: no reader meets a half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with beside.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def cache_folder() -> Path:
    """What can be fetched or made again is kept there: $XDG_CACHE_HOME/activebdl, or else ~/.cache/activebdl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "activebdl"
