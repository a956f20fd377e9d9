"""Masks: the class of each pixel of an image, read and checked.

A mask is stored without loss as one channel of class indices, gray or with a palette. What is not to be counted is
IGNORED, however the data set marks it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.decoding import open_image
from vggnet.errors import ImageError

IGNORED = 255  # pixels without a class; in every data set, and whatever else it is told to ignore

Indices = NDArray[np.uint8]


def decode_mask(file: Path | bytes, *, name: str | None = None) -> Indices:
    """The class indices in an image file, (H, W), as they are stored.

    Args:
        file: a path, or the bytes of a file.
        name: stands for it in messages; by default its path.

    Raises:
        ImageError: it cannot be read, or it does not hold one channel of 8 bits without loss.

    Example:
        >>> from io import BytesIO
        >>> file = BytesIO()
        >>> Image.fromarray(np.array([[0, 3], [255, 1]], np.uint8)).save(file, "PNG")
        >>> decode_mask(file.getvalue()).tolist()
        [[0, 3], [255, 1]]
    """
    stored = open_image(file, name=name)
    if stored.image.format == "JPEG" or stored.image.mode not in ("L", "P", "1"):
        found = f"{stored.image.format} of mode {stored.image.mode}"
        stored.image.close()
        raise ImageError(
            f"is no mask, but {found}; expected PNG with one channel of 8 bits, the class index of each pixel (mode L, "
            "or P with a palette).",
            name=stored.name,
        )
    return np.array(stored.image, dtype=np.uint8)


def checked_mask(
    indices: Indices, *, size: tuple[int, int], num_classes: int, ignore_index: int | None, name: str
) -> Image.Image:
    """A mask whose pixels are classes or IGNORED, mode L.

    Args:
        indices: (H, W), as `decode_mask` gives them.
        size: width and height of the image in pixels.
        num_classes: of the data.
        ignore_index: what is to be ignored besides IGNORED.
        name: of the mask, for messages.

    Raises:
        ImageError: it has another size than the image, or an index that is no class.

    Example:
        >>> indices = np.array([[0, 11]], np.uint8)
        >>> mask = checked_mask(indices, size=(2, 1), num_classes=2, ignore_index=11, name="mask.png")
        >>> np.array(mask).tolist()
        [[0, 255]]
    """
    height, width = indices.shape
    if (width, height) != size:
        raise ImageError(
            f"the mask has {width} x {height} pixels, but its image {size[0]} x {size[1]}; expected the same size. "
            "Mend or remove both.",
            name=name,
        )
    is_ignored = indices == IGNORED
    if ignore_index is not None:
        is_ignored |= indices == ignore_index
    unknown = indices[~is_ignored & (indices >= num_classes)]
    if unknown.size:
        raise ImageError(
            f"the mask has the class index {int(unknown.max())}; expected 0 to {num_classes - 1}, or {IGNORED} for "
            "pixels to ignore. Mend the mask, name the class in classes.txt, or ignore the index (--ignore-index).",
            name=name,
        )
    return Image.fromarray(np.where(is_ignored, np.uint8(IGNORED), indices))


def largest_index(file: Path | bytes, ignore_index: int | None) -> int:
    """The largest class index in a mask that is not ignored; -1 if there is none, or the mask cannot be read.

    Args:
        file: a path, or the bytes of a file.
        ignore_index: what is to be ignored besides IGNORED.
    """
    try:
        indices = decode_mask(file)
    except ImageError:  # named when it is used
        return -1
    counts = np.bincount(indices.ravel(), minlength=IGNORED + 1)[:IGNORED]
    if ignore_index is not None:
        counts[ignore_index : ignore_index + 1] = 0
    return int(np.flatnonzero(counts).max(initial=-1))


def class_colors(count: int) -> Indices:
    """The palette of masks, a color for each class: uint8 (count, 3), as PASCAL VOC's.

    The bits of an index are spread over R, G and B.

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
