import gzip
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from activebdl.data import _sources
from activebdl.data import fetch as module
from activebdl.data._sources import SOURCES, Source, Unavailable
from activebdl.data.fetch import FILES, fetch
from activebdl.errors import UserError
from activebdl.progress import Advance
from tests.data.conftest import CONTENT, is_whole

pytestmark = pytest.mark.usefixtures("tiny")


class Shelf:
    """A source that counts how often it is asked, and for what."""

    def __init__(self, content: dict[str, bytes], ending: str = "") -> None:
        self.content, self.ending = content, ending
        self.asked: list[list[str]] = []

    def __call__(self, space: Path, files: Sequence[str], advance: Advance) -> Path:
        self.asked.append(list(files))
        for file, content in self.content.items():
            (space / f"{file}{self.ending}").write_bytes(content)
            advance(len(content))
        return space


def broken(space: Path, files: Sequence[str], advance: Advance) -> Path:
    (space / files[0]).write_bytes(CONTENT[files[0]][:50])
    raise Unavailable("the line broke")


Offer = Callable[..., None]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    def sources(*gets: Callable[[Path, Sequence[str], Advance], Path], local: bool = False) -> None:
        given = tuple(Source(f"source {i}", get, local=local) for i, get in enumerate(gets))
        monkeypatch.setitem(SOURCES, "tiny", given)

    return sources


# The cache


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_fetched_once(tiny: Path, offer: Offer, ending: str) -> None:
    shelf = Shelf({f: gzip.compress(c) if ending else c for f, c in CONTENT.items()}, ending)
    offer(shelf)
    paths = fetch("tiny")
    assert paths == {key: tiny / file for key, file in FILES.items()}
    assert list(paths) == ["train_images", "train_labels", "test_images", "test_labels"]
    assert is_whole(tiny)
    assert fetch("tiny") == paths
    assert shelf.asked == [list(CONTENT)]


@pytest.mark.parametrize("file", CONTENT)
@pytest.mark.parametrize("harm", ["truncated", "tampered", "longer", "emptied", "gone"])
def test_only_a_damaged_file_is_fetched_again(tiny: Path, offer: Offer, file: str, harm: str) -> None:
    shelf = Shelf(CONTENT)
    offer(shelf)
    fetch("tiny")
    whole = CONTENT[file]
    if harm == "gone":
        (tiny / file).unlink()
    else:
        wrong = {"truncated": whole[:-1], "tampered": whole[:99] + b"!" + whole[100:], "longer": whole + b"!"}
        (tiny / file).write_bytes(wrong.get(harm, b""))
    fetch("tiny")
    assert is_whole(tiny)
    assert shelf.asked[1:] == [[file]]


def test_a_damaged_file_is_told(tiny: Path, offer: Offer, caplog: pytest.LogCaptureFixture) -> None:
    offer(Shelf(CONTENT))
    fetch("tiny")
    (tiny / "t10k-labels-idx1-ubyte").write_bytes(b"")
    fetch("tiny")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"Damaged in {tiny}, to be fetched again: t10k-labels-idx1-ubyte."
    ]


def test_the_order_of_folders(tmp_path: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(Shelf(CONTENT))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert fetch("tiny", cache=tmp_path / "own")["test_labels"].parent == tmp_path / "own/tiny"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch("tiny")["test_labels"].parent == tmp_path / "data/tiny"
    monkeypatch.setenv("ACTIVEBDL_DATA", "~/mine")
    assert fetch("tiny")["test_labels"].parent == tmp_path / "home/mine/tiny"
    monkeypatch.setenv("ACTIVEBDL_DATA", "")
    assert fetch("tiny")["test_labels"].parent == tmp_path / "xdg/activebdl/tiny"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fetch("tiny")["test_labels"].parent == tmp_path / "home/.cache/activebdl/tiny"


@pytest.mark.parametrize("within", ["", "tiny"])
def test_a_folder_that_the_user_filled_is_only_read(tiny: Path, within: str) -> None:
    folder = tiny.parent / within
    folder.mkdir(parents=True)
    for file, content in CONTENT.items():
        (folder / file).write_bytes(content)
    assert fetch("tiny") == {key: folder / file for key, file in FILES.items()}
    assert {path.name for path in folder.iterdir()} == set(CONTENT)  # no lock, thus it may be read-only


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="no files to fetch for 'cifar'; known: fashion_mnist, mnist, tiny"):
        fetch("cifar")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"data folder '.*file.*tiny' cannot be used: .*; set ACTIVEBDL_DATA to"):
        fetch("tiny", cache=tmp_path / "file" / below)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tiny: Path) -> None:
    tiny.mkdir(parents=True)
    tiny.chmod(0o555)
    with pytest.raises(UserError, match="cannot be used: Permission denied; set ACTIVEBDL_DATA to"):
        fetch("tiny")


