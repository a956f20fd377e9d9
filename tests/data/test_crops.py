"""Random crops: against Pillow's resizing, and the ranges that they are drawn from."""

import io
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vggnet.data.crops import random_resized_crop, scale_jittered_crop
from vggnet.data.decoding import StoredImage, open_image


def stored(image: Image.Image) -> StoredImage:
    return StoredImage(image, "noise")


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def crop_of(image: Image.Image, scales: tuple[int, int], index: int = 0, size: int = 12) -> np.ndarray:
    pixels = scale_jittered_crop(stored(image), size=size, scales=scales, seed=3, epoch=1, index=index)
    return pixels.permute(1, 2, 0).numpy().astype(int)


@settings(max_examples=25)
@given(width=st.integers(12, 40), height=st.integers(12, 40), scale=st.integers(12, 26), index=st.integers(0, 99))
def test_it_is_a_crop_of_the_whole_image_resized(width, height, scale, index):
    """Oracle: Pillow resizes the whole image; one of its crops, tried by brute force, is the same to a level or two."""
    image = noise(width, height)
    whole = image.resize(
        [max(scale, round(side * scale / min(image.size))) for side in image.size], Image.Resampling.BILINEAR
    )
    crops = np.lib.stride_tricks.sliding_window_view(np.asarray(whole).astype(int), (12, 12), axis=(0, 1))
    differences = np.abs(crops - crop_of(image, (scale, scale), index).transpose(2, 0, 1)).max(axis=(2, 3, 4))
    assert differences.min() <= 2


def test_scales_are_drawn_evenly_from_the_whole_range():
    """Oracle: on a ramp as wide as it is high, the step from pixel to pixel tells the scale. Both ends are drawn."""
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 300).round().astype(np.uint8), (300, 1)))
    crops = (
        scale_jittered_crop(stored(ramp), size=90, scales=(100, 200), seed=0, epoch=0, index=i)[0] for i in range(400)
    )
    scales = np.array([255 * 89 / (int(rows[45, 89]) - int(rows[45, 0])) for rows in crops])
    assert scales.min() == pytest.approx(100, abs=3)
    assert scales.max() == pytest.approx(200, abs=6)
    assert scales.mean() == pytest.approx(150, abs=5)


def test_draws_are_functions_of_seed_epoch_and_index():
    """Oracle: the same numbers again, others for another image."""
    image = noise(50, 60)
    assert (crop_of(image, (20, 40)) == crop_of(image, (20, 40))).all()
    assert not (crop_of(image, (20, 40)) == crop_of(image, (20, 40), index=1)).all()


def test_every_place_can_be_cropped():
    """Oracle: by hand: an image of 14x13 has 3x2 crops of 12x12 at its own size."""
    image = noise(14, 13)
    found = {crop_of(image, (13, 13), index).tobytes() for index in range(200)}
    assert found == {
        np.asarray(image.crop((x, y, x + 12, y + 12))).astype(int).tobytes() for x in range(3) for y in (0, 1)
    }


def places(width: int, height: int, min_area: float, count: int = 400) -> np.ndarray:
    """Left, top, right and bottom of crops, (count, 4), read off images whose colors are ramps across and down."""
    across, down = np.linspace(0, 255, width), np.linspace(0, 255, height)
    ramps = np.stack(np.broadcast_arrays(across[None], down[:, None], 0), 2).round().astype(np.uint8)
    found = []
    for index in range(count):
        crop = random_resized_crop(
            stored(Image.fromarray(ramps)), size=64, min_area=min_area, seed=1, epoch=2, index=index
        )
        x, y = (crop[channel].double().mean(dim).numpy() / 255 for channel, dim in ((0, 0), (1, 1)))
        middles = np.arange(64) + 0.5
        edges = [np.polynomial.Polynomial.fit(middles, ramp, 1)(np.array([0, 64])) for ramp in (x, y)]
        (left, right), (top, bottom) = edges[0] * width, edges[1] * height
        found.append((left, top, right, bottom))
    return np.array(found)


def test_resized_crops_have_the_areas_and_ratios_of_the_paper():
    """Oracle: Szegedy et al.: areas even in [1/4, 1], ratios even in their logarithm; read off ramps."""
    left, top, right, bottom = places(300, 300, 0.25).T
    shares = (right - left) * (bottom - top) / 300**2
    ratios = (right - left) / (bottom - top)
    assert shares.min() == pytest.approx(0.25, abs=0.02)
    assert 0.9 < shares.max() < 1.04
    assert np.log(ratios).mean() == pytest.approx(0, abs=0.04)
    assert np.log(ratios).std() == pytest.approx(2 * np.log(4 / 3) / 12**0.5, abs=0.03)
    assert min(left.min(), top.min()) > -4
    assert max(right.max(), bottom.max()) < 304


