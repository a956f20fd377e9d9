"""DISTS."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.features.distance import LAYERS, Distance, check_full_vgg16, installed_tensors, weights_of_all
from vggnet.features.extractor import DEFAULT_MODEL, accepts_weights
from vggnet.features.frozen_network import FrozenFeatures, in_full_precision
from vggnet.models.vgg import VGG

DISTS_CHANNELS = (3, *LAYERS.values())  # the image itself is the first layer
DISTS_C = 1e-6  # keeps the quotients of equations 4 and 5 finite


class DISTS(Distance):
    """Perceptual distance that tolerates another sample of the same texture: 0 for equal images, below 1 for others.

    For every channel of the image and of five layers, the means (texture) and the covariance (structure) over all
    places are compared (equations 4 and 5) and added with learned weights (equation 6). The max pools of the network
    are replaced by blurred pools (equation 3). Differentiable for the images; the weights are frozen.

    Args:
        model: weights of VGG-16 on ImageNet, as for `LPIPS`. The learned weights are read from the package
            DISTS-pytorch, which must be installed.
        layers: {name: weight} of image, relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, whose weighted sum is taken;
            by default 1 for each, which is DISTS. Layers that are not named have weight 0.
        exact: see `FrozenFeatures`.

    Raises:
        ConfigError: there is no such layer, or a weight is negative or not finite.
        MissingDependencyError: the package DISTS-pytorch is not installed.
        WeightsError: a file is missing or damaged, or the network is not VGG-16.

    Source:
        Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", IEEE TPAMI 2022
        (arXiv:2004.07728).

    Example:
        >>> import vggnet
        >>> network = vggnet.create_model("vgg16", head="none")  # untrained
        >>> network.preprocess = vggnet.Preprocess.imagenet()
        >>> distance = DISTS(network)
        >>> image = torch.zeros(1, 3, 32, 32)
        >>> distance(image, image).tolist()
        [0.0]
    """

    alpha: Tensor
    beta: Tensor

    @accepts_weights
    def __init__(
        self,
        model: VGG | Path | str = DEFAULT_MODEL,
        layers: Mapping[str, float] | None = None,
        *,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.layer_weights = weights_of_all(["image", *LAYERS], layers)
        alpha, beta = _dists_weights()
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha / total, persistent=False)
        self.register_buffer("beta", beta / total, persistent=False)
        self.features = FrozenFeatures(model, list(LAYERS), exact=exact)
        check_full_vgg16("DISTS", self.features)
        pools = [BlurredPool(channels) for channels in DISTS_CHANNELS[1:-1]]
        for stage, pool in zip(list(self.features.extractor.stages.values())[1:], pools, strict=True):
            assert isinstance(stage, nn.Sequential)
            stage[0] = pool
        self.eval()

    def _compare(self, images: Tensor, others: Tensor) -> Tensor:
        pairs = [((images + 1) / 2, (others + 1) / 2), *self.features.pair(images, others)]
        channels = list(DISTS_CHANNELS)
        learned = zip(torch.split(self.alpha, channels), torch.split(self.beta, channels), strict=True)
        layers = []
        for weight, (first, second), (alpha, beta) in zip(self.layer_weights.values(), pairs, learned, strict=True):
            texture, structure = _differences(first, second)
            layers.append(weight * (texture @ alpha.to(texture.dtype) + structure @ beta.to(structure.dtype)))
        return torch.stack(layers).sum(0)


class BlurredPool(nn.Module):
    """Root of the squares under a 3x3 Hann window, at every second place, which avoids aliasing (DISTS, equation 3).

    Args:
        channels: of the maps.

    Example:
        >>> BlurredPool(3)(torch.ones(1, 3, 5, 4)).shape
        torch.Size([1, 3, 3, 2])
    """

    window: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        hann = torch.tensor([0.25, 0.5, 0.25])
        window = (hann[:, None] * hann).expand(channels, 1, 3, 3)
        self.register_buffer("window", window.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        values = in_full_precision(x)  # float16 has neither the squares nor 1e-12
        window = self.window.to(values.dtype)
        squares = F.conv2d(values.square(), window, stride=2, padding=1, groups=x.shape[1])
        return (squares + 1e-12).sqrt().to(x.dtype)


def _dists_weights() -> tuple[Tensor, Tensor]:
    """alpha and beta (1475,)."""
    tensors = installed_tensors("DISTS_pytorch", "DISTS-pytorch", "weights.pt")
    return tensors["alpha"].flatten(), tensors["beta"].flatten()


def _differences(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """1 less equations 4 and 5, of the means and of the deviations from them: (N, C, h, w) twice -> (N, C) twice.

    Written as squares, so that they are exactly 0 for equal images and never below.
    """
    mean_a, mean_b = first.mean((2, 3)), second.mean((2, 3))
    rest_a, rest_b = first - mean_a[:, :, None, None], second - mean_b[:, :, None, None]
    variances = rest_a.square().mean((2, 3)) + rest_b.square().mean((2, 3))
    texture = (mean_a - mean_b).square() / (mean_a.square() + mean_b.square() + DISTS_C)
    structure = (rest_a - rest_b).square().mean((2, 3)) / (variances + DISTS_C)
    return texture, structure
