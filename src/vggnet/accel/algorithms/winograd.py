"""Winograd convolution F(m x m, 3 x 3). `reference` says what it computes, `winograd_matrices` has the constants."""

import math
from collections.abc import Callable
from functools import cache, partial

from torch import Tensor

from vggnet.accel.algorithm import Algorithm, Amounts, Pass, Shape, fills_vectors
from vggnet.accel.buffers import FLOAT, feature_maps, floats, kernel_scratch, scratch
from vggnet.accel.kernels import winograd_kernels as kernels
from vggnet.accel.kernels.llvm import COLUMNS, ROWS
from vggnet.accel.threads import num_threads
from vggnet.accel.weight_cache import FoldedWeights

TILE_BLOCK = 66  # as many tiles, from half to twice, as a thread transforms and multiplies at a time,
MANY_WEIGHTS = 1 << 18  # and twice as many where so many kernels are read again for each block
CHUNK_BYTES = 4 << 20  # of transformed tiles that the weight's gradient sums over at a time,
CHUNK_TILES = 128  # but never fewer tiles than these: the sums of large layers leave the cache between two chunks
PADDING = 16  # floats after each row of transformed values: rows of 2^n bytes would share a few places of the cache
ROWS_BLOCK = 16 * ROWS  # rows of a product that one thread takes at a time


