"""Test-time augmentation for small images: one answer from several views of each."""

import torch.nn.functional as F
from torch import Tensor, nn


class SixViews(nn.Module):
    """A network that answers by the mean of its logits over six views, as airbench does (arXiv:2404.00498, 3.4).

    The image counts twice as much as each of its two shifts by one pixel, up left and down right, which reflect at the
    border; each of the three is seen as it is and mirrored.
    Shapes: images (N, C, H, W), normalised -> logits (N, num_classes).
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
