"""Items as pictures that people can look at."""

import io

import torch
from torch import Tensor

from activebdl.errors import UserError


def is_image(item: Tensor) -> bool:
    """Whether an item ``[...]`` is a picture: ``[1, H, W]`` grey or ``[3, H, W]`` in colours."""
    return item.dim() == 3 and item.shape[0] in (1, 3)


def png(item: Tensor, white: float = 255.0) -> bytes:
    """A picture ``[1 or 3, H, W]`` as the bytes of a PNG file.

    Args:
        item: Bytes are from 0 to ``white``; other numbers from the picture's least to its most.
        white: What a byte is in white.

    Raises:
        UserError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UserError("Pictures for people need Pillow: pip install pillow.") from None
    if item.dtype == torch.uint8:
        low, high = torch.tensor(0.0), torch.tensor(white)
    else:
        low, high = item.min(), item.max()
    shades = 255 * (item - low) / (high - low).clamp(min=1e-12)
    item = shades.clamp(0, 255).round().to(torch.uint8)
    pixels = item.permute(1, 2, 0).numpy() if item.shape[0] == 3 else item[0].numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