class Winograd(Algorithm):
    """For numbers of channels that fill vectors."""

    def __init__(self, m: int) -> None:
        self.m = m  # side of an output tile, 2 or 4
        self.name = f"winograd{m}"
        # A tile of two is a window of a pool; larger tiles also see what is beside it.
        self.keeps_ties_from = 0 if m == 2 else math.inf
        self._planes = (m + 2) ** 2

    def supports(self, work: Pass, shape: Shape) -> bool:
        """Whether the numbers of channels fill vectors."""
        return fills_vectors(shape)

    def amounts(self, work: Pass, shape: Shape) -> Amounts:
        """Transformed tiles are multiplied, and kernels that may change are transformed first."""
        n, height, width, in_channels, out_channels = shape
        tiles = n * math.ceil(height / self.m) * math.ceil(width / self.m)
        channels = in_channels * out_channels
        values = tiles * self._planes * (in_channels + out_channels)
        return Amounts(_ceil(tiles, ROWS) * self._planes * channels, values, self._planes * channels)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Transforms the kernels, then block by block the tiles."""
        return self._convolve(x, self._transform(weight, kernel_scratch), weight.shape[0], bias)

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """The convolution of the gradient with the kernel turned by 180 degrees, C and K exchanged."""
        return self._convolve(grad, self._transform(weight, kernel_scratch, turned=True), weight.shape[1], None)

    def grad_weight(self, grad: Tensor, x: Tensor) -> Tensor:
        """Summed chunk by chunk over the transformed tiles of input and gradient."""
        n, in_channels, height, width = x.shape
        out_channels, planes = grad.shape[1], self._planes
        tiles = self._num_tiles(x)
        v_row, z_row = _row_bytes(_ceil(in_channels, COLUMNS)), _row_bytes(_ceil(out_channels, ROWS))
        chunk = min(tiles, max(CHUNK_TILES, CHUNK_BYTES // (planes * (v_row + z_row))))
        sums_row = _row_bytes(_ceil(in_channels, COLUMNS))
        sums_plane = _ceil(out_channels, ROWS) * sums_row
        v, z = scratch(planes * chunk * v_row, planes * chunk * z_row)
        sums = kernel_scratch(planes * sums_plane // FLOAT)
        zeros = floats(max(in_channels, out_channels)).zero_()
        for first in range(0, tiles, chunk):
            count = min(chunk, tiles - first)
            kernels.transform_both(
                blocks=math.ceil(count / ROWS), tile_block=ROWS, m=self.m, n=n, height=height, width=width,
                in_channels=in_channels, out_channels=out_channels, first=first, tiles=count, x=x, y=grad,
                v=v, v_row=v_row, z=z, z_row=z_row, spare=zeros,
            )  # fmt: skip
            kernels.products(
                blocks=planes * math.ceil(out_channels / ROWS_BLOCK), rows=out_channels, rows_block=ROWS_BLOCK,
                panels=math.ceil(in_channels / COLUMNS), depth=count, add=int(first > 0),
                a=z, a_row=FLOAT, a_depth=z_row, a_plane=count * z_row,
                b=v, b_depth=v_row, b_panel=COLUMNS * FLOAT, b_plane=count * v_row,
                c=sums, c_row=sums_row, c_plane=sums_plane,
            )  # fmt: skip
        result = feature_maps(out_channels, in_channels, 3, 3)
        w_k, _, w_y, w_x = (stride * FLOAT for stride in result.stride())
        kernels.transform_kernel_gradients(
            blocks=out_channels, m=self.m, channels=in_channels, w=result, w_y=w_y, w_x=w_x, w_depth=w_k,
            u=sums, u_depth=sums_row, u_plane=sums_plane,
        )  # fmt: skip
        return result

    def inference(self, x: Tensor, weights: FoldedWeights, relu: bool, pool: bool) -> Tensor:
        """Kernels are transformed once; ReLU and pool are part of the tiles' last transform."""
        transformed = weights.derive(self.name, partial(self._transform, memory=floats))
        after = kernels.RELU_POOL if pool else kernels.RELU if relu else kernels.NOTHING
        return self._convolve(x, transformed, len(weights.weight), weights.bias, after=after)

    def _transform(self, weight: Tensor, memory: Callable[[int], Tensor], *, turned: bool = False) -> Tensor:
        """weight (K, C, 3, 3) channels-last -> planes of panels of (C, COLUMNS of K), in `memory` of so many floats.

        turned: by 180 degrees, C and K exchanged.
        """
        out_channels, in_channels, _, _ = weight.shape
        w_k, w_c, w_y, w_x = in_channels * 9 * FLOAT, FLOAT, in_channels * 3 * FLOAT, in_channels * FLOAT
        w = weight.data_ptr()
        if turned:
            depth, channels, w_depth, w_channel = out_channels, in_channels, w_k, w_c
            w, w_y, w_x = w + 2 * (w_y + w_x), -w_y, -w_x
        else:
            depth, channels, w_depth, w_channel = in_channels, out_channels, w_c, w_k
        panels = math.ceil(channels / COLUMNS)
        u = memory(self._planes * panels * depth * COLUMNS)
        kernels.transform_kernels(
            blocks=math.ceil(depth / COLUMNS), m=self.m, depth=depth, channels=channels, w=w, w_y=w_y, w_x=w_x,
            w_depth=w_depth, w_channel=w_channel, u=u, u_depth=COLUMNS * FLOAT, u_panel=depth * COLUMNS * FLOAT,
            u_plane=panels * depth * COLUMNS * FLOAT,
        )  # fmt: skip
        return u

    def _convolve(
        self, x: Tensor, u: Tensor, out_channels: int, bias: Tensor | None, *, after: int = kernels.NOTHING
    ) -> Tensor:
        """x (N, C, H, W) channels-last by transformed kernels -> (N, out_channels, H, W) channels-last.

        after: what follows in the same pass; with RELU_POOL the result is (N, out_channels, H/2, W/2), H and W even.
        """
        n, in_channels, height, width = x.shape
        planes, threads, tiles = self._planes, num_threads(), self._num_tiles(x)
        many = in_channels * out_channels >= MANY_WEIGHTS
        tile_block = _tile_block(tiles, threads, 2 * TILE_BLOCK if many else TILE_BLOCK)
        blocks = math.ceil(tiles / tile_block)
        parts = 1 if blocks >= threads else min(threads, math.ceil(out_channels / COLUMNS))
        v_row, z_row = _row_bytes(in_channels), _row_bytes(_ceil(out_channels, COLUMNS))
        v, z = scratch(threads * planes * tile_block * v_row, threads * planes * tile_block * z_row)
        spare = floats(1 + threads, max(in_channels, out_channels)).zero_()  # zeros, and room for what is not wanted
        shrink = 2 if after == kernels.RELU_POOL else 1
        y = feature_maps(n, out_channels, height // shrink, width // shrink)
        kernels.forward(
            blocks=blocks * parts, parts=parts, tile_block=tile_block, m=self.m, n=n, height=height, width=width,
            in_channels=in_channels, out_channels=out_channels, tiles=tiles, after=after, x=x, y=y,
            bias=spare if bias is None else bias, u=u, u_panel=in_channels * COLUMNS * FLOAT,
            v=v, v_row=v_row, z=z, z_row=z_row, spare=spare, spare_bytes=spare.stride(0) * FLOAT,
        )  # fmt: skip
        return y

    def _num_tiles(self, x: Tensor) -> int:
        return x.shape[0] * math.ceil(x.shape[2] / self.m) * math.ceil(x.shape[3] / self.m)


@cache
def _tile_block(tiles: int, threads: int, usual: int) -> int:
    """How many tiles to work through at a time, so that the busiest thread has the least to do.

    From half to twice the usual number.
    Few tiles are one block, which the threads share by output channels.
    """
    if tiles <= usual:
        return _ceil(tiles, ROWS)
    counts = range(math.ceil(tiles / (threads * 2 * usual)), math.ceil(tiles / (threads * usual / 2)) + 1)
    sizes = [_ceil(math.ceil(tiles / (threads * count)), ROWS) for count in counts]  # each thread takes `count` blocks

    def most_work(size: int) -> int:
        return math.ceil(math.ceil(tiles / size) / threads) * size

    return min(sizes, key=lambda size: (most_work(size), abs(size - usual)))


def _ceil(value: int, step: int) -> int:
    return math.ceil(value / step) * step


def _row_bytes(channels: int) -> int:
    """Bytes of a row of transformed values."""
    return (channels + PADDING) * FLOAT
