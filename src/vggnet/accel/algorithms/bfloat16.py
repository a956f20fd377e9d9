"""Convolution by products in bfloat16 with float32 sums, on the matrix unit (AMX) of a CPU that has one.

Every output is the sum of its 9 C products, so that its error is that of rounding both factors, 2^-9 of each.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vggnet.accel.algorithm import Algorithm, Pass, Precision, Shape, relu_and_pool
from vggnet.accel.buffers import CACHE_LINE, FLOAT, feature_maps, floats, kernel_scratch, scratch
from vggnet.accel.kernels import bfloat16_kernels as kernels
from vggnet.accel.kernels.bfloat16_kernels import PIXEL
from vggnet.accel.kernels.tiles import BFLOAT16, CONFIGURATION, ROW, SIDE, STEP, TILE, has_tiles
from vggnet.accel.threads import num_threads
from vggnet.accel.weight_cache import FoldedWeights

# Positions that a thread packs, and works through for 32 output channels after the other: they stay in its cache.
BLOCK_BYTES = 768 << 10
MOST_POSITIONS = 4096
LEAST_POSITIONS = 128
BLOCKS_PER_THREAD = 4  # at least, where there are positions enough


class Bfloat16(Algorithm):
    """For numbers of channels that are multiples of 32."""

    name = "bfloat16"
    precision: Precision = "bfloat16"

    def supports(self, work: Pass, shape: Shape) -> bool:
        """Whether the numbers of channels fill tiles, and the CPU has the unit."""
        return shape.in_channels % SIDE == shape.out_channels % SIDE == 0 and has_tiles()

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Packs the weight, then the image."""
        return _convolve(x, _pack_weights(weight, memory=kernel_scratch), len(weight), bias)

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """The convolution of the gradient with the kernel turned by 180 degrees, C and K exchanged."""
        return _convolve(grad, _pack_weights(weight, memory=kernel_scratch, turned=True), weight.shape[1], None)

    def grad_weight(self, grad: Tensor, x: Tensor) -> Tensor:
        """For each tap the product of the shifted images, transposed, and the gradients, over all positions."""
        n, in_channels, height, width = x.shape
        out_channels = grad.shape[1]
        layout = _Layout(n, height, width)
        positions = math.ceil(layout.positions / SIDE) * SIDE
        columns = math.ceil((positions + 2 * layout.first) / TILE)
        row = columns * TILE * BFLOAT16 // CACHE_LINE * CACHE_LINE + CACHE_LINE
        row |= CACHE_LINE  # rows of 2^n bytes would share a few places of the cache
        panel = positions // 2 * ROW
        sums = 9 * SIDE * ROW
        a, b, sums_of_threads = scratch(in_channels * row, out_channels // SIDE * panel, num_threads() * sums)
        common = {"n": n, "height": height, "width": width}
        zeros = floats(max(in_channels, out_channels)).zero_()
        kernels.pack_transposed(
            blocks=columns, channels=in_channels, first=layout.first,
            x=x, zeros=zeros, packed=a, packed_row=row, **common,
        )  # fmt: skip
        kernels.pack_pairs(
            blocks=positions // SIDE, channels=out_channels, x=grad, zeros=zeros, packed=b, packed_row=panel, **common
        )
        result = feature_maps(out_channels, in_channels, 3, 3)
        offsets = layout.offsets(BFLOAT16)
        kernels.sum_weight_gradients(
            blocks=in_channels // SIDE * (out_channels // SIDE), in_channels=in_channels, out_channels=out_channels,
            positions=positions, tiles=CONFIGURATION.ctypes.data, offsets=offsets, a=a, a_row=row, b=b, b_panel=panel,
            y=result, scratch=sums_of_threads, scratch_bytes=sums, **common,
        )  # fmt: skip
        return result

    def inference(self, x: Tensor, weights: FoldedWeights, relu: bool, pool: bool) -> Tensor:
        """The weight is packed once; ReLU is part of the last step."""
        packed = weights.derive(self.name, partial(_pack_weights, memory=floats))
        return relu_and_pool(_convolve(x, packed, len(weights.weight), weights.bias, relu=relu), False, pool)


class _Layout:
    """The memory layout of a batch: its positions in order, see `kernels.bfloat16_kernels`."""

    def __init__(self, n: int, height: int, width: int) -> None:
        self.pitch = width + 1
        self.first = self.pitch + 1  # positions of zeros before the first image
        self.positions = n * (height + 1) * self.pitch

    def offsets(self, position_bytes: int) -> Tensor:
        """The distance of each tap from the first one, in bytes."""
        return torch.tensor([(y * self.pitch + x) * position_bytes for y in range(3) for x in range(3)])


def _pack_weights(weight: Tensor, memory: Callable[[int], Tensor], *, turned: bool = False) -> Tensor:
    """weight (K, C, 3, 3) channels-last -> panels of 32 output channels, in `memory` of so many floats.

    turned: by 180 degrees, C and K exchanged.
    """
    out_channels, in_channels = weight.shape[:2]
    packed = memory(weight.numel() * BFLOAT16 // FLOAT)
    kernels.pack_weights(
        blocks=(in_channels if turned else out_channels) // SIDE, in_channels=in_channels, out_channels=out_channels,
        w=weight, packed=packed, turned=int(turned),
    )  # fmt: skip
    return packed


def _convolve(x: Tensor, weights: Tensor, out_channels: int, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """x (N, C, H, W) channels-last by packed weights -> (N, out_channels, H, W) channels-last."""
    n, in_channels, height, width = x.shape
    layout, threads = _Layout(n, height, width), num_threads()
    most = min(MOST_POSITIONS, BLOCK_BYTES // (in_channels * BFLOAT16))
    share = math.ceil(layout.positions / (threads * BLOCKS_PER_THREAD))
    block = math.ceil(min(most, max(share, LEAST_POSITIONS)) / SIDE) * SIDE
    blocks = math.ceil(layout.positions / block)
    parts = min(math.ceil(threads * BLOCKS_PER_THREAD / blocks), out_channels // SIDE)
    scratch_bytes = SIDE * ROW + in_channels // SIDE * (block + 2 * layout.first + SIDE) * PIXEL
    zeros = floats(max(in_channels, out_channels)).zero_()
    y = feature_maps(n, out_channels, height, width)
    kernels.convolve(
        blocks=blocks * parts, parts=parts, position_block=block, n=n, height=height, width=width,
        in_channels=in_channels, out_channels=out_channels, positions=layout.positions, first=layout.first,
        relu=int(relu), tiles=CONFIGURATION.ctypes.data, offsets=layout.offsets(PIXEL), x=x, zeros=zeros, b=weights,
        b_panel=9 * in_channels // SIDE * STEP, bias=zeros if bias is None else bias, y=y,
        scratch=scratch(threads * scratch_bytes)[0], scratch_bytes=scratch_bytes,
    )  # fmt: skip
    return y
