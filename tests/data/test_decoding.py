"""Every kind of sound picture comes out right, and nothing else comes out of a broken one than an ImageError."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from vggnet.data.decoding import MAX_PIXELS, decode_image, open_image
from vggnet.errors import ConfigError, ImageError

RNG = np.random.default_rng(0)
PHOTO = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((40, 24), Image.Resampling.BICUBIC)
)


ignore_deprecation = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


def encode(pixels, file_format, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, file_format, **options)
    return stream.getvalue()


def png(width, height, depth, color, rows, transparency=b""):
    """A PNG file by hand (W3C PNG specification, sections 5 and 11)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"tRNS", transparency) if transparency else b"",
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            chunk(b"IEND", b""),
        ]
    )


def torchvision_pixels(jpeg):
    tensor = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return tensor.permute(1, 2, 0).numpy()


def pixels_of(encoded):
    image = decode_image(encoded)
    assert image.mode == "RGB"
    return np.asarray(image)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))), st.sampled_from("PBWTM"))
def test_lossless_formats_keep_every_pixel(pixels, kind):
    """Oracle: the array that was written."""
    encoded = {
        "P": ("PNG", {}),
        "B": ("BMP", {}),
        "W": ("WEBP", {"lossless": True}),
        "T": ("TIFF", {}),
        "M": ("PPM", {}),
    }[kind]
    np.testing.assert_array_equal(pixels_of(encode(pixels, encoded[0], **encoded[1])), pixels)


@ignore_deprecation
def test_jpeg_equals_torchvision():
    """Oracle: torchvision's own libjpeg decoder."""
    encoded = encode(PHOTO, "JPEG", quality=90)
    assert abs(pixels_of(encoded).astype(int) - torchvision_pixels(encoded)).max() <= 2


@ignore_deprecation
def test_inverted_cmyk_jpeg_has_the_colors_of_the_picture():
    """Oracle: the flat colors put in, and torchvision. Adobe inverts CMYK: read straight, white turns black."""
    colors = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]], dtype=np.uint8)
    picture = np.repeat(np.repeat(colors[None], 16, 0), 16, 1)
    encoded = encode(picture, "JPEG", mode="CMYK", quality=100)
    assert b"Adobe" in encoded
    assert abs(pixels_of(encoded).astype(int) - picture).max() <= 4
    assert abs(pixels_of(encoded).astype(int) - torchvision_pixels(encoded)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(orientation, file_format):
    """Oracle: the EXIF 2.3 table (tag 0x0112): which side of the stored picture is the visual top and left."""
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),  # shown after a quarter turn clockwise
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}.get(file_format, {})
    if file_format == "AVIF":
        options = {"quality": 100, "subsampling": "4:4:4"}
    shown = pixels_of(encode(np.ascontiguousarray(stored), file_format, exif=exif, **options))
    assert shown.shape == upright.shape
    assert abs(shown.astype(int) - upright).max() <= 5


def test_damaged_exif_does_not_cost_the_picture():
    """Oracle: the same file without EXIF."""
    plain = encode(PHOTO, "PNG")
    damaged = encode(PHOTO, "PNG", exif=b"Exif\0\0no tiff header here")
    np.testing.assert_array_equal(pixels_of(damaged), pixels_of(plain))


@pytest.mark.parametrize("gray", [0, 1, 127, 254, 255])
def test_16_bit_gray_is_scaled(gray):
    """Oracle: 257 * v of 65,535 is v of 255, and Pillow opens the file as 16-bit gray."""
    encoded = png(3, 1, 16, 0, [np.full(3, 257 * gray, dtype=">u2").tobytes()])
    assert Image.open(io.BytesIO(encoded)).mode == "I;16"
    np.testing.assert_array_equal(pixels_of(encoded), np.full((1, 3, 3), gray))


