"""Pictures however they are given: paths, folders, the bytes of files, PIL images."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from vggnet.data.decoding import as_viewed, decode_image, image_files
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ImageError

Picture = Path | str | Image.Image | bytes
Named = tuple[str, Path | bytes | Image.Image]  # its path, or "image 3" for the third of those given


def named_pictures(images: Sequence[Picture] | Picture) -> Iterator[Named]:
    """Each picture under its name; a folder stands for every image below it.

    Raises: DataError for a folder without images.
    """
    for position, image in enumerate([images] if isinstance(images, Picture) else images, start=1):
        if isinstance(image, bytes | Image.Image):
            yield f"image {position}", image
        else:
            path = Path(image).expanduser()
            yield from ((str(file), file) for file in (image_files([path]) if path.is_dir() else [path]))


def read_picture(name: str, image: Path | bytes | Image.Image) -> Image.Image:
    """The picture, mode RGB, as a viewer shows it.  Raises: ImageError that begins with the name."""
    return as_viewed(image) if isinstance(image, Image.Image) else decode_image(image, name=name)


def read_pixels(picture: Named, preprocess: Preprocess) -> Tensor | ImageError:
    """uint8 (C, H, W) as the network's preprocessing sees it, or why there is none."""
    name, image = picture
    try:
        return preprocess.pixels(read_picture(name, image))
    except ImageError as error:
        return error if str(error).startswith(name) else ImageError(f"{name}: {error}")
