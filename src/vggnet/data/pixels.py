"""Pictures as tensors of pixels, and back.

torchvision's functions do the same, but importing it takes as long as importing PyTorch, in every process.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(picture: Image.Image) -> Tensor:
    """The pixels of a picture, mode RGB or L -> uint8 (3, H, W) or (1, H, W), a copy.

    Example:
        >>> to_tensor(Image.new("RGB", (2, 1), (1, 2, 3))).tolist()
        [[[1, 1]], [[2, 2]], [[3, 3]]]
    """
    pixels = torch.from_numpy(np.array(picture))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def to_picture(pixels: Tensor) -> Image.Image:
    """The picture of uint8 pixels (3, H, W) or (1, H, W): mode RGB or L.

    Example:
        >>> to_picture(torch.zeros(1, 3, 4, dtype=torch.uint8)).size
        (4, 3)
    """
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
