"""Convolution of maps of 2x2 pixels and below as matrix products: every output pixel sees every input pixel.

Output pixel o depends on input pixel i through the kernel's tap i - o + 1. A training multiplies each pair of pixels of
all images by that tap, which is a matrix (K, C) with a distance of 9 C between its rows. For inference the taps of all
pairs are one weight, (H W K, H W C), and an image is a row of H W C values, channels innermost.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from vggnet.accel.algorithm import Algorithm, Amounts, Pass, Shape, relu_and_pool
from vggnet.accel.buffers import feature_maps
from vggnet.accel.weight_cache import FoldedWeights

LARGEST = 2  # side of a map


class MatrixProduct(Algorithm):
    """For maps of at most 2x2 pixels, with PyTorch's matrix product."""

    name = "matmul"

    def supports(self, work: Pass, shape: Shape) -> bool:
        """Whether the maps are small enough."""
        return max(shape.height, shape.width) <= LARGEST

    def amounts(self, work: Pass, shape: Shape) -> Amounts:
        """Every output pixel with every input pixel."""
        n, height, width, in_channels, out_channels = shape
        pairs = (height * width) ** 2 * in_channels * out_channels
        return Amounts(n * pairs, 0, pairs)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A product for each pair of pixels."""
        y = feature_maps(len(x), len(weight), *x.shape[2:]).zero_()
        if bias is not None:
            y += bias.view(-1, 1, 1)
        results, pixels = _pixels(y), _pixels(x)
        for o, i, row, column in _taps(*x.shape[2:]):
            results[o].addmm_(pixels[i], weight[:, :, row, column].T)
        return y

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """The products with the transposed taps."""
        result = feature_maps(len(grad), weight.shape[1], *grad.shape[2:]).zero_()
        results, grads = _pixels(result), _pixels(grad)
        for o, i, row, column in _taps(*grad.shape[2:]):
            results[i].addmm_(grads[o], weight[:, :, row, column])
        return result

    def grad_weight(self, grad: Tensor, x: Tensor) -> Tensor:
        """The products of gradient and input; every tap is the sum of its pairs of pixels."""
        result = feature_maps(grad.shape[1], x.shape[1], 3, 3).zero_()
        grads, pixels = _pixels(grad), _pixels(x)
        for o, i, row, column in _taps(*x.shape[2:]):
            result[:, :, row, column].addmm_(grads[o].T, pixels[i])
        return result

    def inference(self, x: Tensor, weights: FoldedWeights, relu: bool, pool: bool) -> Tensor:
        """The weights are expanded once for each size of map."""
        height, width = x.shape[2:]
        expanded = weights.derive(f"{self.name} {height}x{width}", partial(_expand, height=height, width=width))
        return relu_and_pool(_forward(x, expanded, weights.bias), relu, pool)


def _expand(weight: Tensor, height: int, width: int) -> Tensor:
    """weight (K, C, 3, 3) -> (H W K, H W C) for maps of H x W, at most 2 x 2."""
    out_channels, in_channels = weight.shape[:2]
    pixels = height * width
    expanded = weight.new_empty(pixels, out_channels, pixels, in_channels)
    for o, i, row, column in _taps(height, width):
        expanded[o, :, i] = weight[:, :, row, column]
    return expanded.view(pixels * out_channels, pixels * in_channels)


def _forward(x: Tensor, expanded: Tensor, bias: Tensor | None) -> Tensor:
    height, width = x.shape[2:]
    y = feature_maps(len(x), len(expanded) // (height * width), height, width)
    if bias is None:
        torch.mm(_as_rows(x), expanded.T, out=_as_rows(y))
    else:
        torch.addmm(bias.repeat(height * width), _as_rows(x), expanded.T, out=_as_rows(y))
    return y


def _taps(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Output pixel, input pixel, and the row and column of the kernel's tap that joins them."""
    pixels = list(product(range(height), range(width)))
    for (o, (y, x)), (i, (v, u)) in product(enumerate(pixels), repeat=2):
        yield o, i, v - y + 1, u - x + 1


def _pixels(images: Tensor) -> list[Tensor]:
    """Channels-last memory (N, channels, H, W) as (N, channels) for each pixel."""
    return list(images.permute(2, 3, 0, 1).flatten(0, 1).unbind())


def _as_rows(images: Tensor) -> Tensor:
    """Channels-last memory (N, channels, H, W) as (N, H W channels)."""
    return images.permute(0, 2, 3, 1).flatten(1)
