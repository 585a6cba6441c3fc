"""Folders of images, decoded when they are read: ``folder/class/file.png``."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from activebdl.data import dataset
from activebdl.data.dataset import ActiveDataset, Normalise
from activebdl.data.inputs import StreamedInputs, pixels
from activebdl.errors import UserError, words
from activebdl.targets import Classes

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
_MODES = {1: "L", 3: "RGB"}


@dataset("image_folder")
def image_folder(
    *, pool: str | Path, test: str | Path, size: tuple[int, int], channels: int = 3, workers: int = 0
) -> ActiveDataset:
    """Images in folders, ``pool/class/file.png``; the folders' names are the classes.

    Ids go by the files' names in alphabetical order. A digest of all names is part of the data set's own, so that a run
    does not go on when files were added or taken away, and ids mean other images.

    Args:
        pool: The folder of the pool. Images without folders of classes have no labels: an oracle of yours gives them.
        test: The folder of the test set, with a folder for each class.
        size: Height and width that every image is brought to.
        channels: 3 for colours, 1 for grey.
        workers: Processes that decode ahead.

    Raises:
        UserError: A folder that does not exist or holds no images, test images without a class, or no Pillow.
    """
    _pillow()
    if not _is_size(size) or channels not in _MODES:
        raise UserError(
            f"Images need a size (height, width) of 1 or more, and 1 or 3 channels, not {size!r} and {channels!r}."
        )
    folders = [Path(folder).expanduser() for folder in (pool, test)]
    files, test_files = (_images(folder) for folder in folders)
    known, test_known = _classes(folders[0], files), _classes(folders[1], test_files)
    if test_known is None:
        raise UserError(f"The images in '{folders[1]}' have no classes: put each into a folder of its class's name.")
    if known is not None and not {*known} & {*test_known}:
        raise UserError(
            f"The folders in '{folders[0]}' ({', '.join(sorted({*known})[:5])}) are none of the classes in "
            f"'{folders[1]}'; images without labels lie in the folder itself."
        )
    classes = sorted({*test_known, *(known or ())})
    number = {name: c for c, name in enumerate(classes)}
    digest = hashlib.blake2b("\n".join([*files, "", *test_files]).encode(errors="surrogateescape"), digest_size=4)
    inputs = [
        StreamedInputs(ImageFiles(folder, names, size, channels), workers)
        for folder, names in zip(folders, (files, test_files), strict=True)
    ]
    return ActiveDataset(
        name=f"{folders[0].resolve().name}-{size[0]}x{size[1]}x{channels}-{digest.hexdigest()}",
        pool=inputs[0],
        labels=None if known is None else torch.tensor([number[name] for name in known]),
        test=inputs[1],
        test_labels=torch.tensor([number[name] for name in test_known]),
        target=Classes(tuple(classes)),
        normalise=Normalise(255.0, 0.5, 0.25),  # about the mean and the deviation of photographs
    )


class ImageFiles(TorchDataset[Tensor]):
    """Images that are decoded when they are read: item i is uint8 ``[channels, H, W]``.

    Args:
        folder: Where they are.
        names: Their paths within it.
        size: H and W that each is brought to.
        channels: 1 or 3.
    """

    def __init__(self, folder: Path, names: Sequence[str], size: tuple[int, int], channels: int = 3) -> None:
        self.folder, self.names, self.size, self.channels = folder, names, size, channels

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Tensor:
        _pillow()
        from PIL import Image, ImageOps

        path = self.folder / self.names[i]
        height, width = self.size
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise UserError(
                        f"the image '{path}' has more than 8 bits a channel; give such a pool as a .npy file."
                    )
                upright = ImageOps.exif_transpose(image).convert(_MODES[self.channels])  # as a camera was held
                return pixels(upright.resize((width, height), Image.Resampling.BILINEAR))
        except UserError:
            raise
        except Exception as error:  # decoders raise a dozen kinds
            raise UserError(f"the image '{path}' cannot be decoded: {words(error)}.") from error


def _is_size(size: object) -> bool:
    return (
        isinstance(size, Sequence)
        and len(cast(Sequence[object], size)) == 2
        and all(isinstance(side, int) and side >= 1 for side in cast(Sequence[object], size))
    )


def _pillow() -> None:
    try:
        import PIL.Image  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise UserError("Images are decoded by Pillow: pip install 'activebdl[cli]' brings it.") from error


def _images(folder: Path) -> list[str]:
    """Paths of the images in a folder and those below it, ascending; nothing whose name begins with a dot."""
    if not folder.is_dir():
        raise UserError(f"There is no folder '{folder}' to read images from.")
    found: list[str] = []
    for at, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        images = (name for name in names if not name.startswith(".") and name.lower().endswith(SUFFIXES))
        found += [os.path.relpath(os.path.join(at, name), folder) for name in images]
    if not found:
        raise UserError(f"There are no images in '{folder}': no file there ends in {', '.join(SUFFIXES)}.")
    return sorted(found)


def _classes(folder: Path, names: Sequence[str]) -> list[str] | None:
    """The class of each image; None where all lie in the folder itself."""
    found = [os.path.split(name)[0].split(os.sep)[0] for name in names]
    bare = [name for name, of in zip(names, found, strict=True) if not of]
    if not bare:
        return found
    if len(bare) < len(names):
        raise UserError(f"'{folder / bare[0]}' lies beside folders of classes; each image has a class, or none has.")
    return None
