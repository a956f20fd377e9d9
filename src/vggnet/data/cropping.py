"""Random crops of photos for training, drawn from (seed, epoch, index) alone."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from vggnet.data.draws import derive_seed, uniform

SCALE, TOP, LEFT = range(100, 103)  # streams of random numbers, none of them an augmentation's


def random_resized_crop(image: Image.Image, *, size: int, min_area: float, seed: int, epoch: int, index: int) -> Tensor:
    """A crop of `min_area` to 1 of the image's area and a ratio of sides in [3/4, 4/3], resized: uint8 (C, size, size).

    Szegedy et al. (arXiv:1409.4842), as in torchvision. The result depends on the image and (seed, epoch, index)
    alone; the global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, epoch, index))
        top, left, height, width = v2.RandomResizedCrop.get_params(image, [min_area, 1.0], [3 / 4, 4 / 3])
    crop = v2.functional.resized_crop(image, top, left, height, width, [size, size])
    pixels: Tensor = v2.functional.pil_to_tensor(crop)
    return pixels


def scale_jittered_crop(
    image: Image.Image, *, size: int, scales: tuple[int, int], seed: int, epoch: int, index: int
) -> Tensor:
    """A random crop of the image resized so that its shorter side is S: uint8 (C, size, size).

    S is drawn evenly from the whole numbers `scales`, both ends included (the paper, section 3.1); size <= S. Only what
    the crop shows is resized, from the same pixels and with the same filter as if the whole image were.
    """
    low, high = scales
    scale = low + int(_draw(seed, epoch, index, SCALE) * (high - low + 1))
    ratio = scale / min(image.size)
    width, height = (max(scale, round(side * ratio)) for side in image.size)
    left = int(_draw(seed, epoch, index, LEFT) * (width - size + 1))
    top = int(_draw(seed, epoch, index, TOP) * (height - size + 1))
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    pixels: Tensor = v2.functional.pil_to_tensor(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return pixels


def _draw(seed: int, epoch: int, index: int, stream: int) -> float:
    """One number in [0, 1)."""
    return float(uniform(seed, epoch, np.array([index]), stream)[0])
