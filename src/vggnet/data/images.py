"""Images in whatever form a caller has them: paths, folders, the bytes of files, open files, PIL images, arrays."""

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
from vggnet.errors import ImageError

Picture = Path | str | bytes | BinaryIO | Image.Image | NDArray[np.uint8] | Tensor
Pictures = Sequence[Picture] | Picture
Named = tuple[str, Path | bytes | Image.Image]  # its path, or "image 3" for the third of those given


def named_pictures(images: Pictures) -> Iterator[Named]:
    """Each image with a name for messages and results.

    Args:
        images: one image or a sequence of them: a path (`~` is the home folder), a folder, which stands for every
            image file below it, the bytes of a file, a binary file object, a PIL image, a uint8 array (H, W, 3) or
            (H, W), or a uint8 tensor (3, H, W). An array (N, H, W, 3) or a tensor (N, 3, H, W) is a sequence.

    Returns:
        Pairs of a name and a path, the bytes of a file or a PIL image. The name is the path, or "image 3" for the third
        of those given.

    Raises:
        DataError: for a folder without images.
        InputError: for an array or a tensor of another shape or type.

    Example:
        >>> [name for name, _ in named_pictures([np.zeros((8, 8, 3), np.uint8), "photo.jpg"])]
        ['image 1', 'photo.jpg']
    """
    for position, image in enumerate(_listed(images), start=1):
        if isinstance(image, str | Path):
            path = Path(image).expanduser()
            yield from ((str(file), file) for file in (image_files([path]) if path.is_dir() else [path]))
        elif isinstance(image, bytes | Image.Image):
            yield f"image {position}", image
        elif isinstance(image, np.ndarray | Tensor):
            yield f"image {position}", as_viewed(image)
        else:
            yield f"image {position}", image.read()


def read_picture(name: str, image: Path | bytes | Image.Image) -> Image.Image:
    """The image, mode RGB, as a viewer shows it.  Raises: ImageError with this name."""
    return as_viewed(image) if isinstance(image, Image.Image) else decode_image(image, name=name)


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
    one = isinstance(images, str | bytes | Path | Image.Image) or hasattr(images, "read")
    return [images] if one else images  # type: ignore[list-item, return-value]
