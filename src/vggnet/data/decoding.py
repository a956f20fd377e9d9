"""The one place where image files become pixels: formats allow-listed, sizes checked first, every failure one error."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from vggnet.data.depth import BITS, bits_used, join_bytes, low_bytes, stated_bits, to_8_bits
from vggnet.data.formats import EXPECTED, SUFFIXES, first_bytes, is_heic, open_heic, open_large
from vggnet.errors import ConfigError, ImageError, InputError, MissingDependencyError, one_line

MAX_PIXELS = 89_478_485  # 256 MiB of RGB; Pillow itself warns above
MAX_PIXELS_VARIABLE = "VGGNET_MAX_PIXELS"  # of the environment, for another limit
REDUCTIONS = (1, 2, 4)  # of width and height of a JPEG above the limit; it may have MAX_REDUCED times as many pixels
MAX_REDUCED = 8


@dataclass(frozen=True)
class StoredImage:
    """An image of known size whose pixels may not be decoded yet. It is decoded once, as a picture or as an array.

    With `shrink` 2, 4 or 8 a JPEG is decoded to that part of its width and height, rounded up, from the low frequencies
    of each block of 8x8 pixels alone: in less time, and not for testing. Other formats are not shrunk. A JPEG above the
    limit of pixels is decoded in this way in any case, `reduced` times smaller, and that is its size.
    """

    image: Image.Image  # as stored, not turned upright
    name: str  # stands for it in messages
    mode: str = "RGB"  # of what `decode` returns
    reduced: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as a viewer shows it."""
        width, height = self._stored_size()
        return (height, width) if _orientation(self.image) >= 5 else (width, height)

    @property
    def bits(self) -> int:
        """Bits of a channel that the stored values use; 8 or more."""
        return bits_used(self.image) if self.image.format != "JPEG" else 8

    def decode(self, shrink: int = 1) -> Image.Image:
        """The picture, as `decode_image` describes it.  Raises: ImageError if the data are damaged or truncated."""
        width, height = self.image.size
        with self.image, _whole(self.image, self.name):
            if (shrink := shrink * self.reduced) > 1:
                self.image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
            self.image.load()
            picture = as_viewed(self.image)
        return picture if picture.mode == self.mode else picture.convert(self.mode)

    def array(self, shrink: int = 1) -> NDArray[np.uint8]:
        """The same as (h, w), or (h, w, 3) for RGB. The usual JPEG takes a third less time, without Pillow's copies."""
        usual = "JPEG", "RGB", "RGB", 1
        stored = getattr(self.image, "fp", None)  # none once decoded
        if stored and (self.image.format, self.image.mode, self.mode, _orientation(self.image)) == usual:
            width, height = self._stored_size()
            with _whole(self.image, self.name):
                stored.seek(0)
                encoded = stored.read()
            with suppress(ValueError):  # what is damaged is for Pillow to say
                least = {"min_width": -(-width // shrink), "min_height": -(-height // shrink)}
                pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, **least)
                self.image.close()
                return pixels
        return np.array(self.decode(shrink))

    def _stored_size(self) -> tuple[int, int]:
        width, height = self.image.size
        return -(-width // self.reduced), -(-height // self.reduced)


def max_pixels() -> int:
    """The largest number of pixels of an image that is decoded: MAX_PIXELS, or what VGGNET_MAX_PIXELS says.

    Raises: ConfigError if that is no whole number above 0.
    """
    given = os.environ.get(MAX_PIXELS_VARIABLE)
    if not given:
        return MAX_PIXELS
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"{MAX_PIXELS_VARIABLE} is {given!r}; expected a number of pixels, such as 200000000.")
    return int(given)


def open_image(file: Path | str | bytes, *, name: str | None = None) -> StoredImage:
    """The image in a file, or in the bytes of one; of a JPEG only the header is read.

    A JPEG of more than `max_pixels` is decoded reduced; it may have MAX_REDUCED times as many.

    `name` stands for the image in messages; the default is its path.
    Raises: ImageError, one line, if the file is missing, of another format, above `max_pixels`, damaged or truncated.
    """
    file = file if isinstance(file, bytes) else Path(file).expanduser()
    name = name or (str(file) if isinstance(file, Path) else "image")
    image = _open(file, name)
    width, height = image.size
    limit, is_jpeg = max_pixels(), image.format == "JPEG"
    if not 1 <= width * height <= limit * (MAX_REDUCED if is_jpeg else 1):
        image.close()
        raise ImageError(
            f"has {width} x {height} pixels; expected 1 to {limit:,}, or {MAX_REDUCED * limit:,} of a JPEG. Scale it "
            f"down first, or set {MAX_PIXELS_VARIABLE} to a larger number.",
            name=name,
            may_pass=True,
        )
    if not is_jpeg:  # others may say how they are turned after their pixels
        with image, _whole(image, name):
            stated = stated_bits(image)
            image.load()
            if stated is not None:
                image.info[BITS] = stated
        _use_low_bytes(image, file, name, stated)
    reduced = next(times for times in REDUCTIONS if width * height <= limit * times**2)
    return StoredImage(image, name, reduced=reduced)


def decode_image(file: Path | str | bytes, *, name: str | None = None) -> Image.Image:
    """The picture in a file, or in the bytes of one, as a viewer shows it: mode RGB, 8 bits a channel.

    The EXIF orientation is applied, alpha is composited over white, and an animation gives its first frame. Of more
    than 8 bits a channel the 8 highest are kept of those that the image uses (`vggnet.data.depth.bits_used`).
    `name` and raises: as open_image.
    """
    return open_image(file, name=name).decode()


def _open(file: Path | bytes, name: str) -> ImageFile.ImageFile:
    """The header alone: size and format are known, no pixel is decoded."""
    try:
        if isinstance(file, Path) and not file.is_file():
            found = "is not a file" if file.exists() else "does not exist"
            raise ImageError(f"{found}; {EXPECTED}.", name=name, may_pass=True)
        try:
            return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=tuple(SUFFIXES))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            return open_large(file)  # `open_image` has a limit of its own
        except UnidentifiedImageError:
            if not is_heic(file):
                raise ImageError(f"{_start(file)}; {EXPECTED}.", name=name) from None
            return open_heic(file)
    except ImageError:
        raise
    except MissingDependencyError as error:
        raise ImageError(f"is a HEIC image: {error}", name=name, may_pass=True) from error
    except Exception as error:  # format readers raise whatever their parsing runs into
        if _is_of_the_system(error):
            raise _refused(error, name) from error
        raise ImageError(f"cannot be opened ({one_line(error)}); {EXPECTED}.", name=name) from error


