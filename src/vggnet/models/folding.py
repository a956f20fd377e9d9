"""Batch norm in eval mode as part of the convolution before it."""

from typing import cast

from torch import Tensor, nn


def fold_norm(kernel: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The convolution that does what a convolution and batch norm with its running statistics do.

    Batch norm in eval mode is y = g (x - m) / sqrt(v + eps) + b for each channel: the kernel W becomes
    W g / sqrt(v + eps), the bias (bias - m) g / sqrt(v + eps) + b.

    Args:
        kernel: (out_channels, in_channels, H, W).
        bias: (out_channels,); None for a convolution without.
        norm: of the convolution's outputs, with weights and running statistics.

    Returns:
        Kernel and bias in float64.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm2d(1, eps=3.0)
        >>> fold_norm(torch.ones(1, 1, 1, 1), torch.ones(1), norm)[1].item()
        0.5
    """
    mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    shifted = (0 if bias is None else bias.double()) - mean
    return kernel.double() * scale[:, None, None, None], shifted * scale + norm.bias.double()
