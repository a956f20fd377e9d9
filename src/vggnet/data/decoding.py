"""The one place where image files become pixels: formats allow-listed, sizes checked first, every failure one error."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vggnet.errors import DataError, ImageError, InputError, one_line

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MAX_PIXELS = 89_478_485  # 256 MiB of RGB; Pillow itself warns above

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_SIZES = f"expected 1 to {MAX_PIXELS:,}. Scale it down first."
_EXPECTED = "expected a JPEG, PNG, WebP, BMP or GIF image"


@dataclass(frozen=True)
class StoredImage:
    """An image of known size whose pixels may not be decoded yet. It is decoded once, as a picture or as an array.

    With `shrink` 2, 4 or 8 a JPEG is decoded to that part of its width and height, rounded up, from the low frequencies
    of each block of 8x8 pixels alone: in less time, and not for testing. Other formats are not shrunk.
    """

    image: Image.Image  # as stored, not turned upright
    name: str  # stands for it in messages
    mode: str = "RGB"  # of what `decode` returns

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as a viewer shows it."""
        width, height = self.image.size
        return (height, width) if _orientation(self.image) >= 5 else (width, height)

    def decode(self, shrink: int = 1) -> Image.Image:
        """The picture, as `decode_image` describes it.  Raises: ImageError if the data are damaged or truncated."""
        width, height = self.image.size
        with self.image, _whole(self.image, self.name):
            if shrink > 1:
                self.image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
            self.image.load()
            picture = as_viewed(self.image)
        return picture if picture.mode == self.mode else picture.convert(self.mode)

    def array(self, shrink: int = 1) -> NDArray[np.uint8]:
        """The same as (h, w), or (h, w, 3) for RGB. The usual JPEG takes a third less time, without Pillow's copies."""
        usual = "JPEG", "RGB", "RGB", 1
        stored = getattr(self.image, "fp", None)  # none once decoded
        if stored and (self.image.format, self.image.mode, self.mode, _orientation(self.image)) == usual:
            width, height = self.image.size
            with _whole(self.image, self.name):
                stored.seek(0)
                encoded = stored.read()
            with suppress(ValueError):  # what is damaged is for Pillow to say
                least = {"min_width": -(-width // shrink), "min_height": -(-height // shrink)}
                pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, **least)
                self.image.close()
                return pixels
        return np.array(self.decode(shrink))


def open_image(file: Path | bytes, *, name: str | None = None) -> StoredImage:
    """The image in a file, or in the bytes of one; of a JPEG only the header is read.

    `name` stands for the image in messages; the default is its path.
    Raises: ImageError, one line, if the file is missing, of another format, above MAX_PIXELS, damaged or truncated.
    """
    name = name or (str(file) if isinstance(file, Path) else "image")
    image = _open(file, name)
    width, height = image.size
    if not 1 <= width * height <= MAX_PIXELS:
        image.close()
        raise ImageError(f"has {width} x {height} pixels; {_SIZES}", name=name)
    if image.format != "JPEG":  # others may say how they are turned after their pixels
        with image, _whole(image, name):
            image.load()
    return StoredImage(image, name)


def decode_image(file: Path | bytes, *, name: str | None = None) -> Image.Image:
    """The picture in a file, or in the bytes of one, as a viewer shows it: mode RGB, 8 bits a channel.

    The EXIF orientation is applied, alpha is composited over white, 16-bit gray keeps its high byte (as Pillow does for
    16-bit RGB), an animation gives its first frame.
    `name` and raises: as open_image.
    """
    return open_image(file, name=name).decode()


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Files as given; each folder replaced by the image files below it (IMAGE_SUFFIXES), sorted.

    Raises: DataError if a path does not exist or a folder has no images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not found:
                raise DataError(
                    f"{path}: no images in this folder; expected files named *{', *'.join(IMAGE_SUFFIXES)}."
                )
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path}: does not exist; expected an image file or a folder of images.")
    return files


def _open(file: Path | bytes, name: str) -> Image.Image:
    """The header alone: size and format are known, no pixel is decoded."""
    if isinstance(file, Path) and not file.is_file():
        raise ImageError(f"{'is not a file' if file.exists() else 'does not exist'}; {_EXPECTED}.", name=name)
    try:
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"{_start(file)}; {_EXPECTED}.", name=name) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"has too many pixels; {_SIZES}", name=name) from error
    except Exception as error:  # format readers raise whatever their parsing runs into
        raise ImageError(f"cannot be opened ({one_line(error)}); {_EXPECTED}.", name=name) from error


def as_viewed(image: Image.Image | NDArray[np.uint8] | Tensor) -> Image.Image:
    """An image as a viewer shows it: upright by its EXIF orientation, mode RGB, alpha composited over white.

    Args:
        image: PIL image, uint8 array (H, W, 3) or (H, W), or uint8 tensor (3, H, W) or (1, H, W).

    Raises:
        InputError: for an array or a tensor of another shape or type.
    """
    return _to_rgb(_upright(image) if isinstance(image, Image.Image) else _from_array(image))


def _from_array(image: NDArray[np.uint8] | Tensor) -> Image.Image:
    array = image.cpu().movedim(0, -1).numpy() if isinstance(image, Tensor) and image.ndim == 3 else image
    is_image = isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.shape[2:] in ((), (1,), (3,))
    if not is_image or array.ndim < 2 or 0 in array.shape:
        raise InputError(
            f"the image is of {image.dtype} with shape {tuple(image.shape)}; expected a PIL image, a uint8 array "
            "(H, W, 3) or a uint8 tensor (3, H, W)."
        )
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


@contextmanager
def _whole(image: Image.Image, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # format readers raise whatever their parsing runs into
        raise ImageError(
            f"the {image.format} data is damaged or truncated ({one_line(error)}); "
            "expected a whole image. Replace or remove the file.",
            name=name,
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        return image  # Pillow would copy it
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata says nothing against the pixels
        return image


def _orientation(image: Image.Image) -> int:
    """By EXIF, 1 (upright) to 8; from 5 on width and height are exchanged."""
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata says nothing against the pixels
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit gray: Pillow's own conversion would clip it at 255
        gray16 = np.asarray(image)
        transparent = gray16 == image.info.get("transparency", -1)
        image = Image.fromarray(np.where(transparent, 255, gray16 >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _start(file: Path | bytes) -> str:
    """What an unknown file is, in words."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            file = stream.read(12)
    return f"unknown format or damaged header (it starts with {file[:12]!r})" if file else "the file is empty"