def test_16_bit_gray_and_16_bit_color_agree():
    """Oracle: the high byte of each value, for both."""
    values = RNG.integers(0, 65536, 64).astype(">u2")
    gray = pixels_of(png(64, 1, 16, 0, [values.tobytes()]))
    color = pixels_of(png(64, 1, 16, 2, [np.repeat(values, 3).tobytes()]))
    np.testing.assert_array_equal(gray[0, :, 0], values // 256)
    np.testing.assert_array_equal(color, gray)


def test_transparent_value_of_16_bit_gray_is_white():
    """Oracle: by hand. tRNS names the transparent value."""
    values = struct.pack(">4H", 0x1234, 0x1235, 0, 0x8000)
    encoded = png(4, 1, 16, 0, [values], transparency=struct.pack(">H", 0x1234))
    assert pixels_of(encoded)[0, :, 0].tolist() == [255, 0x12, 0, 0x80]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_alpha_is_composited_over_white(mode, file_format):
    """Oracle: color * a + 255 * (1 - a), in floating point."""
    channels = len(mode)
    pixels = RNG.integers(0, 256, (6, 7, channels), dtype=np.uint8)
    encoded = encode(
        Image.fromarray(pixels, mode=None),
        file_format,
        **({"lossless": True, "exact": True} if file_format == "WEBP" else {}),
    )
    alpha = pixels[..., -1:] / 255
    expected = np.broadcast_to(pixels[..., :-1] * alpha + 255 * (1 - alpha), (6, 7, 3))
    assert abs(pixels_of(encoded) - expected).max() <= 1


def test_gray_and_one_bit():
    """Oracle: the values put in, in all three channels."""
    gray = RNG.integers(0, 256, (5, 6), dtype=np.uint8)
    np.testing.assert_array_equal(pixels_of(encode(gray, "PNG")), np.repeat(gray[..., None], 3, 2))
    bits = pixels_of(png(8, 1, 1, 0, [b"\xa5"]))
    assert bits[0, :, 0].tolist() == [255, 0, 255, 0, 0, 255, 0, 255]


def test_palette_with_and_without_transparency():
    """Oracle: the palette, looked up by hand; entry 1 has alpha 0, entry 2 alpha 128."""
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    assert pixels_of(encode(image, "PNG"))[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    mixed = pixels_of(encode(image, "PNG", transparency=bytes([255, 0, 128])))[0].astype(int)
    assert abs(mixed - [[10, 20, 30], [255, 255, 255], [162, 167, 172]]).max() <= 1
    keyed = pixels_of(encode(image, "GIF", transparency=1))[0]
    assert keyed.tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(file_format):
    """Oracle: the flat color of the first frame."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    encoded = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert np.unique(pixels_of(encoded).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


@pytest.mark.parametrize("file_format", ["ICO", "TGA", "JPEG2000", "PCX"])
def test_other_formats_are_refused(file_format):
    """Oracle: the allow-list. Pillow itself reads them."""
    message = r"^scan: unknown format .* expected a JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF or HEIC image\.$"
    with pytest.raises(ImageError, match=message):
        decode_image(encode(PHOTO, file_format), name="scan")


@pytest.mark.parametrize("size", [(30_000, 30_000), (MAX_PIXELS + 1, 1)])
def test_a_bomb_is_refused_from_its_header(size):
    """Oracle: the file ends after a few bytes of pixels, so that a decoder would complain of those instead."""
    with pytest.raises(ImageError, match=r"pixels; expected 1 to 89,478,485, .* set VGGNET_MAX_PIXELS"):
        decode_image(png(*size, 8, 0, [b"\0"]))


def test_the_limit_holds_when_pillow_has_none(monkeypatch):
    """Oracle: as above; other libraries lift Pillow's limit for the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="has 30000 x 30000 pixels"):
        decode_image(png(30_000, 30_000, 8, 0, [b"\0"]))


def test_the_limit_can_be_raised(monkeypatch):
    """Oracle: the picture that was written; numbers that are none are one line."""
    encoded = encode(PHOTO, "PNG")
    monkeypatch.setenv("VGGNET_MAX_PIXELS", str(PHOTO.shape[0] * PHOTO.shape[1] - 1))
    with pytest.raises(ImageError, match="has 40 x 24 pixels; expected 1 to 959"):
        decode_image(encoded)
    monkeypatch.setenv("VGGNET_MAX_PIXELS", str(PHOTO.shape[0] * PHOTO.shape[1]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own limit does not count
    np.testing.assert_array_equal(pixels_of(encoded), PHOTO)
    for wrong in ("many", "0", "1.5"):
        monkeypatch.setenv("VGGNET_MAX_PIXELS", wrong)
        with pytest.raises(ConfigError, match=f"VGGNET_MAX_PIXELS is '{wrong}'"):
            decode_image(encoded)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("limit", "times"), [(40 * 24, 1), (40 * 24 - 1, 2), (40 * 24 // 4, 2), (200, 4)])
def test_a_large_jpeg_is_decoded_reduced(monkeypatch, limit, times, turned):
    """Oracle: the picture that was written, averaged by Pillow over blocks of pixels."""
    smooth = Image.fromarray(PHOTO).resize((5, 3)).resize((40, 24), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 3
    encoded = encode(smooth, "JPEG", quality=100, subsampling=0, **({"exif": exif} if turned else {}))
    monkeypatch.setenv("VGGNET_MAX_PIXELS", str(limit))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    expected = np.asarray(smooth.reduce(times).rotate(180 if turned else 0))
    image = open_image(encoded)
    assert image.reduced == times
    assert image.size == (40 // times, 24 // times)
    for pixels in (np.asarray(image.decode()), open_image(encoded).array()):
        assert pixels.shape == expected.shape
        assert abs(pixels.astype(int) - expected).max() <= 12
    shrunk = open_image(encoded)
    assert shrunk.decode(2).size == (40 // times // 2, 24 // times // 2)


def test_a_jpeg_far_above_the_limit_is_refused(monkeypatch):
    """Oracle: the contract."""
    monkeypatch.setenv("VGGNET_MAX_PIXELS", "119")
    with pytest.raises(ImageError, match="has 40 x 24 pixels; expected 1 to 119, or 952 of a JPEG"):
        open_image(encode(PHOTO, "JPEG"))


TURNED = Image.Exif()
TURNED[0x0112] = 6
ENCODED = {
    "JPEG": encode(PHOTO, "JPEG"),
    "PNG": encode(PHOTO, "PNG"),
    "WEBP": encode(PHOTO, "WEBP"),
    "BMP": encode(PHOTO, "BMP"),
    "GIF": encode(PHOTO, "GIF"),
    "CMYK": encode(PHOTO, "JPEG", mode="CMYK"),
    "TURNED JPEG": encode(PHOTO, "JPEG", exif=TURNED),
    "TURNED PNG": encode(PHOTO, "PNG", exif=TURNED),
    "TIFF": encode(PHOTO, "TIFF", compression="tiff_lzw"),
    "PPM": encode(PHOTO, "PPM"),
    "AVIF": encode(PHOTO, "AVIF"),
    "GRAY 16": encode(Image.fromarray(RNG.integers(0, 4096, (24, 40)).astype(np.uint16)), "PNG"),
    "ANIMATION": encode(Image.fromarray(PHOTO), "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 24))]),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_half_a_file_is_refused(kind):
    """Oracle: half the bytes cannot hold all pixels."""
    encoded = ENCODED[kind]
    with pytest.raises(ImageError, match=r"^photo: ") as caught:
        decode_image(encoded[: len(encoded) // 2], name="photo")
    assert "\n" not in str(caught.value)


def image_or_message(encoded):
    try:
        return decode_image(encoded, name="photo").mode
    except ImageError as error:
        return "several lines" if "\n" in str(error) else str(error)


@settings(max_examples=400)
@given(st.sampled_from(sorted(ENCODED)), st.data())
def test_damage_gives_an_image_or_one_typed_line(kind, data):
    """Oracle: the contract. Cut anywhere, and up to four bytes changed anywhere."""
    damaged = bytearray(ENCODED[kind])
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=4)
    ):
        damaged[position] = value
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    assert image_or_message(damaged).startswith(("RGB", "photo: "))


@settings(max_examples=200)
@given(
    st.binary(max_size=64),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP"]),
)
def test_noise_is_refused(noise, signature):
    """Oracle: the contract; 64 random bytes after a signature are no image that Pillow may crash on."""
    assert image_or_message(signature + noise).startswith(("RGB", "photo: "))


def test_every_failure_of_a_reader_becomes_an_image_error(monkeypatch):
    """Oracle: the failures that Pillow documents for broken files."""
    for failure in (
        OSError,
        SyntaxError,
        MemoryError,
        ValueError,
        NotImplementedError,
        OverflowError,
        struct.error,
        EOFError,
    ):

        def fail(image, failure=failure):
            raise failure("first\nsecond")

        with monkeypatch.context() as patch:
            patch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", fail)
            with pytest.raises(ImageError, match=r"^photo: the PNG data is damaged or truncated \(first second\)"):
                decode_image(ENCODED["PNG"], name="photo")


def test_what_is_not_a_file(tmp_path):
    """Oracle: the contract."""
    with pytest.raises(ImageError, match=r"a\.png: does not exist; expected"):
        decode_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r": is not a file; expected"):
        decode_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: the file is empty; expected"):
        decode_image(tmp_path / "empty.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png: is not a file; expected"):
        decode_image(tmp_path / "pipe.png")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    """Oracle: the contract; the refusal is staged, for permissions do not bind every user."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(ENCODED["PNG"])
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match=r"a\.png: cannot be read \(\[Errno 13\] Permission denied\)"):
        decode_image(tmp_path / "a.png")


def test_a_path_and_its_bytes_give_the_same(tmp_path):
    """Oracle: each other; the suffix of the path lies on purpose."""
    (tmp_path / "photo.gif").write_bytes(ENCODED["JPEG"])
    assert decode_image(tmp_path / "photo.gif").tobytes() == decode_image(ENCODED["JPEG"]).tobytes()


SMOOTH = np.asarray(
    Image.fromarray(RNG.integers(60, 200, (5, 6, 3), dtype=np.uint8)).resize((83, 61), Image.Resampling.BICUBIC)
)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
def test_arrays_of_jpegs_are_pillows_pixels(options, shrink):
    """Oracle: Pillow, whose draft mode has the same scales; sides that 8 does not divide are rounded up."""
    encoded = encode(SMOOTH, "JPEG", quality=90, **options)
    theirs = Image.open(io.BytesIO(encoded))
    theirs.draft(None, (83 // shrink, 61 // shrink))
    ours = open_image(encoded).array(shrink)
    assert ours.shape == (-(-61 // shrink), -(-83 // shrink), 3)
    assert abs(ours.astype(int) - np.asarray(theirs)).max() <= 2


def test_an_eighth_is_the_mean_of_each_block():
    """Oracle: the lowest frequency of a block of 8x8 pixels is their mean (ITU-R T.81, A.3.3)."""
    encoded = encode(SMOOTH[:56, :80], "JPEG", quality=95, subsampling=0)
    means = pixels_of(encoded).reshape(7, 8, 10, 8, 3).mean((1, 3))
    assert abs(open_image(encoded).array(8) - means).max() <= 2
    assert abs(np.asarray(open_image(encoded).decode(8)) - means).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_shrunk_photos_stand_upright(orientation):
    """Oracle: the whole photo, turned by the test above, and the means of its blocks."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(SMOOTH[:56, :80], "JPEG", quality=95, subsampling=0, exif=exif)
    whole = pixels_of(encoded)
    height, width = whole.shape[:2]
    assert open_image(encoded).size == (width, height)
    means = whole.reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))
    assert abs(open_image(encoded).array(8) - means).max() <= 2


@pytest.mark.parametrize("kind", [*ENCODED, "GRAY JPEG", "ALPHA"])
def test_arrays_hold_the_picture(kind):
    """Oracle: `decode_image`, which the tests above hold to theirs. Only JPEGs can be shrunk."""
    others = {"GRAY JPEG": encode(PHOTO, "JPEG", mode="L"), "ALPHA": encode(PHOTO, "PNG", mode="RGBA")}
    encoded = {**ENCODED, **others}[kind]
    assert abs(open_image(encoded).array().astype(int) - pixels_of(encoded)).max() <= 2
    if kind in ("PNG", "WEBP", "BMP", "GIF", "ALPHA"):
        np.testing.assert_array_equal(open_image(encoded).array(8), pixels_of(encoded))


def test_an_array_again():
    """Oracle: the first time."""
    stored = open_image(ENCODED["JPEG"])
    picture = stored.decode()
    np.testing.assert_array_equal(stored.array(), np.asarray(picture))


@pytest.mark.parametrize("shrink", [1, 8])
@pytest.mark.parametrize("kind", ENCODED)
def test_no_array_of_half_a_file(kind, shrink):
    """Oracle: half the bytes cannot hold all pixels."""
    with pytest.raises(ImageError, match=r"^photo: "):
        open_image(ENCODED[kind][: len(ENCODED[kind]) // 2], name="photo").array(shrink)


def test_what_pillow_forgives_is_forgiven():
    """Oracle: Pillow reads a JPEG with two bytes too many after its first header; a strict decoder does not."""
    odd = ENCODED["JPEG"][:20] + b"\0\0" + ENCODED["JPEG"][20:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(odd)
    np.testing.assert_array_equal(open_image(odd).array(), np.asarray(Image.open(io.BytesIO(odd)).convert("RGB")))
