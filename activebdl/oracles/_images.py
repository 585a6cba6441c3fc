"""Items as pictures that people can look at."""

import io

import torch
from torch import Tensor

from activebdl.errors import UserError


def is_image(item: Tensor) -> bool:
    """Whether an item ``[...]`` is a picture: ``[1, H, W]`` grey or ``[3, H, W]`` in colours."""
    return item.dim() == 3 and item.shape[0] in (1, 3)


def png(item: Tensor) -> bytes:
    """A picture ``[1 or 3, H, W]`` as the bytes of a PNG file; bytes as they are, other numbers from least to most.

    Raises:
        UserError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UserError("Pictures for people need Pillow: pip install 'activebdl[cli]'.") from None
    if item.dtype != torch.uint8:
        low, high = item.min(), item.max()
        item = (255 * (item - low) / (high - low).clamp(min=1e-12)).round().to(torch.uint8)
    pixels = item.permute(1, 2, 0).numpy() if item.shape[0] == 3 else item[0].numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
