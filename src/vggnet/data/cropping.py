"""Random crops of photos for training."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from vggnet.data.draws import derive_seed


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
