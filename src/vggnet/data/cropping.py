"""Random crops of photos for training, drawn from (seed, epoch, index) alone. Only what a crop shows is resized."""

from math import exp, log, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from vggnet.data.draws import derive_seed

TRIES = 10  # to place a crop before the largest one in the middle is taken
MOST_ELONGATED = 4 / 3  # ratio of sides


def random_resized_crop(image: Image.Image, *, size: int, min_area: float, seed: int, epoch: int, index: int) -> Tensor:
    """A crop of `min_area` to 1 of the image's area and a ratio of sides in [3/4, 4/3], resized: uint8 (C, size, size).

    Szegedy et al. (arXiv:1409.4842, section 6): area evenly drawn, ratio evenly in its logarithm, place evenly. Resized
    by PyTorch's antialiased bilinear filter for bytes, which takes half the time of Pillow's.
    """
    random = _random(seed, epoch, index)
    for _ in range(TRIES):
        area = random.uniform(min_area, 1) * image.width * image.height
        ratio = exp(random.uniform(-log(MOST_ELONGATED), log(MOST_ELONGATED)))
        width, height = max(1, round(sqrt(area * ratio))), max(1, round(sqrt(area / ratio)))
        if width <= image.width and height <= image.height:
            left = int(random.integers(0, image.width - width, endpoint=True))
            top = int(random.integers(0, image.height - height, endpoint=True))
            break
    else:
        width = min(image.width, round(MOST_ELONGATED * image.height))
        height = min(image.height, round(MOST_ELONGATED * image.width))
        left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1)
    crop = pixels[None, :, top : top + height, left : left + width]
    return F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]


def scale_jittered_crop(
    image: Image.Image, *, size: int, scales: tuple[int, int], seed: int, epoch: int, index: int
) -> Tensor:
    """A random crop of the image resized so that its shorter side is S: uint8 (C, size, size).

    S is drawn evenly from the whole numbers `scales`, both ends included (the paper, section 3.1); size <= S. Pixels
    are those of the whole image resized by Pillow, as testing does it.
    """
    random = _random(seed, epoch, index)
    scale = int(random.integers(scales[0], scales[1], endpoint=True))
    ratio = scale / min(image.size)
    width, height = (max(scale, round(side * ratio)) for side in image.size)
    left = int(random.integers(0, width - size, endpoint=True))
    top = int(random.integers(0, height - size, endpoint=True))
    across, down = image.width / width, image.height / height
    right, bottom = min((left + size) * across, image.width), min((top + size) * down, image.height)
    box = (left * across, top * down, right, bottom)
    pixels: Tensor = pil_to_tensor(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return pixels


def _random(seed: int, epoch: int, index: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, epoch, index))
