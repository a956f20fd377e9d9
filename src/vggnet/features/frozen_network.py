"""What distances and style transfer share: a network that does not learn, and the losses of Gatys et al.

Gatys, Ecker & Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016 (arXiv:1508.06576).
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from vggnet.accel.api import accelerate, restore
from vggnet.data.preprocess import Preprocess
from vggnet.errors import InputError, WeightsError
from vggnet.features.extractor import FeatureExtractor
from vggnet.models.vgg import VGG
from vggnet.weights.checkpoint import open_model

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
SLACK = 1e-4  # how far values may be outside of [-1, 1], for the rounding of whoever made the images


class FrozenFeatures(nn.Module):
    """Outputs of layers for RGB images in [-1, 1], of a copy of a network whose weights get no gradients.

    With a gradient for the images PyTorch's own convolutions run, else the fast ones: a gradient changes where a ReLU
    or a pool is undecided, as in flat parts of photos, so that the last bit of an activation can change it.
    `fast_gradient` uses the fast ones for both.
    Shapes: images (N, 3, H, W) -> {layer: (N, C, h, w)}.
    Raises: as `open_model` and FeatureExtractor; WeightsError for a network without preprocessing, or of other than
        three channels.
    """

    def __init__(self, model: VGG | Path | str, layers: Sequence[str], *, fast_gradient: bool = False) -> None:
        super().__init__()
        network = open_model(model, device=None if isinstance(model, VGG) else "cpu", accelerate=False).network
        if network.architecture.in_channels != 3:
            raise WeightsError(
                f"the model takes images of {network.architecture.in_channels} channels, but distances and style "
                "transfer are for RGB images. Use a model with 3 channels."
            )
        self.preprocess = Preprocess.of(network)
        exact, fast = copy.deepcopy([FeatureExtractor(network, layers) for _ in range(2)])  # with the same weights
        self._fast = [accelerate(fast).eval()]  # in a list, so that its weights do not count twice
        self.extractor = fast if fast_gradient else restore(exact).to(memory_format=torch.contiguous_format)
        self.requires_grad_(False)
        self.eval()

    @property
    def extractors(self) -> list[FeatureExtractor]:
        """Those with PyTorch's and with the fast convolutions."""
        return [self.extractor, *self._fast]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, so that batch norm does not learn either."""
        return super().train(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [-1, 1] -> {layer: (N, C, h, w)}."""
        wants_gradient = torch.is_grad_enabled() and images.requires_grad
        with nullcontext() if wants_gradient else torch.no_grad():
            extractor = self.extractor if wants_gradient else self._fast[0]
            return extractor(self.preprocess.from_minus_one_one(images))  # type: ignore[no-any-return]

    def pair(self, images: Tensor, others: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The features of both batches for each layer; an image that wants no gradient costs none."""
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


def gram(features: Tensor) -> Tensor:
    """Which channels are active together: (N, C, h, w) -> (N, C, C), averaged over the h w places (equation 3)."""
    rows = features.movedim(1, 3).flatten(1, 2)  # (N, h w, C), without a copy if channels come last
    return rows.mT @ rows / rows.shape[1]


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Equation 1, divided by the number of values so that it does not grow with the image: (N, C, h, w) -> (N,)."""
    return (features - target).square().mean((1, 2, 3)) / 2


def style_loss(grams: Tensor, target: Tensor) -> Tensor:
    """Equation 4, of one layer, between Gram matrices averaged over places: (N, C, C) -> (N,)."""
    return (grams - target).square().mean((1, 2)) / 4
