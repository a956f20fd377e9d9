"""Colors of classes in masks."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IGNORED = 255  # index of pixels without a class; they stay as they are


def class_colors(count: int) -> NDArray[np.uint8]:
    """A color for each class, uint8 (count, 3), as PASCAL VOC's palette: the bits of an index spread over R, G and B.

    Args:
        count: of classes, at most 256.

    Example:
        >>> class_colors(3).tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    colors = np.zeros((count, 3), np.uint8)
    for index in range(count):
        for bit in range(8):
            colors[index, bit % 3] |= (index >> bit & 1) << 7 - bit // 3
    return colors


def overlaid_mask(image: Image.Image, mask: NDArray[np.uint8], count: int, opacity: float = 0.55) -> Image.Image:
    """An image with the colors of its classes over it.

    Args:
        image: mode RGB.
        mask: (H, W) class indices, of the same size; pixels of index 255 show the image alone.
        count: of classes.
        opacity: of the colors, 0..1.
    """
    palette = np.zeros((IGNORED + 1, 3), np.uint8)
    palette[:count] = class_colors(count)
    pixels = np.array(image)
    blended = (1 - opacity) * pixels + opacity * palette[mask]
    return Image.fromarray(np.where((mask == IGNORED)[..., None], pixels, blended.round()).astype(np.uint8))
