"""Initialization of the weights: each rule with its source."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vggnet.models.detection_heads import UnitVectors


def init_he(layer: nn.Conv2d | nn.Linear) -> None:
    """He et al. (2015), normal, fan out, for convolutions; N(0, sd 0.01) for linear layers, as in torchvision."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(layer.weight, std=0.01)


def init_glorot(layer: nn.Conv2d | nn.Linear) -> None:
    """Glorot & Bengio (2010), uniform: the paper's footnote to section 3.1."""
    nn.init.xavier_uniform_(layer.weight)


def init_gaussian(layer: nn.Conv2d | nn.Linear) -> None:
    """The paper, section 3.1: normal, zero mean, variance 1e-2."""
    nn.init.normal_(layer.weight, std=0.1)


def init_dirac(layer: nn.Conv2d | nn.Linear) -> None:
    """The first filters pass their input channel on unchanged (Zagoruyko & Komodakis 2017), the others are He's."""
    init_he(layer)
    if isinstance(layer, nn.Conv2d):
        nn.init.dirac_(layer.weight[: layer.in_channels].detach())


def bilinear_kernel(channels: int, factor: int) -> Tensor:
    """The weights with which a transposed convolution enlarges each channel by bilinear interpolation.

    Args:
        channels: of input and output.
        factor: the stride, even; the kernel is twice as wide, and the padding is half the stride.

    Returns:
        float32 (channels, channels, 2 factor, 2 factor), 0 between different channels.

    Source:
        Long et al., "Fully Convolutional Networks for Semantic Segmentation" (arXiv:1411.4038), section 3.3.

    Example:
        >>> bilinear_kernel(1, 2)[0, 0, 0].mul(16).tolist()
        [1.0, 3.0, 3.0, 1.0]
    """
    distance = (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    line = 1 - distance
    return torch.eye(channels)[:, :, None, None] * (line[:, None] * line)


INITIALIZERS: dict[str, Callable[[nn.Conv2d | nn.Linear], None]] = {
    "he": init_he,
    "glorot": init_glorot,
    "gaussian": init_gaussian,
    "dirac": init_dirac,
}


def initialize(model: nn.Module, init: str) -> None:
    """Set every parameter and buffer in place: weights by `init`, biases 0, batch norm 1 and 0, SSD's factors 20.

    Transposed convolutions start as bilinear interpolation, whatever `init` is.

    Args:
        model: any model of convolutions, linear layers, batch norm, SSD's norm, and transposed convolutions that
            enlarge.
        init: a key of `INITIALIZERS`.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> initialize(layer, "he")
        >>> layer.bias.tolist()
        [0.0, 0.0]
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            INITIALIZERS[init](layer)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d | UnitVectors):
            layer.reset_parameters()
        elif isinstance(layer, nn.ConvTranspose2d):
            with torch.no_grad():
                layer.weight.copy_(bilinear_kernel(layer.in_channels, layer.stride[0]))
