"""Winograd convolution on a CPU: float32, stride 1, padding 1, channels-last. `reference` says what it computes."""

import math
import threading
from collections.abc import Callable
from functools import cache

from torch import Tensor

from vggnet.accel.kernels import winograd_kernels as kernels
from vggnet.accel.kernels.llvm import COLUMNS, FLOAT, ROWS
from vggnet.accel.threads import floats, maps, num_threads, run

TILE_BLOCK = 66  # as many tiles, from half to twice, as a thread transforms and multiplies at a time
CHUNK_BYTES = 4 << 20  # of transformed tiles that the kernel's gradient sums over at a time,
CHUNK_TILES = 128  # but never fewer tiles than these: the sums of large layers leave the cache between two chunks
PADDING = 16  # floats after each row of transformed values: rows of 2^n bytes would share a few places of the cache
ROWS_BLOCK = 16 * ROWS  # rows of a product that one thread takes at a time


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, m: int) -> Tensor:
    """F(m x m): x (N, C, H, W) channels-last, weight (K, C, 3, 3) -> (N, K, H, W) channels-last."""
    return convolve(x, transform_kernels(weight, m, _kernel_memory), weight.shape[0], bias, m)


def grad_input(grad: Tensor, weight: Tensor, m: int) -> Tensor:
    """The gradient of x: the convolution of grad (N, K, H, W) with the kernel turned, C and K exchanged."""
    return convolve(grad, _transform_kernels(weight, m, _kernel_memory, turned=True), weight.shape[1], None, m)


