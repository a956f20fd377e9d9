"""DISTS: structure and texture on VGG-16 (Ding et al., IEEE TPAMI 2022, arXiv:2004.07728)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.errors import ConfigError, WeightsError
from vggnet.features.frozen import FrozenFeatures, check_pair
from vggnet.features.lpips import LAYERS
from vggnet.features.pretrained import DEFAULT, installed_tensors

CHANNELS = (3, *LAYERS.values())  # the image itself is the first layer
C = 1e-6  # keeps the quotients of equations 4 and 5 finite


class DISTS(nn.Module):
    """Perceptual distance that forgives another sample of the same texture: 0 for the same image, below 1 for others.

    For every channel of the image and of five layers, the means (texture) and the covariance (structure) over all
    places are compared (equations 4 and 5) and added with weights that were learned (equation 6). The pools of the
    network give way to blurred ones (equation 3).
    weights: of VGG-16 on ImageNet, as FeatureExtractor takes them. The learned weights are read from the package
        DISTS-pytorch, which must be installed: pip install 'vggnet[distances]'.
    Shapes: two batches (N, 3, H, W) of RGB in [-1, 1] (the original takes [0, 1]), H and W at least 16 -> (N,).
        Differentiable for the images.
    Raises: ConfigError if the package is not installed; WeightsError for a damaged file, or another network than
        VGG-16; when called, InputError for other shapes or values.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, weights: Path | str = DEFAULT) -> None:
        super().__init__()
        alpha, beta = _learned()
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha / total, persistent=False)
        self.register_buffer("beta", beta / total, persistent=False)
        self.features = FrozenFeatures(weights, list(LAYERS))
        if (3, *self.features.extractor.channels.values()) != CHANNELS:
            raise WeightsError(f"{weights}: DISTS is made for the features of VGG-16 at its full width, not for these.")
        pools = [BlurredPool(channels) for channels in CHANNELS[1:-1]]
        for extractor in self.features.extractors:
            for stage, pool in zip(list(extractor.stages.values())[1:], pools, strict=True):
                assert isinstance(stage, nn.Sequential)
                stage[0] = pool
        self.eval()

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Two batches (N, 3, H, W) in [-1, 1] -> (N,)."""
        check_pair(images, others)
        pairs = [((images + 1) / 2, (others + 1) / 2), *self.features.pair(images, others)]
        similar = images.new_zeros(len(images))
        weights = zip(torch.split(self.alpha, list(CHANNELS)), torch.split(self.beta, list(CHANNELS)), strict=True)
        for (first, second), (alpha, beta) in zip(pairs, weights, strict=True):
            texture, structure = _similarities(first, second)
            similar = similar + texture @ alpha + structure @ beta
        return 1 - similar


class BlurredPool(nn.Module):
    """Root of the squares under a 3x3 Hann window, every second place: no aliasing (equation 3)."""

    window: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        hann = torch.tensor([0.25, 0.5, 0.25])
        window = (hann[:, None] * hann).expand(channels, 1, 3, 3)
        self.register_buffer("window", window.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        squares = F.conv2d(x.square(), self.window, stride=2, padding=1, groups=x.shape[1])
        return (squares + 1e-12).sqrt()


def _similarities(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Of the means and of the covariances over all places: (N, C, h, w) twice -> (N, C) twice."""
    mean_a, mean_b = first.mean((2, 3)), second.mean((2, 3))
    variance_a = (first - mean_a[:, :, None, None]).square().mean((2, 3))
    variance_b = (second - mean_b[:, :, None, None]).square().mean((2, 3))
    covariance = (first * second).mean((2, 3)) - mean_a * mean_b
    texture = (2 * mean_a * mean_b + C) / (mean_a.square() + mean_b.square() + C)
    structure = (2 * covariance + C) / (variance_a + variance_b + C)
    return texture, structure


def _learned() -> tuple[Tensor, Tensor]:
    """alpha and beta (1475,)."""
    tensors = installed_tensors("DISTS_pytorch", "weights.pt")
    if tensors is None:
        raise ConfigError("DISTS needs the package with its learned weights: pip install 'vggnet[distances]'.")
    return tensors["alpha"].flatten(), tensors["beta"].flatten()
