"""The one place where image files become pixels: formats allow-listed, sizes checked first, every failure one error."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vggnet.errors import DataError, ImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MAX_PIXELS = 89_478_485  # 256 MiB of RGB; Pillow itself warns above

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_EXPECTED = "expected a JPEG, PNG, WebP, BMP or GIF image"


def decode_image(file: Path | bytes, *, name: str | None = None) -> Image.Image:
    """The picture in a file, or in the bytes of one, as a viewer shows it: mode RGB, 8 bits a channel.

    The EXIF orientation is applied, alpha is composited over white, 16-bit gray keeps its high byte (as Pillow does for
    16-bit RGB), an animation gives its first frame. `name` stands for the image in messages; the default is its path.
    Raises: ImageError, one line, if the file is missing, of another format, above MAX_PIXELS, damaged or truncated.
    """
    name = name or (str(file) if isinstance(file, Path) else "image")
    with _open(file, name) as image:
        width, height = image.size
        if not 1 <= width * height <= MAX_PIXELS:
            raise ImageError(
                f"{name}: has {width} x {height} pixels; expected 1 to {MAX_PIXELS:,}. Scale it down first."
            )
        try:
            image.load()
            return as_viewed(image)
        except Exception as error:  # format readers raise whatever their parsing runs into
            raise ImageError(
                f"{name}: the {image.format} data is damaged or truncated ({_one_line(error)}); "
                "expected a whole image. Replace or remove the file."
            ) from error


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
        raise ImageError(f"{name}: {'is not a file' if file.exists() else 'does not exist'}; {_EXPECTED}.")
    try:
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: {_start(file)}; {_EXPECTED}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: has too many pixels; expected 1 to {MAX_PIXELS:,}. Scale it down first.") from error
    except Exception as error:  # format readers raise whatever their parsing runs into
        raise ImageError(f"{name}: cannot be opened ({_one_line(error)}); {_EXPECTED}.") from error


def as_viewed(image: Image.Image) -> Image.Image:
    """An image as a viewer shows it: upright by its EXIF orientation, mode RGB, alpha composited over white."""
    return _to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata says nothing against the pixels
        return image


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
    return image.convert("RGB")


def _start(file: Path | bytes) -> str:
    """What an unknown file is, in words."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            file = stream.read(12)
    return f"unknown format or damaged header (it starts with {file[:12]!r})" if file else "the file is empty"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
