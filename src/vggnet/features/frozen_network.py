"""What distances and style transfer share: a network that does not learn, and the losses of Gatys et al.

Gatys, Ecker & Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016 (arXiv:1508.06576).
"""

import copy
from collections.abc import Sequence
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
        if torch.compiler.is_compiling() or is_vmapped(images):
            return self._layers(self.extractor, images)
        if torch.is_grad_enabled() and images.requires_grad:
            return self._layers(self.extractor, images)
        extractor = self._fast[0] if images.device.type == "cpu" else self.extractor  # the one that replicas have
        with torch.no_grad():
            return self._layers(extractor, images)

    def _layers(self, extractor: FeatureExtractor, images: Tensor) -> dict[str, Tensor]:
        """In the precision of the weights whatever autocast says, as float32 or float64."""
        weights = next(self.parameters())
        with torch.autocast(images.device.type, enabled=False):
            found = extractor(self.preprocess.from_minus_one_one(images).to(weights.dtype))
        return {name: in_full_precision(values) for name, values in found.items()}

    def pair(self, images: Tensor, others: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The features of both batches for each layer; an image that wants no gradient costs none."""
        firsts, seconds = self(images), self(others)
        return list(zip(firsts.values(), seconds.values(), strict=True))


def checked_pair(images: Tensor, others: Tensor, normalize: bool = False) -> tuple[Tensor, Tensor]:
    """Both batches, in [-1, 1] and at least float32; with `normalize` they are given in [0, 1].

    Raises: InputError unless both are RGB images (N, 3, H, W) of one shape, floats in that range; and for torch.fx.
    """
    if isinstance(images, torch.fx.Proxy):
        raise InputError(
            "torch.fx cannot trace a distance, which checks the values of its images. Use torch.export.export, or "
            "torch.compile(fullgraph=True)."
        )
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
    lowest, from_bytes = (0, "images / 255") if normalize else (-1, "images / 127.5 - 1")
    for tensor in (images, others):
        if not tensor.is_floating_point():
            raise InputError(f"expected floats in [{lowest}, 1], but got {tensor.dtype}. Pass {from_bytes}.")
        if torch.compiler.is_compiling() or is_vmapped(tensor):
            continue  # values are not known there
        low, high = (value.item() for value in tensor.detach().aminmax())
        if not lowest - SLACK <= low <= high <= 1 + SLACK:
            raise InputError(
                f"expected RGB values in [{lowest}, 1], but found {low:.4g} to {high:.4g}. For images in [0, 1] pass "
                f"normalize=True, for [-1, 1] normalize=False, for 0 to 255 {from_bytes}; clamp what a generator "
                "overshoots."
            )
    first, second = in_full_precision(images), in_full_precision(others)
    return (2 * first - 1, 2 * second - 1) if normalize else (first, second)


def is_vmapped(tensor: Tensor) -> bool:
    """Whether it stands for many tensors inside `torch.vmap`, where a value cannot decide anything."""
    return torch._C._functorch.is_batchedtensor(tensor)


def in_full_precision(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32: sums and squares of features overflow in float16."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


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
