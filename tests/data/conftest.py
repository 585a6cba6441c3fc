"""A data set of four small files, to be fetched like MNIST's."""

import hashlib
from pathlib import Path

import pytest

from activebdl.data._sources import SOURCES
from activebdl.data.fetch import FILES, SHA256

CONTENT = {file: bytes((0, 0, 8, 1, 0, 0, 1, 0)) + bytes([i]) * 256 for i, file in enumerate(FILES.values())}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data set of four small files, without a source; gives the folder where it is kept."""
    for variable in ("ACTIVEBDL_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ACTIVEBDL_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(SHA256, "tiny", tuple(hashlib.sha256(content).hexdigest() for content in CONTENT.values()))
    monkeypatch.setitem(SOURCES, "tiny", ())
    return tmp_path / "data" / "tiny"


def is_whole(folder: Path) -> bool:
    """The four files and nothing else but the lock."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    return found == CONTENT
