"""Several views of each image, and one answer from them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = 5  # crops along each side (paper, section 3.2)


class SixViews(nn.Module):
    """A network that answers by the mean of its logits over six views, as airbench does (arXiv:2404.00498, 3.4).

    The image counts twice as much as each of its two shifts by one pixel, up left and down right, which reflect at the
    border; each of the three is seen as it is and mirrored.
    Shapes: images (N, C, H, W), normalized -> logits (N, num_classes).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_classes = network.num_classes

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> mean logits (N, num_classes)."""
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        shifted = self._both(padded[:, :, :-2, :-2]) + self._both(padded[:, :, 2:, 2:])
        return self._both(images) / 4 + shifted / 8

    def _both(self, images: Tensor) -> Tensor:
        """The logits of the images and of their mirror images, added."""
        logits: Tensor = self.network(images) + self.network(images.flip(3))
        return logits


def grid_crops(images: Tensor, crop: int) -> Tensor:
    """The regular 5x5 grid of square crops: (N, C, H, W) -> (25, N, C, crop, crop), row by row.

    The outer ones touch the borders; the others lie evenly between, to the nearest pixel.
    """
    tops, lefts = (
        [round(i * (size - crop) / (GRID - 1)) for i in range(GRID)] for size in (images.shape[2], images.shape[3])
    )
    return torch.stack([images[:, :, top : top + crop, left : left + crop] for top in tops for left in lefts])
