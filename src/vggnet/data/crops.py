"""Random crops of photos for training, drawn from (seed, epoch, index) alone. Only what a crop shows is resized.

A JPEG that is much larger than needed is decoded to a half, a quarter or an eighth of its size: never to less than
SPARE times what the crop needs, and the antialiased resizing does the rest.
"""

from math import exp, log, sqrt
from random import Random

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vggnet.data.counter_random import Domain, image_seed
from vggnet.data.decoding import StoredImage
from vggnet.data.pixels import to_tensor

TRIES = 10  # to place a crop before the largest one in the middle is taken
MOST_ELONGATED = 4 / 3  # ratio of sides
# Pixels on each axis for one of a crop, at least, where decoding shrinks. Against full decoding 62 photos then differ
# by 0.4 to 0.5 levels of 255 on average (the worst by 0.8) and by 7 at most; with 2 by 0.6 to 1.5 (3.1), and 13.
SPARE = 3


def random_resized_crop(
    image: StoredImage, *, size: int, min_area: float, seed: int, epoch: int, index: int, nearest: bool = False
) -> Tensor:
    """A crop of `min_area` to 1 of the image's area and a ratio of sides in [3/4, 4/3], resized: uint8 (C, size, size).

    Szegedy et al. (arXiv:1409.4842, section 6): area evenly drawn, ratio evenly in its logarithm, place evenly. Resized
    by PyTorch's antialiased bilinear filter for bytes, which takes a quarter of the time of Pillow's if the bytes of a
    pixel lie side by side, as in the result. Where decoding shrinks, the edges lie on its pixels.
    `nearest`: for a mask, which stays class indices; beside an image that decoding shrinks, it is off by a third of a
    pixel at most.
    """
    whole = image.size
    left, top, width, height = _area(whole, min_area, _random(seed, epoch, index))
    shrink = min(_shrink(min(width, height) / size), 8 // image.reduced)
    pixels = torch.from_numpy(image.array(shrink))
    shrunk = shrink if pixels.shape[1] < whole[0] else 1  # only JPEGs are
    left, top, width, height = (place // shrunk for place in (left, top, width, height))
    pixels = pixels.view(1, *pixels.shape[:2], -1)[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
    if nearest:
        return F.interpolate(pixels, (size, size), mode="nearest-exact")[0]
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)[0]


def _area(whole: tuple[int, int], min_area: float, random: Random) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random part of an image of this width and height."""
    for _ in range(TRIES):
        area = random.uniform(min_area, 1) * whole[0] * whole[1]
        ratio = exp(random.uniform(-log(MOST_ELONGATED), log(MOST_ELONGATED)))
        width, height = max(1, round(sqrt(area * ratio))), max(1, round(sqrt(area / ratio)))
        if width <= whole[0] and height <= whole[1]:
            return _integer(random, 0, whole[0] - width), _integer(random, 0, whole[1] - height), width, height
    width = min(whole[0], round(MOST_ELONGATED * whole[1]))
    height = min(whole[1], round(MOST_ELONGATED * whole[0]))
    return (whole[0] - width) // 2, (whole[1] - height) // 2, width, height


def _shrink(reduction: float) -> int:
    """By how much decoding may shrink what will be reduced so many times: 1, 2, 4 or 8."""
    return next((shrink for shrink in (8, 4, 2) if reduction >= SPARE * shrink), 1)


def scale_jittered_crop(
    image: StoredImage,
    *,
    size: int,
    scales: tuple[int, int],
    seed: int,
    epoch: int,
    index: int,
    nearest: bool = False,
) -> Tensor:
    """A random crop of the image resized so that its shorter side is S: uint8 (C, size, size).

    S is drawn evenly from the whole numbers `scales`, both ends included (the paper, section 3.1); size <= S. Pixels
    are those of the whole image resized by Pillow, as testing does it, but where decoding shrinks. `nearest`: for a
    mask, which stays class indices.
    """
    random = _random(seed, epoch, index)
    scale = _integer(random, *scales)
    whole = image.size
    width, height = (max(scale, round(side * scale / min(whole))) for side in whole)
    left, top = _integer(random, 0, width - size), _integer(random, 0, height - size)
    shrink = min(_shrink(min(whole) / scale), 8 // image.reduced)
    picture = image.decode(shrink)
    shrunk = shrink if picture.width < whole[0] else 1  # only JPEGs are
    limits = whole[0] / shrunk, whole[1] / shrunk
    across, down = limits[0] / width, limits[1] / height
    right, bottom = min((left + size) * across, limits[0]), min((top + size) * down, limits[1])
    box = (left * across, top * down, right, bottom)
    filter_ = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return to_tensor(picture.resize((size, size), filter_, box=box))


def _random(seed: int, epoch: int, index: int) -> Random:
    return Random(image_seed(Domain.RANDOM_CROP, seed=seed, epoch=epoch, index=index))


def _integer(random: Random, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return low + int(random.random() * (high - low + 1))
