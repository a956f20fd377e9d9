"""Near-copies: pictures that were saved again are found, other ones are not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vggnet.data.inspection import inspect
from vggnet.data.near_copies import count_near_copies, sketch


def drawing(seed, size=128):
    """Colored shapes at random places."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(random.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top, width, height = random.integers(0, size, 4) // np.array([1, 1, 2, 2])
        draw.ellipse([left, top, left + width, top + height], fill=tuple(random.integers(0, 256, 3).tolist()))
    return image


def saved_again(image, form="JPEG", side=None, **options):
    stream = io.BytesIO()
    (image.resize((side, side)) if side else image).save(stream, form, **options)
    return Image.open(stream).convert("RGB")


@pytest.mark.parametrize(
    "options", [{"quality": 40}, {"side": 70}, {"form": "PNG", "side": 256}, {"form": "WEBP", "quality": 50}]
)
def test_pictures_that_were_saved_again_are_found(options):
    """Oracle: all of forty, and none of forty others."""
    pictures = [drawing(seed) for seed in range(40)]
    others = np.array([sketch(drawing(seed)) for seed in range(100, 140)])
    copies = np.array([sketch(saved_again(picture, **options)) for picture in pictures])
    sketches = np.array([sketch(picture) for picture in pictures])
    assert count_near_copies(copies, sketches) == 40
    assert count_near_copies(copies, others) == 0


def test_what_shows_nothing_is_like_nothing():
    """Oracle: the contract: flat pictures, and noise that is flat from afar, have nothing to compare."""
    flat = np.array([sketch(Image.new("RGB", (64, 64), "gray"))] * 2)
    random = np.random.default_rng(0)
    noise = np.array([
        sketch(Image.fromarray(random.integers(80, 160, (320, 320, 3), np.uint8))) for _ in range(20)
    ])  # fmt: skip
    assert count_near_copies(flat, flat) == 0
    assert count_near_copies(noise[:10], noise[10:]) == 0


def test_an_inspection_counts_them(tmp_path):
    """Oracle: the copies that were put into the other split."""
    for split, first in (("train", 0), ("test", 50)):
        for name, offset in (("cat", 0), ("dog", 20)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(5):
                drawing(first + offset + number).save(folder / f"{number}.png")
    for number in range(3):
        saved_again(drawing(number), quality=60).save(tmp_path / "test" / "cat" / f"copy{number}.jpg")
    report = inspect(tmp_path)
    assert report.near_copies == {"test": 3}
    assert "test: 3 images look nearly like images of train" in report.as_table()
