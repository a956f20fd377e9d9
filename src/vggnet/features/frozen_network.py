"""What distances and style transfer share: a network that does not learn, and the losses of Gatys et al.

Gatys, Ecker & Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016 (arXiv:1508.06576).
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from vggnet.accel.api import accelerate
from vggnet.accel.dispatch import is_recorded, is_wrapped
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

    On a CPU the fast convolutions run, also for the gradient of the images, which can be taken once. Its cosine to the
    gradient in float64 is above 0.9999: rounding decides a ReLU or a pool otherwise at few places. In compiled,
    exported and vmapped programs PyTorch's own operators run.

    Shapes: images (N, 3, H, W) -> {layer: (N, C, h, w)}.

    Args:
        model: as for `open_model`.
        layers: by the paper's names.
        exact: use PyTorch's own operators wherever a gradient is wanted. The gradient then differs from that of other
            packages in the last bits only, and has gradients itself.

    Raises:
        WeightsError: the network has no preprocessing, or other than three channels; and as `open_model`.
        ConfigError: as `FeatureExtractor`.
    """

    def __init__(self, model: VGG | Path | str, layers: Sequence[str], *, exact: bool = False) -> None:
        super().__init__()
        network = open_model(model, device=None if isinstance(model, VGG) else "cpu", accelerate=False).network
        if network.architecture.in_channels != 3:
            raise WeightsError(
                f"the model takes images of {network.architecture.in_channels} channels, but distances and style "
                "transfer are for RGB images. Use a model with 3 channels."
            )
        self.preprocess = Preprocess.of(network)
        self.exact = exact
        self.extractor = accelerate(copy.deepcopy(FeatureExtractor(network, layers)))
        self.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weight.device

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, so that batch norm does not learn either."""
        return super().train(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [-1, 1] -> {layer: (N, C, h, w)}."""
        return self._layers(images, recorded=is_recorded(images))

    def pair(self, images: Tensor, others: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The features of both batches for each layer, computed alike, so that equal images have equal ones.

        An image that wants no gradient costs none.
        """
        recorded = is_recorded(images) or is_recorded(others)
        firsts, seconds = (self._layers(batch, recorded=recorded) for batch in (images, others))
        return list(zip(firsts.values(), seconds.values(), strict=True))

    @property
    def _weight(self) -> Tensor:
        """One of them; the replicas of nn.DataParallel have no parameters, but these attributes."""
        return next(layer.weight for layer in self.extractor.modules() if isinstance(layer, nn.Conv2d))

    def _layers(self, images: Tensor, *, recorded: bool) -> dict[str, Tensor]:
        """In the precision of the weights whatever autocast says, as float32 or float64.

        recorded: whether to compute them as for a gradient, even if these images want none.
        """
        by_pytorch = torch.compiler.is_compiling() or is_wrapped(images)
        alike = recorded and not (by_pytorch or images.requires_grad)
        given = images.detach().requires_grad_() if alike else images
        extract = self._extract_by_pytorch if by_pytorch or (self.exact and recorded) else self.extractor
        with torch.autocast(images.device.type, enabled=False):
            found = extract(self.preprocess.from_minus_one_one(given).to(self._weight.dtype))
        maps = {name: in_full_precision(values) for name, values in found.items()}
        return {name: values.detach() for name, values in maps.items()} if alike else maps

    def _extract_by_pytorch(self, images: Tensor) -> dict[str, Tensor]:
        """As the extractor, without the engine."""
        self.extractor.check(images)
        maps: dict[str, Tensor] = {}
        for name, stage in self.extractor.stages.items():
            for layer in stage.children():
                images = nn.Conv2d.forward(layer, images) if isinstance(layer, nn.Conv2d) else layer(images)
            maps[name] = images
        return maps


def checked_pair(images: Tensor, others: Tensor, normalize: bool, checked: set[torch.device]) -> tuple[Tensor, Tensor]:
    """Both batches, in [-1, 1] and at least float32; with `normalize` they are given in [0, 1].

    checked: devices on which the range of values is not checked any more, as that waits for the device; all but the
        CPU are added.

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
        if torch.compiler.is_compiling() or is_wrapped(tensor) or tensor.device in checked:
            continue  # values are not known there, or not looked at again
        low, high = (value.item() for value in tensor.detach().aminmax())
        if not lowest - SLACK <= low <= high <= 1 + SLACK:
            raise InputError(
                f"expected RGB values in [{lowest}, 1], but found {low:.4g} to {high:.4g}. For images in [0, 1] pass "
                f"normalize=True, for [-1, 1] normalize=False, for 0 to 255 {from_bytes}; clamp what a generator "
                "overshoots."
            )
    if images.device.type != "cpu" and not torch.compiler.is_compiling():
        checked.add(images.device)
    first, second = in_full_precision(images), in_full_precision(others)
    return (2 * first - 1, 2 * second - 1) if normalize else (first, second)


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
