"""What all perceptual distances share: images that are checked, and a network that does not learn."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Self

import torch
from torch import Tensor, nn

from vggnet.accel.api import accelerate, restore
from vggnet.data.preprocess import Preprocess
from vggnet.errors import InputError, WeightsError
from vggnet.features.extractor import FeatureExtractor
from vggnet.features.pretrained import Source, feature_network

SLACK = 1e-4  # beyond [-1, 1], for the rounding of who made the images


class FrozenFeatures(nn.Module):
    """The outputs of layers for RGB images in [-1, 1]; a copy of the network's weights, which gets no gradients.

    Where a gradient for the images is wanted, PyTorch's own convolutions run, else the fast ones: a gradient jumps
    where a ReLU or a pool is undecided, as in flat parts of real pictures, so that the last bit of an activation can
    change it. `fast_gradient` takes the fast ones for both.
    Shapes: images (N, 3, H, W) -> {layer: (N, C, h, w)}.
    Raises: ConfigError, WeightsError as FeatureExtractor; WeightsError for a network of other than three channels.
    """

    def __init__(self, weights: Source, layers: Sequence[str], *, fast_gradient: bool = False) -> None:
        super().__init__()
        network = feature_network(weights)
        if network.architecture.in_channels != 3:
            raise WeightsError(
                f"the network takes images of {network.architecture.in_channels} channels; perceptual distances are of "
                "RGB images. Give weights of a network for those."
            )
        self.preprocess = network.preprocess or Preprocess.imagenet()
        exact, fast = copy.deepcopy([FeatureExtractor(network, layers) for _ in range(2)])  # with the same weights
        self._fast = [accelerate(fast).eval()]  # in a list, so that its weights do not count twice
        self.extractor = fast if fast_gradient else restore(exact).to(memory_format=torch.contiguous_format)
        self.requires_grad_(False)
        self.eval()

    @property
    def extractors(self) -> list[FeatureExtractor]:
        """Of both ways."""
        return [self.extractor, *self._fast]

    def train(self, mode: bool = True) -> Self:
        """Always in eval mode: what is frozen does not learn, nor does its batch norm."""
        return super().train(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [-1, 1] -> {layer: (N, C, h, w)}."""
        wants_gradient = torch.is_grad_enabled() and images.requires_grad
        with nullcontext() if wants_gradient else torch.no_grad():
            extractor = self.extractor if wants_gradient else self._fast[0]
            return extractor(self.preprocess.from_minus_one_one(images))  # type: ignore[no-any-return]

    def pair(self, images: Tensor, others: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each layer the features of both; where a gradient is wanted of one alone, the other costs none."""
        firsts, seconds = self(images), self(others)
        return list(zip(firsts.values(), seconds.values(), strict=True))


def check_pair(images: Tensor, others: Tensor) -> None:
    """Raises: InputError unless both are RGB images (N, 3, H, W) of one shape, floats in [-1, 1]."""
    if images.shape != others.shape:
        raise InputError(
            f"the images to compare have the shapes {tuple(images.shape)} and {tuple(others.shape)}; they must be "
            "the same. Resize or crop one of them."
        )
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise InputError(
            f"expected RGB images of shape (N, 3, H, W), but got {tuple(images.shape)}. Gray is RGB with the channel "
            "repeated: images.expand(-1, 3, -1, -1)."
        )
    for tensor in (images, others):
        if not tensor.is_floating_point():
            raise InputError(f"expected floats in [-1, 1], but got {tensor.dtype}. Pass images / 127.5 - 1.")
        low, high = (value.item() for value in tensor.detach().aminmax())
        if not -1 - SLACK <= low <= high <= 1 + SLACK:
            raise InputError(
                f"expected RGB values in [-1, 1], but found {low:.4g} to {high:.4g}. For images in [0, 1] pass "
                "2 * images - 1, for 0 to 255 images / 127.5 - 1, and clamp what a generator overshoots."
            )
