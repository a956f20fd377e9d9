"""The interface of heads that take the maps of several layers; what a head of `nn.Sequential` takes is the last map."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.models.table1 import TOTAL_STRIDE, Level

Tapped = Callable[[Tensor, Sequence[str]], list[Tensor]]  # images and names of layers -> the maps of these


class MapHead(nn.Module, ABC):
    """What heads for pixels, for objects and for maps have in common.

    The features of a network end with the last layer that its head takes.

    Args:
        taps: names of the layers whose maps the head takes, the shallowest first.
        reach: how many pixels of the image beyond those that a cell stands for an output depends on, on each side,
            through the layers of the head alone.

    Attributes:
        taps, reach: as given.
        scores: the layers that depend on the number of classes.
        size: of the images in pixels, both sides; None for any size.
        ceil_pools: whether the pools of the network round sizes up.
        maps_for_convolution: whether the maps go into convolutions alone, so that they may be bfloat16.
    """

    scores: nn.ModuleDict
    size: int | None = None
    ceil_pools = False
    maps_for_convolution = False

    def __init__(self, taps: Sequence[str], reach: int) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.reach = reach

    @abstractmethod
    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of `taps` -> outputs."""

    def of_images(self, tapped: Tapped, images: Tensor) -> Tensor:
        """The outputs for images (N, C, H, W).

        Args:
            tapped: gives the maps of the network's layers.
            images: normalized.
        """
        outputs: Tensor = self(tapped(images, self.taps))
        return outputs


@torch.fx.wrap
def padded(images: Tensor) -> Tensor:
    """With zeros on the right and below, to multiples of 32. A traced network calls it as one operator."""
    down, right = (-size % TOTAL_STRIDE for size in images.shape[2:])
    return F.pad(images, (0, right, 0, down)) if down or right else images


# A head from the blocks of its network, its number of classes, and its dropout.
Builder = Callable[[Sequence[Level], int, float], MapHead]
