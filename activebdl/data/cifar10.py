"""CIFAR-10 (Krizhevsky 2009): small photographs in colour."""

import gzip
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from activebdl.data import dataset
from activebdl.data._published import Published, data_set, find
from activebdl.data.dataset import ActiveDataset, Normalise
from activebdl.errors import UserError

CIFAR10 = Published(
    # The binary version, for that in Python's pickles would run what is in it.
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    pool=50_000,
    test=10_000,
)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

POOL_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILE = "test_batch.bin"
IMAGE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then red, green and blue, each row by row


@dataset("cifar10")
def cifar10(*, path: str | Path | None = None, cache: Path | None = None, progress: bool = True) -> ActiveDataset:
    """50,000 photographs of ten kinds of things as the pool, 10,000 to test, 32 x 32 in colour.

    Ids run through data_batch_1 to data_batch_5, as wherever CIFAR-10 is used.

    Args:
        path: A file like cifar-10-binary.tar.gz, with any number of images; None takes the published one from the
            cache, and fetches it where it is not there.
        cache: See `activebdl.data.fetch`.
        progress: Whether to show progress bars.

    Raises:
        UserError: The file cannot be had, or is damaged.
    """
    found = find("cifar10", CIFAR10, "cifar10", path, cache, progress)
    pool, test = read_cifar10(found.path)
    return data_set(found, CIFAR10, pool, test, CIFAR10_CLASSES, Normalise(255.0, CIFAR10_MEAN, CIFAR10_STD))


def read_cifar10(path: str | Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Reads an archive of CIFAR-10's binary version.

    The format: a compressed tar with five files for training and one to test, each a row of records without a header.

    Returns:
        Images uint8 ``[N, 3, 32, 32]`` and labels int64 ``[N]`` of the pool, and the same of the test set.

    Raises:
        UserError: The file cannot be read or is not such an archive.
    """
    wanted = (*POOL_FILES, TEST_FILE)
    records: dict[str, np.ndarray] = {}
    try:
        with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as archive:
            for member in archive:  # in the order in which they come: going back would unpack all of it again
                file = Path(member.name).name
                if file in wanted and (stream := archive.extractfile(member)):
                    records[file] = _records(path, file, stream.read())
            while unpacked.read(1 << 20):  # at its end is the sum of the whole, which is checked there
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"'{path}' is no whole archive of CIFAR-10, cifar-10-binary.tar.gz: {why}.") from error
    if missing := [file for file in wanted if file not in records]:
        raise UserError(
            f"'{path}' has no {missing[0]}: it is not CIFAR-10's binary version, cifar-10-binary.tar.gz; "
            "that for Python or Matlab cannot be read."
        )
    return _images_and_labels([records[file] for file in POOL_FILES]), _images_and_labels([records[TEST_FILE]])


def _records(path: str | Path, file: str, content: bytes) -> np.ndarray:
    """One file's, uint8 ``[n, RECORD]``."""
    if not content or len(content) % RECORD:
        raise UserError(f"'{path}' is damaged: {file} has {len(content):,} bytes, and each image takes {RECORD:,}.")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    wrong = records[:, 0] >= len(CIFAR10_CLASSES)
    if wrong.any():
        at = int(wrong.argmax())
        raise UserError(
            f"'{path}' is damaged: image {at} of {file} has the label {records[at, 0]}; labels run from 0 to 9."
        )
    return records


def _images_and_labels(records: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    images = np.concatenate([part[:, 1:] for part in records]).reshape(-1, *IMAGE)
    labels = np.concatenate([part[:, 0] for part in records])
    return torch.from_numpy(images), torch.from_numpy(labels).long()
