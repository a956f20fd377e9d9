"""Convolution of maps of 2x2 pixels and below as one matrix product: every output pixel sees every input pixel.

An image is a row of H W C values, channels innermost. Output pixel o depends on input pixel i through the kernel's tap
i - o + 1, so the product's weight, (H W K, H W C), holds for each pair (o, i) one of the nine taps.
"""

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from vggnet.accel.threads import maps

LARGEST = 2  # side of a map


def expand(weight: Tensor, height: int, width: int) -> Tensor:
    """weight (K, C, 3, 3) -> (H W K, H W C) for maps of H x W, at most 2 x 2."""
    out_channels, in_channels = weight.shape[:2]
    pixels = height * width
    expanded = weight.new_empty(pixels, out_channels, pixels, in_channels)
    for o, i, row, column in _taps(height, width):
        expanded[o, :, i] = weight[:, :, row, column]
    return expanded.view(pixels * out_channels, pixels * in_channels)


def forward(x: Tensor, expanded: Tensor, bias: Tensor | None) -> Tensor:
    """x (N, C, H, W) channels-last by an expanded weight -> (N, K, H, W) channels-last."""
    height, width = x.shape[2:]
    y = maps(len(x), len(expanded) // (height * width), height, width)
    if bias is None:
        torch.mm(_as_rows(x), expanded.T, out=_as_rows(y))
    else:
        torch.addmm(bias.repeat(height * width), _as_rows(x), expanded.T, out=_as_rows(y))
    return y


def grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of x: grad (N, K, H, W) channels-last, weight (K, C, 3, 3) -> (N, C, H, W) channels-last."""
    result = maps(len(grad), weight.shape[1], *grad.shape[2:])
    torch.mm(_as_rows(grad), expand(weight, *grad.shape[2:]), out=_as_rows(result))
    return result


def grad_weight(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of weight: grad (N, K, H, W), x (N, C, H, W), both channels-last -> (K, C, 3, 3) channels-last."""
    height, width = x.shape[2:]
    out_channels, in_channels = grad.shape[1], x.shape[1]
    expanded = (_as_rows(grad).T @ _as_rows(x)).view(height * width, out_channels, height * width, in_channels)
    result = maps(out_channels, in_channels, 3, 3).zero_()
    for o, i, row, column in _taps(height, width):
        result[:, :, row, column] += expanded[o, :, i]
    return result


def _taps(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Output pixel, input pixel, and the row and column of the kernel's tap that joins them."""
    places = list(product(range(height), range(width)))
    for (o, (y, x)), (i, (v, u)) in product(enumerate(places), repeat=2):
        yield o, i, v - y + 1, u - x + 1


def _as_rows(images: Tensor) -> Tensor:
    """Channels-last memory (N, channels, H, W) as (N, H W channels)."""
    return images.permute(0, 2, 3, 1).flatten(1)


def fits(images: Tensor) -> bool:
    """Whether the maps of (N, C, H, W) are small enough."""
    return max(images.shape[2:]) <= LARGEST
