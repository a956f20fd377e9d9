"""Copies of a picture agree in detail with it, other pictures do not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vggnet.features.alignment import agreement


def smooth_noise(seed, size=(160, 120)):
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def jpeg(image):
    content = io.BytesIO()
    image.save(content, "JPEG", quality=30)
    return Image.open(content)


COPIES = [
    lambda image: image,
    jpeg,
    lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    lambda image: image.convert("L"),
    lambda image: image.resize((50, 40)),
    lambda image: image.resize((400, 400)),
    lambda image: image.crop((5, 4, 155, 116)),
    lambda image: image.crop((2, 0, 160, 119)),
]


@pytest.mark.parametrize("copy", COPIES)
def test_copies_agree(copy):
    """Oracle: how the copy was made; in both orders."""
    image = smooth_noise(0)
    assert agreement(image, copy(image)) > 0.8
    assert agreement(copy(image), image) > 0.8


def test_others_do_not():
    """Oracle: pictures drawn independently, with the same lines and columns on top."""
    lines = np.full((120, 160, 3), 0, np.uint8)
    lines[::10], lines[:, ::20] = 255, 255
    first, second = (Image.blend(smooth_noise(seed), Image.fromarray(lines), 0.5) for seed in (1, 2))
    assert agreement(first, second) < 0.4
    assert agreement(first, first.rotate(180)) < 0.4


def test_pictures_without_details():
    """Oracle: two plain pictures cannot be told apart by details; a plain one has none of a drawn one."""
    assert agreement(Image.new("RGB", (40, 40), "red"), Image.new("RGB", (9, 5), "blue")) == 1
    assert agreement(Image.new("RGB", (40, 40), "red"), smooth_noise(0)) == 0
