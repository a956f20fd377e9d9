"""Pictures of 10 to 32 bits a channel keep 8 bits of those that they use."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vggnet.data.decoding import as_viewed, decode_image, open_image
from vggnet.errors import ImageError

RNG = np.random.default_rng(0)


def encoded(values, file_format, **options):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, file_format, **options)
    return stream.getvalue()


def png(values, significant=None):
    """A 16-bit PNG by hand: gray (h, w), with alpha (h, w, 2), color (h, w, 3 or 4); `significant` is for sBIT."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    channels = 1 if values.ndim == 2 else values.shape[2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    sbit = chunk(b"sBIT", bytes([significant] * channels)) if significant else b""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    data = chunk(b"IHDR", header) + sbit + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def random(bits, shape=(16, 16)):
    values = RNG.integers(0, 1 << bits, shape).astype(np.uint16)
    values.flat[0] = (1 << bits) - 1
    return values


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "mode I", "mode I;16"])
def test_gray_keeps_its_highest_8_bits(bits, kind):
    """Oracle: v // 2^(bits - 8), by hand; today's high byte of 16 leaves 16 levels of 12 bits."""
    values = random(bits)
    if kind == "mode I":
        image = as_viewed(Image.fromarray(values.astype(np.int32)))
    elif kind == "mode I;16":
        image = as_viewed(Image.fromarray(values))
    else:
        stored = open_image(encoded(values, kind))
        assert stored.bits == bits
        image = stored.decode()
    np.testing.assert_array_equal(np.asarray(image)[..., 0], values // 2 ** (bits - 8))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("channels", [3, 4])
def test_color_keeps_its_highest_8_bits(bits, channels):
    """Oracle: as above; alpha is opaque."""
    values = random(bits, (16, 16, channels))
    if channels == 4:
        values[..., 3] = 0xFFFF
    stored = open_image(png(values))
    assert stored.bits == (bits if bits < 16 else 8)  # Pillow itself makes 8 bits of 16
    np.testing.assert_array_equal(np.asarray(stored.decode()), values[..., :3] // 2 ** (bits - 8))


def test_a_dark_picture_is_as_dark_as_its_file_says():
    """Oracle: 900 of 4,095 is 56 of 255, where the range alone would make it 10 bits."""
    values = np.full((4, 4), 900, np.uint16)
    assert np.asarray(decode_image(png(values, significant=12))).max() == 900 // 16
    assert np.asarray(decode_image(png(values))).max() == 900 // 4
    tiff = encoded(values, "TIFF", tiffinfo={281: 4095})
    assert np.asarray(decode_image(tiff)).max() == 900 // 16
    pgm = b"P5\n4 4\n4095\n" + values.astype(">u2").tobytes()
    assert np.asarray(decode_image(pgm)).max() == round(900 * 65535 / 4095) // 256
    color = np.full((4, 4, 3), 900, np.uint16)
    assert np.asarray(decode_image(png(color, significant=12))).max() == 900 // 16


def test_scaled_values_of_fewer_bits_are_not_scaled_again():
    """Oracle: the PNG specification: values are scaled to the full range, sBIT says how many bits there were."""
    values = random(12) * 16
    np.testing.assert_array_equal(np.asarray(decode_image(png(values, significant=12)))[..., 0], values // 256)


def test_replicated_8_bits():
    """Oracle: v * 257 of 65,535 is v of 255, however dark the picture is."""
    values = np.arange(12, dtype=np.uint16).reshape(3, 4)
    np.testing.assert_array_equal(np.asarray(decode_image(png(values * 257)))[..., 0], values)


def test_floats_and_negative_values():
    """Oracle: by hand."""
    shares = as_viewed(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)))
    assert np.asarray(shares)[0, :, 0].tolist() == [0, 128, 255]
    bytes_ = as_viewed(Image.fromarray(np.array([[0, 100, 255]], np.float32)))
    assert np.asarray(bytes_)[0, :, 0].tolist() == [0, 100, 255]
    hounsfield = as_viewed(Image.fromarray(np.array([[-1024, 0, 3071]], np.int32)))
    assert np.asarray(hounsfield)[0, :, 0].tolist() == [0, 64, 255]
    with pytest.raises(ImageError, match="not finite"):
        as_viewed(Image.fromarray(np.array([[0, np.nan]], np.float32)))
    with pytest.raises(ImageError, match="photo: .*not finite"):
        decode_image(encoded(np.array([[0, np.inf]], np.float32), "TIFF"), name="photo")


def test_gray_with_alpha_keeps_its_highest_8_bits():
    """Oracle: v // 16 for 12 bits in a 16-bit file, by hand; alpha is opaque."""
    gray = random(12)
    values = np.stack([gray, np.full_like(gray, 0xFFFF)], axis=-1)
    pixels = np.asarray(open_image(png(values, significant=12)).decode())
    np.testing.assert_array_equal(pixels[..., 0], gray // 16)


@pytest.mark.parametrize("most", [1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_netpbm_is_scaled_by_the_largest_value_that_it_states(most, kind):
    """Oracle: 255 v / most by hand, give or take 1 for rounding down or to the nearest; white is white."""
    values = RNG.integers(0, most + 1, (16, 16, 3) if kind == "P6" else (16, 16))
    values.flat[0] = most
    pixels = np.asarray(open_image(f"{kind}\n16 16\n{most}\n".encode() + values.astype(">u2").tobytes()).decode())
    expected = 255 * values / most if kind == "P6" else np.repeat(255 * values[..., None] / most, 3, axis=-1)
    assert np.abs(pixels - expected).max() < 1
    assert pixels[0, 0, 0] == 255
