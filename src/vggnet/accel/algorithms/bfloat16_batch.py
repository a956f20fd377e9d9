"""3x3 convolution of many small maps by products in bfloat16: the rows of a tile are images, see the kernels.

Used by `algorithms.bfloat16.Bfloat16` where it takes less time than positions in the rows, whose zeros around small
maps are multiplied as well.
"""

import math
from typing import Any

import torch
from torch import Tensor

from vggnet.accel.algorithm import Shape
from vggnet.accel.buffers import CACHE_LINE, constant, feature_maps, scratch
from vggnet.accel.kernels import bfloat16_batch_kernels as kernels
from vggnet.accel.kernels.bfloat16_kernels import SUMS, join_weight_gradients
from vggnet.accel.kernels.tiles import BFLOAT16, CONFIGURATION, ROW, SIDE, STEP
from vggnet.accel.threads import num_threads

LEAST_IMAGES = 32  # of fewer most rows of a tile are empty
MOST_PIXELS = 64  # of a map: of more few products are left out, and 32 images do not stay in a thread's cache
CONVOLUTION_BYTES = 1 << 20  # of images that a thread packs, and works through for 32 output channels after the other
WEIGHT_BYTES = 2 << 20  # of images that it packs for the weight's gradient; for fewer the sums are read more often


def pays(shape: Shape) -> bool:
    """Whether this takes less time than positions in the rows of tiles."""
    return shape.n >= LEAST_IMAGES and shape.height * shape.width <= MOST_PIXELS


def convolve(
    x: Tensor, weights: Tensor, out_channels: int, bias: Tensor | None, *, relu: bool, dtype: torch.dtype
) -> Tensor:
    """x (N, C, H, W) channels-last by packed weights -> (N, out_channels, H, W) channels-last of `dtype`.

    out_channels: a multiple of 32, as C; x may be float32 or bfloat16.
    """
    n, in_channels, height, width = x.shape
    panels, threads = out_channels // SIDE, num_threads()
    image_bytes = height * width * in_channels * BFLOAT16
    images = _images(n, image_bytes, CONVOLUTION_BYTES)
    blocks = math.ceil(n / images)
    parts = min(max(2 * threads // blocks, 1), panels)
    scratch_bytes = 2 * SIDE * ROW + images * image_bytes
    zeros = constant(max(in_channels, out_channels), 0.0)
    y = feature_maps(n, out_channels, height, width, dtype=dtype)
    kernels.convolve_batch(
        blocks=blocks * parts, n=n, height=height, width=width, in_channels=in_channels, out_channels=out_channels,
        images=images, parts=parts, x_bytes=x.element_size(), y_bytes=dtype.itemsize,
        tiles=CONFIGURATION.ctypes.data, x=x, zeros=zeros, b=weights, b_panel=9 * in_channels // SIDE * STEP,
        bias=zeros if bias is None else bias, least=zeros if relu else constant(out_channels, -math.inf, dtype), y=y,
        scratch=scratch(threads * scratch_bytes)[0], scratch_bytes=scratch_bytes,
    )  # fmt: skip
    return y


def grad_weight(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weight (K, C, 3, 3) from grad (N, K, H, W) and x (N, C, H, W), both channels-last.

    K and C are multiples of 32. The images are added up in the same order for any number of threads.
    """
    n, in_channels, height, width = x.shape
    out_channels, size, threads = grad.shape[1], height * width, num_threads()
    image_bytes = size * in_channels * BFLOAT16
    images = _images(n, image_bytes, WEIGHT_BYTES)
    groups = min(2 * threads, out_channels // SIDE)
    a_row = images * BFLOAT16 | CACHE_LINE  # rows of 2^n bytes would share a few places of the cache
    a_bytes = math.ceil(out_channels // SIDE / groups) * SIDE * a_row * size
    scratch_bytes = a_bytes + images * image_bytes
    packed, sums = scratch(threads * scratch_bytes, in_channels // SIDE * (out_channels // SIDE) * 9 * SUMS)
    result = feature_maps(out_channels, in_channels, 3, 3)
    sizes: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels, "sums": sums}
    kernels.sum_batch_weight_gradients(
        blocks=groups, n=n, height=height, width=width, images=images, groups=groups, x_bytes=x.element_size(),
        grad_bytes=grad.element_size(), tiles=CONFIGURATION.ctypes.data, x=x, grad=grad,
        zeros=constant(max(in_channels, out_channels), 0.0), a_row=a_row, a_bytes=a_bytes, b_panel=images // 2 * ROW,
        scratch=packed, scratch_bytes=scratch_bytes, **sizes,
    )  # fmt: skip
    join_weight_gradients(blocks=out_channels // SIDE, taps=9, parts=1, y=result, **sizes)
    return result


def _images(n: int, image_bytes: int, block_bytes: int) -> int:
    """How many of `n` images a thread packs at a time: whole tiles, about `block_bytes`."""
    return min(max(block_bytes // (image_bytes * SIDE), 1), math.ceil(n / SIDE)) * SIDE
