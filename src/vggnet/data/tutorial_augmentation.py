"""The augmentation of the tutorial (`experiments/tutorial/`): torchvision's transforms, one Pillow image at a time.

Slow, and kept for two uses: the preset `article`, and as the reference that `BatchAugment` is measured against.
"""

from functools import cache

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from vggnet.data.counter_random import Domain, image_seed


@cache
def article_pipeline(height: int, width: int) -> transforms.Compose:
    """The transforms themselves: PIL image of this size -> uint8 (C, H, W), by torch's global generator."""
    return transforms.Compose(
        [
            transforms.RandomCrop((height, width), padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(15),
            transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            transforms.PILToTensor(),
        ]
    )


def article_augment(image: Image.Image, *, seed: int, epoch: int, index: int) -> Tensor:
    """Random crop (padding 4), flip, rotation up to 15 degrees, color jitter 0.2.

    PIL image of any size -> uint8 (C, H, W) of the same size; the tutorial's images are RGB, 32x32. The result depends
    on the image and (seed, epoch, index) alone; the global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        own = image_seed(Domain.TUTORIAL, seed=seed, epoch=epoch, index=index)
        torch.default_generator.manual_seed(own)  # torch.manual_seed would reseed GPUs too
        pixels: Tensor = article_pipeline(image.height, image.width)(image)
    return pixels