def grad_weight(grad: Tensor, x: Tensor, m: int) -> Tensor:
    """The gradient of weight: grad (N, K, H, W), x (N, C, H, W), both channels-last -> (K, C, 3, 3) channels-last."""
    n, in_channels, height, width = x.shape
    out_channels, planes = grad.shape[1], (m + 2) ** 2
    tiles = _num_tiles(x, m)
    v_row, z_row = _row(_ceil(in_channels, COLUMNS)), _row(_ceil(out_channels, ROWS))
    chunk = min(tiles, max(CHUNK_TILES, CHUNK_BYTES // (planes * (v_row + z_row))))
    sums_row = _row(_ceil(in_channels, COLUMNS))
    sums_plane = _ceil(out_channels, ROWS) * sums_row
    v, z, sums = _scratch(planes * chunk * v_row, planes * chunk * z_row, planes * sums_plane)
    zeros = floats(max(in_channels, out_channels)).zero_()
    for first in range(0, tiles, chunk):
        count = min(chunk, tiles - first)
        run(
            kernels.transform_both,
            kernels.TILES, m=m, n=n, height=height, width=width, in_channels=in_channels, out_channels=out_channels,
            first=first, tiles=count, block=ROWS, x=x, y=grad,
            v=v, v_row=v_row, z=z, z_row=z_row, spare=zeros,
        )  # fmt: skip
        row_blocks = math.ceil(out_channels / ROWS_BLOCK)
        run(
            kernels.products,
            kernels.PRODUCTS, blocks=planes * row_blocks, rows=out_channels, rows_block=ROWS_BLOCK,
            panels=math.ceil(in_channels / COLUMNS), depth=count, add=int(first > 0),
            a=z, a_row=FLOAT, a_depth=z_row, a_plane=count * z_row,
            b=v, b_depth=v_row, b_panel=COLUMNS * FLOAT, b_plane=count * v_row,
            c=sums, c_row=sums_row, c_plane=sums_plane,
        )  # fmt: skip
    result = maps(out_channels, in_channels, 3, 3)
    w_k, _, w_y, w_x = (stride * FLOAT for stride in result.stride())
    run(
        kernels.transform_kernel_gradients,
        kernels.KERNELS, blocks=out_channels, m=m, channels=in_channels, w=result, w_y=w_y, w_x=w_x,
        w_depth=w_k, u=sums, u_depth=sums_row, u_plane=sums_plane,
    )  # fmt: skip
    return result


def transform_kernels(weight: Tensor, m: int, memory: Callable[[int], Tensor] = floats) -> Tensor:
    """The kernels of the forward pass as `convolve` takes them, in `memory` of so many floats.

    weight (K, C, 3, 3) channels-last.
    """
    return _transform_kernels(weight, m, memory, turned=False)


def _transform_kernels(weight: Tensor, m: int, memory: Callable[[int], Tensor], *, turned: bool) -> Tensor:
    """weight (K, C, 3, 3) channels-last -> planes of panels of (C, COLUMNS of K).

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
    panels, planes = math.ceil(channels / COLUMNS), (m + 2) ** 2
    u = memory(planes * panels * depth * COLUMNS)
    run(
        kernels.transform_kernels,
        kernels.KERNELS, m=m, depth=depth, channels=channels, w=w, w_y=w_y, w_x=w_x, w_depth=w_depth,
        w_channel=w_channel, u=u, u_depth=COLUMNS * FLOAT, u_panel=depth * COLUMNS * FLOAT,
        u_plane=panels * depth * COLUMNS * FLOAT,
    )  # fmt: skip
    return u


def convolve(
    x: Tensor, u: Tensor, out_channels: int, bias: Tensor | None, m: int, *, after: int = kernels.NOTHING
) -> Tensor:
    """x (N, C, H, W) channels-last by kernels that are transformed already -> (N, out_channels, H, W) channels-last.

    after: what follows in the same pass; with RELU_POOL the result is (N, out_channels, H/2, W/2), H and W even.
    """
    n, in_channels, height, width = x.shape
    planes, threads, tiles = (m + 2) ** 2, num_threads(), _num_tiles(x, m)
    block = _block(tiles, threads)
    blocks = math.ceil(tiles / block)
    parts = 1 if blocks >= threads else min(threads, math.ceil(out_channels / COLUMNS))
    v_row, z_row = _row(in_channels), _row(_ceil(out_channels, COLUMNS))
    v, z = _scratch(threads * planes * block * v_row, threads * planes * block * z_row)
    spare = floats(1 + threads, max(in_channels, out_channels)).zero_()  # zeros, and room for what is not wanted
    shrink = 2 if after == kernels.RELU_POOL else 1
    y = maps(n, out_channels, height // shrink, width // shrink)
    run(
        kernels.forward,
        kernels.TILES, m=m, n=n, height=height, width=width, in_channels=in_channels, out_channels=out_channels,
        tiles=tiles, block=block, parts=parts, blocks=blocks * parts, after=after, x=x, y=y,
        bias=spare if bias is None else bias,
        u=u, u_panel=in_channels * COLUMNS * FLOAT, v=v, v_row=v_row, z=z, z_row=z_row,
        spare=spare, spare_bytes=spare.stride(0) * FLOAT,
    )  # fmt: skip
    return y


@cache
def _block(tiles: int, threads: int) -> int:
    """How many tiles to work through at a time, so that the busiest thread has the least to do.

    Few tiles are one block, which the threads share by output channels.
    """
    if tiles <= TILE_BLOCK:
        return _ceil(tiles, ROWS)
    counts = range(math.ceil(tiles / (threads * 2 * TILE_BLOCK)), math.ceil(tiles / (threads * TILE_BLOCK / 2)) + 1)
    sizes = [_ceil(math.ceil(tiles / (threads * count)), ROWS) for count in counts]  # each thread takes `count` blocks

    def most_work(size: int) -> int:
        return math.ceil(math.ceil(tiles / size) / threads) * size

    return min(sizes, key=lambda size: (most_work(size), abs(size - TILE_BLOCK)))


def _num_tiles(x: Tensor, m: int) -> int:
    return x.shape[0] * math.ceil(x.shape[2] / m) * math.ceil(x.shape[3] / m)


def _ceil(value: int, step: int) -> int:
    return math.ceil(value / step) * step


def _row(channels: int) -> int:
    """Bytes of a row of transformed values."""
    return (channels + PADDING) * FLOAT


class _Memory(threading.local):
    """Scratch memory of each Python thread, kept from call to call: fresh pages cost as much as the work in them."""

    def __init__(self) -> None:
        self.scratch = floats(0)
        self.kernel = floats(0)


_memory = _Memory()


def _scratch(*sizes: int) -> list[int]:
    """The addresses of pieces of so many bytes, each on a cache line."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + _ceil(size, 64))
    if _memory.scratch.nbytes < starts[-1]:
        _memory.scratch = floats(math.ceil(starts[-1] / FLOAT))
    return [_memory.scratch.data_ptr() + start for start in starts[:-1]]


def _kernel_memory(count: int) -> Tensor:
    """Memory for kernels that the next call may use again."""
    if _memory.kernel.numel() < count:
        _memory.kernel = floats(count)
    return _memory.kernel