def test_a_disk_that_is_full(offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    offer(Shelf(CONTENT))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot be used: No space left on device"):
        fetch("tiny")


# Sources that fail


def test_a_source_that_breaks_off_leaves_nothing(tiny: Path, offer: Offer) -> None:
    offer(broken)
    with pytest.raises(UserError, match=r"tried: source 0 \(the line broke\)\."):
        fetch("tiny")
    assert {path.name for path in tiny.iterdir()} <= {".lock"}
    offer(broken, Shelf(CONTENT))
    fetch("tiny")
    assert is_whole(tiny)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("harm", ["truncated", "tampered", "gone"])
def test_a_source_with_a_bad_file_is_refused(tiny: Path, offer: Offer, compressed: bool, harm: str) -> None:
    bad = {file: gzip.compress(content) if compressed else content for file, content in CONTENT.items()}
    whole = bad["t10k-images-idx3-ubyte"]
    if harm == "gone":
        del bad["t10k-images-idx3-ubyte"]
    else:
        bad["t10k-images-idx3-ubyte"] = whole[:-1] if harm == "truncated" else whole[:-5] + b"!" + whole[-4:]
    offer(Shelf(bad, ".gz" if compressed else ""))
    with pytest.raises(UserError, match=r"source 0 \(t10k-images-idx3-ubyte (has a wrong|is damaged|is not there)"):
        fetch("tiny")
    assert not list(tiny.glob("t10k-images*")) and not list(tiny.glob(".fetch-*"))
    good = Shelf(CONTENT)
    offer(good)
    fetch("tiny")
    assert is_whole(tiny)
    assert good.asked == [["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]]  # the verified ones were kept


def test_a_file_without_end_is_refused(offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(module, "LARGEST", 300)
    monkeypatch.setattr(os, "fsync", lambda descriptor: written.append(os.fstat(descriptor).st_size))
    offer(Shelf({file: gzip.compress(content + bytes(10_000_000)) for file, content in CONTENT.items()}, ".gz"))
    with pytest.raises(UserError, match="train-images-idx3-ubyte has a wrong checksum"):
        fetch("tiny")
    assert written == [300]


def test_one_sentence_tells_what_was_tried_and_the_ways_out(tiny: Path, offer: Offer) -> None:
    offer(broken, broken)
    with pytest.raises(UserError) as caught:
        fetch("tiny")
    assert str(caught.value) == (
        f"tiny is not in '{tiny}' and could not be fetched; tried: source 0 (the line broke); source 1 (the line "
        "broke). Either restore the network, or set ACTIVEBDL_DATA to a folder that has the uncompressed files "
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, at its top "
        "or in tiny/."
    )


def test_offline_no_source_with_a_network_is_tried(tiny: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(CONTENT)
    monkeypatch.setenv("ACTIVEBDL_OFFLINE", "1")
    offer(shelf)
    with pytest.raises(UserError, match=r"ACTIVEBDL_OFFLINE is set\. Either unset ACTIVEBDL_OFFLINE, or"):
        fetch("tiny")
    assert shelf.asked == []
    offer(shelf, local=True)
    fetch("tiny")
    assert is_whole(tiny)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_offline_the_true_sources_run_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **options: object) -> None:
        raise AssertionError("something was opened or run")

    monkeypatch.setenv("ACTIVEBDL_OFFLINE", "1")
    monkeypatch.setattr(_sources, "urlopen", never)
    monkeypatch.setattr(subprocess, "Popen", never)
    local = tuple(source._replace(get=broken) for source in SOURCES[name] if source.local)
    monkeypatch.setitem(SOURCES, name, (*local, *(source for source in SOURCES[name] if not source.local)))
    with pytest.raises(UserError, match="ACTIVEBDL_OFFLINE"):
        fetch(name)


def test_offline_zero_is_no(offer: Offer, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIVEBDL_OFFLINE", "0")
    offer(Shelf(CONTENT))
    fetch("tiny")
    assert is_whole(tiny)


# Several processes

WORKER = """
import hashlib, os, signal, sys, time
from pathlib import Path
from activebdl.data.fetch import FILES, SHA256, SOURCES, Source, fetch

content = {file: bytes((0, 0, 8, 1, 0, 0, 1, 0)) + bytes([i]) * 256 for i, file in enumerate(FILES.values())}
log, mode = Path(sys.argv[1]), sys.argv[2]

def get(space, files, advance):
    with log.open("a") as stream:
        stream.write("asked\\n")
    for file in files:
        (space / file).write_bytes(content[file])
        if mode == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)  # for the others to come in between
    return space

SHA256["tiny"] = tuple(hashlib.sha256(value).hexdigest() for value in content.values())
SOURCES["tiny"] = (Source("slow", get),)
print("ready", flush=True)
sys.stdin.readline()
assert {key: path.read_bytes() for key, path in fetch("tiny").items()} == {k: content[f] for k, f in FILES.items()}
"""


def start_worker(log: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(log), mode]
    root = Path(module.__file__).parents[2]  # from where the package can be imported
    return subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_at_once_share_one_download(tiny: Path, tmp_path: Path) -> None:
    workers = [start_worker(tmp_path / "log", "whole") for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [0, 0]
    assert (tmp_path / "log").read_text() == "asked\n"
    assert is_whole(tiny)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_what_a_killed_process_left_is_cleared(tiny: Path, offer: Offer, tmp_path: Path) -> None:
    worker = start_worker(tmp_path / "log", "killed")
    worker.communicate("go\n")
    assert worker.returncode == -signal.SIGKILL
    assert list(tiny.glob(".fetch-*/*")) and not list(tiny.glob("*ubyte"))
    offer(Shelf(CONTENT))
    fetch("tiny")
    assert is_whole(tiny)


# The bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar(offer: Offer, monkeypatch: pytest.MonkeyPatch, progress: bool) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    offer(Shelf(CONTENT))
    fetch("tiny", progress=progress)
    assert ("tiny from source 0" in screen.getvalue()) == progress


def test_no_bar_in_a_log_file(offer: Offer, capfd: pytest.CaptureFixture[str]) -> None:
    offer(Shelf(CONTENT))
    fetch("tiny")
    assert capfd.readouterr() == ("", "")


def test_without_tqdm_there_is_no_bar(offer: Offer, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setitem(sys.modules, "tqdm", None)  # as if it were not installed
    offer(Shelf(CONTENT))
    fetch("tiny")
    assert is_whole(tiny)
    assert screen.getvalue() == ""
