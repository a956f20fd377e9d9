"""Content and style as features tell them (Gatys, Ecker & Bethge, CVPR 2016, arXiv:1508.06576)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vggnet.features.frozen import FrozenFeatures, check_pair
from vggnet.features.pretrained import DEFAULT
from vggnet.models.vgg import VGG

CONTENT_LAYERS = ("relu4_2",)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


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


class ContentDistance(nn.Module):
    """How differently two images are laid out: equation 1 on `layers`, averaged over values, then over layers.

    weights: as FeatureExtractor takes them.
    Shapes: two batches (N, 3, H, W) of RGB in [-1, 1] -> (N,). Differentiable for the images.
    Raises: ConfigError, WeightsError as FeatureExtractor; when called, InputError for other shapes or values.
    """

    def __init__(self, weights: VGG | Path | str = DEFAULT, layers: Sequence[str] = CONTENT_LAYERS) -> None:
        super().__init__()
        self.features = FrozenFeatures(weights, layers)
        self.eval()

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Two batches (N, 3, H, W) in [-1, 1] -> (N,)."""
        check_pair(images, others)
        return torch.stack([content_loss(a, b) for a, b in self.features.pair(images, others)]).mean(0)


class StyleDistance(nn.Module):
    """How differently two images are painted: equation 5, the mean of equation 4 over `layers`.

    weights, shapes, errors: as ContentDistance.
    """

    def __init__(self, weights: VGG | Path | str = DEFAULT, layers: Sequence[str] = STYLE_LAYERS) -> None:
        super().__init__()
        self.features = FrozenFeatures(weights, layers)
        self.eval()

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Two batches (N, 3, H, W) in [-1, 1] -> (N,)."""
        check_pair(images, others)
        pairs = self.features.pair(images, others)
        return torch.stack([style_loss(gram(a), gram(b)) for a, b in pairs]).mean(0)
