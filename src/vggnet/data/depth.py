"""Pictures of more than 8 bits a channel: how many bits their values use, and the 8 highest of these."""

import struct
import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from vggnet.errors import ImageError

DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners use of a 16-bit file
BITS = "vggnet_bits"  # the key in `Image.info` for the bits that a file states
_REPLICATED = 257  # 8-bit values that were scaled up to 16 bits are multiples of it
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF


def bits_used(image: Image.Image) -> int:
    """How many bits of a channel a decoded picture uses; 8 for every mode but integer gray.

    For integer gray, it is what its file states, if all values fit; else the least of `DEPTHS` in which they fit.

    Example:
        >>> bits_used(Image.fromarray(np.array([[0, 4095]], np.uint16)))
        12
    """
    known: int = image.info.get(BITS, 8)
    return _bits_of(_shifted(image), image.info.get(BITS)) if image.mode.startswith("I") else known


def to_8_bits(image: Image.Image) -> Image.Image:
    """Gray of integers or floats as mode L: the 8 highest of the bits that are used.

    Floats up to 1 are a share of white; larger ones count as integers. A value that the file calls transparent becomes
    white.

    Raises:
        ImageError: a value is NaN or infinite.
    """
    transparent = np.asarray(image) == image.info.get("transparency", -1)
    values, stated = _shifted(image), image.info.get(BITS)
    gray = values >> (_bits_of(values, stated) - 8)
    return Image.fromarray(np.where(transparent, 255, gray).astype(np.uint8))


def stated_bits(image: ImageFile.ImageFile) -> int | None:
    """The bits of a channel that the header of a file states; None if it states no more than its storage.

    PNG states them in the chunk sBIT, TIFF by the tags BitsPerSample and MaxSampleValue. Pillow scales PGM by the
    largest value that it states.
    """
    is_wide = image.mode.startswith("I") or (bool(image.tile) and "16" in str(image.tile[0].args))
    if not is_wide or not image.tile:
        return None
    if image.format == "PNG":
        return _significant_bits(image)
    if image.format == "PPM":
        return 16 if image.tile[0].codec_name == "ppm" else None
    tags = getattr(image, "tag_v2", {})
    most, (bits, *_) = tags.get(_MAX_SAMPLE_VALUE, (0,)), tags.get(_BITS_PER_SAMPLE, (16,))
    most = int(most[0] if isinstance(most, tuple) else most)
    stated = most.bit_length() if 255 < most < 0xFFFF else int(bits)
    return stated if 8 < stated < 16 else None


def low_bytes(image: ImageFile.ImageFile) -> Image.Image | None:
    """The low bytes of a 16-bit color image, of which Pillow takes the high ones; None for other images.

    Args:
        image: not decoded yet. It is decoded here.
    """
    if image.mode not in ("RGB", "RGBA") or not image.tile:
        return None
    first = image.tile[0].args
    raw, *rest = (first,) if isinstance(first, str) else first or ("",)
    kind, _, depth = str(raw).rpartition(";")
    if depth not in _OTHER_BYTE:
        return None
    raw = "RGBA" if kind == "LA" else f"{kind};{_OTHER_BYTE[depth]}"  # gray and alpha: their four bytes are channels
    image.tile = [tile._replace(args=raw if isinstance(first, str) else (raw, *rest)) for tile in image.tile]
    image.load()
    if kind != "LA":
        return image
    _, gray, _, alpha = image.split()
    return Image.merge("RGBA", (gray, gray, gray, alpha))


def join_bytes(high: Image.Image, low: Image.Image, stated: int | None) -> int:
    """Replace the high bytes of a 16-bit color image by the 8 highest of the bits that are used.

    Args:
        high: the image, which is changed.
        low: the low bytes.
        stated: bits that the file states.

    Returns:
        The bits that are used.
    """
    values = np.asarray(high).astype(np.int64) << 8 | np.asarray(low)
    bits = _bits_of(values[..., :3], stated)
    colors = (values >> (bits - 8)).clip(max=255).astype(np.uint8)
    if high.mode == "RGBA":
        colors[..., 3] = np.asarray(high)[..., 3] if values[..., 3].max() >= 1 << bits else colors[..., 3]
    high.paste(Image.fromarray(colors))
    return bits


def _shifted(image: Image.Image) -> NDArray[np.int64]:
    """Whole numbers from 0 on.  Raises: ImageError."""
    values = np.asarray(image)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ImageError("holds values that are not finite (NaN or infinite); expected numbers everywhere.")
        values = np.rint(values * 255.0 if values.max(initial=0) <= 1 else values)
    whole = values.astype(np.int64)
    return whole - min(int(whole.min(initial=0)), 0)


def _bits_of(values: NDArray[np.int64], stated: int | None) -> int:
    most = int(values.max(initial=0))
    if stated is not None and most < 1 << stated:
        return stated
    if most > 255 and not (values % _REPLICATED).any():
        return 16
    return next((bits for bits in DEPTHS if most < 1 << bits), most.bit_length())


def _significant_bits(image: ImageFile.ImageFile) -> int | None:
    """The largest of the numbers in the chunk sBIT of a PNG (W3C PNG specification, 11.3.2.4)."""
    stream = image.fp
    assert stream is not None  # it is not decoded yet
    before = stream.tell()
    try:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"sBIT":
                return max(stream.read(min(length, 3)), default=0) or None
            if kind == b"IDAT":
                return None
            stream.seek(length + 4, 1)
        return None
    finally:
        stream.seek(before)
