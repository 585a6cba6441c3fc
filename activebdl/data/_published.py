"""Data sets that are published as one file: that file, or one of the user's own that has its form."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from activebdl.data.dataset import ActiveDataset, Normalise
from activebdl.data.fetch import checksum, fetch_file
from activebdl.errors import UserError
from activebdl.targets import Classes


class Published(NamedTuple):
    """What is known of a published file.

    Args:
        url: Where it is.
        md5: Its sum, as its authors tell it.
        pool: Images for training that it has.
        test: Images to test that it has.
    """

    url: str
    md5: str
    pool: int
    test: int


class Found(NamedTuple):
    """A file to be read.

    Args:
        path: Where it is.
        published: Whether it is the published one, byte for byte.
        name: Of the data set, with a part of the file's sum where it is another: no run goes on with other data.
    """

    path: Path
    published: bool
    name: str


def find(
    name: str, known: Published, folder: str, path: str | Path | None, cache: Path | None, progress: bool
) -> Found:
    """The published file, from the cache's ``folder`` or fetched, or else the one at ``path``, whatever is in it.

    Raises:
        UserError: There is none at ``path``, or the published one cannot be had.
    """
    if path is None:
        return Found(fetch_file(folder, known.url, known.md5, cache=cache, progress=progress), True, name)
    own = Path(path).expanduser()
    try:
        md5 = checksum(own, "md5")
    except OSError as error:
        raise UserError(f"'{own}' cannot be read for the data set '{name}': {error.strerror or error}.") from error
    return Found(own, md5 == known.md5, name if md5 == known.md5 else f"{name}-{md5[:8]}")


Images = tuple[Tensor, Tensor]
"""Images ``[n, channels, H, W]`` as stored, and their labels ``[n]``."""


def data_set(
    found: Found, known: Published, pool: Images, test: Images, classes: Sequence[str], normalise: Normalise
) -> ActiveDataset:
    """What was read, as a data set.

    Raises:
        UserError: The published file has not given all that it is known to have.
    """
    has, should = (len(pool[0]), len(test[0])), (known.pool, known.test)
    if found.published and has != should:
        raise UserError(
            f"'{found.path}' gave {has[0]:,} images for the pool and {has[1]:,} to test, and {found.name} has "
            f"{should[0]:,} and {should[1]:,}; delete it, and it is fetched again."
        )
    return ActiveDataset(found.name, *pool, *test, Classes(tuple(classes)), normalise)