def _is_of_the_system(error: Exception) -> bool:
    """Whether the operating system refused to read, rather than the data being wrong."""
    return isinstance(error, OSError) and error.errno is not None


def _refused(error: Exception, name: str | None) -> ImageError:
    return ImageError(
        f"cannot be read ({one_line(error)}); check its permissions and its disk, then try again.",
        name=name,
        may_pass=True,
    )


def _use_low_bytes(image: ImageFile.ImageFile, file: Path | bytes, name: str, stated: int | None) -> None:
    """Of 16-bit color that is as dark as if it used fewer bits, show those that it uses."""
    if image.mode not in ("RGB", "RGBA") or max(high for _, high in image.getextrema()[:3]) >= 1 << 14 - 8:  # type: ignore[misc]
        return
    with _open(file, name) as again, _whole(again, name):
        low = low_bytes(again)
        if low is not None:
            image.info[BITS] = join_bytes(image, low, stated)


def as_viewed(image: Image.Image | NDArray[np.uint8] | Tensor) -> Image.Image:
    """An image as a viewer shows it: upright by its EXIF orientation, mode RGB, alpha composited over white.

    Args:
        image: PIL image, uint8 array (H, W, 3) or (H, W), or uint8 tensor (3, H, W) or (1, H, W).

    Raises:
        InputError: for an array or a tensor of another shape or type.
        ImageError: for a PIL image that has no pixels, or cannot be decoded.
    """
    if not isinstance(image, Image.Image):
        return _to_rgb(_from_array(image))
    if 0 in image.size:
        raise ImageError(f"has {image.width} x {image.height} pixels; expected 1 or more.")
    with _whole(image, None):
        image.load()
        return _to_rgb(_upright(image))


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
def _whole(image: Image.Image, name: str | None) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise (error if name is None else error.named(name)) from error
    except Exception as error:  # format readers raise whatever their parsing runs into
        if _is_of_the_system(error):
            raise _refused(error, name) from error
        raise ImageError(
            f"the {image.format or 'PIL'} data is damaged or truncated ({one_line(error)}); "
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
    if image.mode[0] in "IF":  # Pillow's own conversion would clip it at 255
        image = to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _start(file: Path | bytes) -> str:
    """What an unknown file is, in words."""
    start = first_bytes(file)[:12]
    return f"unknown format or damaged header (it starts with {start!r})" if start else "the file is empty"
