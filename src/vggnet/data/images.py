"""Images in whatever form a caller has them: paths, folders, the bytes of files, open files, PIL images, arrays."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vggnet.data.decoding import as_viewed, decode_image
from vggnet.data.formats import image_files
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ImageError, InputError, one_line

Picture = Path | str | bytes | BinaryIO | Image.Image | NDArray[np.uint8] | Tensor
Pictures = Sequence[Picture] | Picture
Named = tuple[str, Path | bytes | Image.Image | ImageError]  # its path, or "image 3" for the third of those given


def named_pictures(images: Pictures) -> Iterator[Named]:
    """Each image with a name for messages and results.

    Args:
        images: one image or a sequence of them: a path (`~` is the home folder), a folder, which stands for every
            image file below it, the bytes of a file, a binary file object, a PIL image, a uint8 array (H, W, 3) or
            (H, W), or a uint8 tensor (3, H, W). An array (N, H, W, 3) or a tensor (N, 3, H, W) is a sequence.

    Returns:
        Pairs of a name and a path, the bytes of a file or a PIL image. The name is the path, or "image 3" for the third
        of those given. One of several that is no image, or cannot be read, has an `ImageError` instead.

    Raises:
        DataError: for a folder without images.
        InputError: for a single image that is none of these, or an array or a tensor of another shape or type.

    Example:
        >>> [name for name, _ in named_pictures([np.zeros((8, 8, 3), np.uint8), "photo.jpg"])]
        ['image 1', 'photo.jpg']
    """
    several = _listed(images)
    for position, image in enumerate(several, start=1):
        if isinstance(image, str | Path):
            path = Path(image).expanduser()
            is_folder = os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises for a name that is too long)
            yield from ((str(file), file) for file in (image_files([path]) if is_folder else [path]))
        elif several is images and not isinstance(images, np.ndarray | Tensor):
            yield f"image {position}", _held_or_error(image, f"image {position}")
        else:
            yield f"image {position}", _held(image)


def _held(image: Picture) -> bytes | Image.Image:
    """What is in memory of an image.  Raises: InputError if it is none."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray | Tensor):
        return as_viewed(image)
    content = image.read() if hasattr(image, "read") else None
    if not isinstance(content, bytes):
        kind = "a file in text mode" if isinstance(content, str) else f"of type {type(image).__name__}"
        raise InputError(
            f"the image is {kind}; expected a path, the bytes of a file, a binary file, a PIL image, a uint8 array or "
            "a uint8 tensor."
        )
    return content


def _held_or_error(image: Picture, name: str) -> bytes | Image.Image | ImageError:
    try:
        return _held(image)
    except Exception as error:  # whatever reading somebody's file object runs into
        return ImageError(f"cannot be read ({one_line(error)})", name=name)


def read_picture(name: str, image: Path | bytes | Image.Image | ImageError) -> Image.Image:
    """The image, mode RGB, as a viewer shows it.  Raises: ImageError with this name."""
    if isinstance(image, ImageError):
        raise image
    try:
        return as_viewed(image) if isinstance(image, Image.Image) else decode_image(image, name=name)
    except ImageError as error:
        raise error.named(name) from error


def read_pixels(picture: Named, preprocess: Preprocess) -> Tensor | ImageError:
    """The image resized and cropped, uint8 (C, crop, crop), or the error if it cannot be read."""
    name, image = picture
    try:
        return preprocess.pixels(read_picture(name, image))
    except ImageError as error:
        return error.named(name)


def _listed(images: Pictures) -> Iterable[Picture]:
    if isinstance(images, np.ndarray | Tensor):
        return images if images.ndim == 4 else [images]
    one = isinstance(images, str | bytes | bytearray | memoryview | Path | Image.Image) or hasattr(images, "read")
    return images if not one and isinstance(images, Iterable) else [images]  # type: ignore[list-item, return-value]
