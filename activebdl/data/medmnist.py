"""MedMNIST (Yang et al. 2023): medical images of many kinds, each set in the form of MNIST."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from activebdl.data import dataset
from activebdl.data._published import Published, data_set, find
from activebdl.data.dataset import ActiveDataset, Normalise
from activebdl.errors import UserError

ZENODO = "https://zenodo.org/records/10519652/files"
ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left", "lung-right",
    "pancreas", "spleen",
)  # fmt: skip
CLASSES = {
    "pathmnist": (
        "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
        "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
    ),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
        "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),  # grades of severity
    "breastmnist": ("malignant", "normal or benign"),
    "bloodmnist": (
        "basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil",
        "platelet",
    ),
    "tissuemnist": (
        "collecting duct or connecting tubule", "distal convoluted tubule", "glomerular endothelial cells",
        "interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments", "thick ascending limb",
    ),
    "organamnist": ORGANS,
    "organcmnist": ORGANS,
    "organsmnist": ORGANS,
}  # fmt: skip
SETS = {
    name: Published(f"{ZENODO}/{name}.npz?download=1", md5, pool, test)
    for name, md5, pool, test in (
        ("pathmnist", "a8b06965200029087d5bd730944a56c1", 89_996, 7_180),
        ("dermamnist", "0744692d530f8e62ec473284d019b0c7", 7_007, 2_005),
        ("octmnist", "c68d92d5b585d8d81f7112f81e2d0842", 97_477, 1_000),
        ("pneumoniamnist", "28209eda62fecd6e6a2d98b1501bb15f", 4_708, 624),
        ("retinamnist", "bd4c0672f1bba3e3a89f0e4e876791e4", 1_080, 400),
        ("breastmnist", "750601b1f35ba3300ea97c75c52ff8f6", 546, 156),
        ("bloodmnist", "7053d0359d879ad8a5505303e11de1dc", 11_959, 3_421),
        ("tissuemnist", "ebe78ee8b05294063de985d821c1c34b", 165_466, 47_280),
        ("organamnist", "68e3f8846a6bd62f0c9bf841c0d9eacc", 34_561, 17_778),
        ("organcmnist", "b9ceb9546e10131b32923c5bbeaea2b1", 12_975, 8_216),
        ("organsmnist", "9ab87b696fb54e2a387ebe992d6ed5f1", 13_932, 8_827),
    )
}
"""Version 3.0.2 of the sets of 28 x 28 that have one label for an image."""


@dataset("medmnist")
def medmnist(
    *, set: str | None = None, path: str | Path | None = None, cache: Path | None = None, progress: bool = True
) -> ActiveDataset:
    """A set of medical images by its name, set=pathmnist for one: tissue, blood, skin, CT, X-ray.

    The set's images for training are the pool and those to test the test set; those for validation are left out, for
    the labels of a run are all that it has. The images are licensed as CC BY 4.0, those of dermamnist as CC BY-NC 4.0.

    Args:
        set: One of pathmnist, dermamnist, octmnist, pneumoniamnist, retinamnist (its five grades taken as classes),
            breastmnist, bloodmnist, tissuemnist, organamnist, organcmnist, organsmnist; None means the one that the
            file at ``path`` is named after, and without a path pathmnist.
        path: A file like pathmnist.npz, with any number of images of any size; None takes the published one from the
            cache, and fetches it where it is not there.
        cache: See `activebdl.data.fetch`.
        progress: Whether to show progress bars.

    Raises:
        UserError: An unknown set, one with several labels for an image, a file that cannot be had or is damaged.
    """
    if set is None:  # pathmnist_64.npz is of pathmnist too
        set = "pathmnist" if path is None else Path(path).stem.partition("_")[0]
    if set == "chestmnist":
        raise UserError("chestmnist has several labels for one image, and activebdl needs one: take another set.")
    if set not in SETS:
        raise UserError(f"'{set}' is no set of MedMNIST that can be taken; the option set is one of {', '.join(SETS)}.")
    found = find(set, SETS[set], "medmnist", path, cache, progress)
    pool, test = read_medmnist(found.path)
    normalise = Normalise(255.0, 0.5, 0.5)  # as in the experiments of its authors
    return data_set(found, SETS[set], pool, test, CLASSES[set], normalise)


def read_medmnist(path: str | Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Reads a ``.npz`` file of MedMNIST's form.

    The format: arrays ``train_images``, uint8 ``[N, H, W]`` or ``[N, H, W, 3]``, and ``train_labels``, integers
    ``[N, 1]``; the same for test, and for val, which is not read.

    Returns:
        Images uint8 ``[N, channels, H, W]`` and labels int64 ``[N]`` of the pool, and the same of the test set.

    Raises:
        UserError: The file cannot be read or is not such a file.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for key in (f"{side}_{what}" for side in ("train", "test") for what in ("images", "labels")):
                with archive.open(f"{key}.npy") as stream:
                    arrays[key] = np.lib.format.read_array(stream, allow_pickle=False)
                    if stream.read(1):  # which also has the last of the array's bytes checked
                        raise ValueError(f"{key} goes on behind its end")
    except KeyError as error:
        raise UserError(f"'{path}' is not of MedMNIST's form: {str(error.args[0]).rstrip('.')}.") from error
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"'{path}' is no whole .npz file: {str(why).rstrip('.')}.") from error
    train, test = (_images_and_labels(path, side, arrays) for side in ("train", "test"))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise UserError(
            f"'{path}' is not of MedMNIST's form: its images for training have the shape {[*train[0].shape[1:]]}, and "
            f"those to test {[*test[0].shape[1:]]}."
        )
    return train, test


def _images_and_labels(path: str | Path, side: str, arrays: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    images, labels = arrays[f"{side}_images"], arrays[f"{side}_labels"]
    is_grey, is_colour = images.ndim == 3, images.ndim == 4 and images.shape[3] == 3
    if images.dtype != np.uint8 or not (is_grey or is_colour) or 0 in images.shape:
        raise UserError(
            f"'{path}' is not of MedMNIST's form: {side}_images is {images.dtype} {[*images.shape]}, and should be "
            "uint8 [N, height, width] or [N, height, width, 3]."
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise UserError(f"'{path}' has {labels.shape[1]} labels for one image, and activebdl needs one.")
    if labels.dtype.kind not in "iu" or labels.size != len(labels) or len(labels) != len(images):
        raise UserError(
            f"'{path}' is not of MedMNIST's form: {side}_labels is {labels.dtype} {[*labels.shape]}, and should be "
            f"integers [{len(images)}, 1]."
        )
    stacked = images[:, None] if is_grey else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return torch.from_numpy(stacked), torch.from_numpy(labels.reshape(-1).astype(np.int64))