def test_an_elongated_image_gives_its_largest_crop():
    """Oracle: by hand: of 400x40, no crop of nine tenths is 4:3; the largest in the middle is 53x40."""
    assert np.abs(places(400, 40, 0.9, count=3) - (173, 0, 226, 40)).max() < 3


def test_resized_crops_are_pillows_to_a_level():
    """Oracle: Pillow, of a whole image: the only crop of all its area."""
    image = noise(40, 40)
    ours = random_resized_crop(stored(image), size=24, min_area=1.0, seed=0, epoch=0, index=0).permute(1, 2, 0).numpy()
    theirs = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


SAMPLES = Path(sklearn.datasets.__file__).parent / "images"  # two photos of 640x427


@pytest.mark.parametrize("photo", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize(("size", "shrink"), [(100, 1), (71, 2), (35, 4), (17, 8)])
def test_shrunk_decoding_is_exact_enough(photo, size, shrink):
    """Oracle: Pillow's full decoding and antialiased resizing of the largest 4:3 in the middle, 569x427 by hand.

    Its edges are rounded down to the pixels that are decoded.
    """
    stored = open_image(SAMPLES / photo)
    ours = random_resized_crop(stored, size=size, min_area=1.0, seed=0, epoch=0, index=0).permute(1, 2, 0).numpy()
    left, width, height = (side // shrink * shrink for side in (35, 569, 427))
    whole = Image.open(SAMPLES / photo).crop((left, 0, left + width, height))
    differences = np.abs(ours.astype(int) - whole.resize((size, size), Image.Resampling.BILINEAR))
    if shrink == 1:
        assert differences.max() <= 1
    else:
        assert 0.1 < differences.mean() < 0.8
        assert differences.max() <= 8


@pytest.mark.parametrize(("scale", "shrunk"), [(100, False), (71, True), (53, True), (17, True)])
def test_shrunk_decoding_is_exact_enough_for_scale_jitter(scale, shrunk):
    """Oracle: Pillow resizes the whole photo; one of its crops, tried by brute force, is the same to these levels."""
    photo = Image.open(SAMPLES / "china.jpg")
    width = round(640 * scale / 427)
    whole = np.asarray(photo.resize((width, scale), Image.Resampling.BILINEAR)).astype(int)
    stored, size = open_image(SAMPLES / "china.jpg"), scale - 5
    crop = scale_jittered_crop(stored, size=size, scales=(scale, scale), seed=3, epoch=1, index=0).numpy().astype(int)
    crops = np.lib.stride_tricks.sliding_window_view(whole, (size, size), axis=(0, 1))
    differences = np.abs(crops - crop)
    best = differences.reshape(*differences.shape[:2], -1).mean(2)
    place = np.unravel_index(best.argmin(), best.shape)
    assert differences[place].max() <= (9 if shrunk else 2)
    assert (best.min() > 0.1) == shrunk


def test_a_crop_of_a_photo_is_the_same_from_path_and_bytes_png_and_jpeg(tmp_path):
    """Oracle: each other; a PNG of a JPEG's pixels takes another way through the decoders."""
    jpeg = SAMPLES / "flower.jpg"
    stream = io.BytesIO()
    Image.open(jpeg).save(stream, "PNG")
    crops = [
        random_resized_crop(open_image(file), size=64, min_area=0.25, seed=1, epoch=2, index=3).numpy().astype(int)
        for file in (jpeg, jpeg.read_bytes(), stream.getvalue())
    ]
    assert (crops[0] == crops[1]).all()
    assert np.abs(crops[0] - crops[2]).max() <= 3


def test_gray_networks_crop_gray():
    """Oracle: Pillow's conversion of the whole photo, of which the only 4:3 of all its height is taken."""
    stored = StoredImage(Image.open(SAMPLES / "flower.jpg"), "flower", mode="L")
    ours = random_resized_crop(stored, size=100, min_area=1.0, seed=0, epoch=0, index=0)
    theirs = Image.open(SAMPLES / "flower.jpg").convert("L").crop((35, 0, 35 + 569, 427))
    assert ours.shape == (1, 100, 100)
    assert np.abs(ours[0].numpy().astype(int) - theirs.resize((100, 100), Image.Resampling.BILINEAR)).max() <= 1
