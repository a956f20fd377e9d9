"""The compiled parts of a convolution with products in bfloat16; `algorithms.bfloat16` calls them.

Memory layout: a batch is a sequence of positions. One position of zeros follows each row of pixels, and one row of
zeros follows each image, so that the nine neighbors of every pixel are at the same distances from it. Zeros also
precede the first image. Sums are computed at the padding as well and discarded.
"""

from typing import Any

import numpy as np
from numba import njit

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.tiles import (
    BFLOAT16,
    ROW,
    SIDE,
    STEP,
    TILE,
    configure_tiles,
    finish_sums,
    multiply_1,
    multiply_9,
    release_tiles,
    round_pairs,
    round_values,
    transpose_pairs,
    transpose_sums,
    transpose_values,
)

PIXEL = SIDE * BFLOAT16  # bytes of the 32 channels of a position that lie side by side
DEPTH = 512  # positions that the weight's gradient sums over before it turns to the next tap: they stay in the cache

PIXELS = task_type(
    "n", "height", "width", "channels", "first", "x", "zeros", "packed", "packed_row"
)  # fmt: skip
WEIGHTS = task_type("in_channels", "out_channels", "w", "packed", "turned")
PRODUCTS = task_type(
    "n", "height", "width", "in_channels", "out_channels", "positions", "position_block", "parts", "first", "relu",
    "tiles", "offsets", "x", "zeros", "a", "a_row", "b", "b_panel", "bias", "y", "scratch", "scratch_bytes",
)  # fmt: skip


@njit(inline="never")
def pixel_address(position: int, n: int, height: int, width: int, pixel_bytes: int, x: int, zeros: int) -> int:
    """Where the pixel at a position lies, `zeros` if there is none; position 0 is the first pixel."""
    image_size = (height + 1) * (width + 1)
    image, rest = divmod(position, image_size)
    row, column = divmod(rest, width + 1)
    if 0 <= image < n and row < height and column < width:
        return x + ((image * height + row) * width + column) * pixel_bytes
    return zeros


@njit(inline="never")
def pack_pixels(
    start: int, stop: int, n: int, height: int, width: int, channels: int, x: int, zeros: int, packed: int, row: int
) -> None:
    """The positions from `start` to `stop` of x as A of a convolution, (C / 32, positions, 32).

    Positions before the first image and after the last one are zeros. `row`: bytes from 32 channels to the next.
    """
    pixel_bytes = channels * FLOAT
    image, rest = divmod(start, (height + 1) * (width + 1))
    line, column = divmod(rest, width + 1)
    for position in range(stop - start):
        source = zeros
        if 0 <= image < n and line < height and column < width:
            source = x + ((image * height + line) * width + column) * pixel_bytes
        for chunk in range(channels // SIDE):
            round_values(source + chunk * SIDE * FLOAT, packed + chunk * row + position * PIXEL)
        column += 1
        if column > width:
            line, column = line + 1, 0
        if line > height:
            image, line = image + 1, 0


@kernel(PIXELS)
def pack_pairs(task: Any, thread: int, block: int) -> None:
    """x as B of the weight's gradient, (C / 32, positions / 2, 32, 2); a block is 32 positions."""
    pixel_bytes = task.channels * FLOAT
    for pair in range(block * TILE, (block + 1) * TILE):
        first, second = (
            pixel_address(2 * pair, task.n, task.height, task.width, pixel_bytes, task.x, task.zeros),
            pixel_address(2 * pair + 1, task.n, task.height, task.width, pixel_bytes, task.x, task.zeros),
        )
        for chunk in range(task.channels // SIDE):
            offset = chunk * SIDE * FLOAT
            round_pairs(first + offset, second + offset, task.packed + chunk * task.packed_row + pair * ROW)


@kernel(PIXELS)
def pack_transposed(task: Any, thread: int, block: int) -> None:
    """x as A of the weight's gradient, (C, positions); a block is 16 positions, from `first` before the images on."""
    addresses = np.empty(TILE, np.int64)
    pixel_bytes = task.channels * FLOAT
    for channel in range(0, task.channels, TILE):
        for i in range(TILE):
            position = block * TILE + i - task.first
            source = pixel_address(position, task.n, task.height, task.width, pixel_bytes, task.x, task.zeros)
            addresses[i] = source + channel * FLOAT
        destination = task.packed + channel * task.packed_row + block * TILE * BFLOAT16
        transpose_values(addresses.ctypes.data, destination, task.packed_row)


@kernel(WEIGHTS)
def pack_weights(task: Any, thread: int, block: int) -> None:
    """A weight (K, C, 3, 3) in channels-last memory as B of a convolution; a block is 32 channels of the result.

    turned: by 180 degrees, C and K exchanged, as for the gradient of the input.
    """
    tap_bytes = task.in_channels * FLOAT
    kernel_bytes = 9 * tap_bytes
    if task.turned:
        depths = task.out_channels // SIDE
        for chunk in range(depths):
            for tap in range(9):
                source = task.w + chunk * SIDE * kernel_bytes + (8 - tap) * tap_bytes + block * SIDE * FLOAT
                destination = task.packed + ((block * depths + chunk) * 9 + tap) * STEP
                for pair in range(TILE):
                    row = source + 2 * pair * kernel_bytes
                    round_pairs(row, row + kernel_bytes, destination + pair * ROW)
    else:
        depths = task.in_channels // SIDE
        for chunk in range(depths):
            for tap in range(9):
                source = task.w + block * SIDE * kernel_bytes + tap * tap_bytes + chunk * SIDE * FLOAT
                destination = task.packed + ((block * depths + chunk) * 9 + tap) * STEP
                for half in range(2):
                    transpose_pairs(
                        source + half * TILE * kernel_bytes, kernel_bytes, destination + half * TILE * FLOAT
                    )


@kernel(PRODUCTS)
def convolve(task: Any, thread: int, block: int) -> None:
    """y = what follows a convolution of x; a block is `position_block` positions, or a part of their output channels.

    Scratch memory for each thread: 32 x 32 sums, and the positions of a block with `first` ones before and after it;
    the last tile of sums may reach 31 positions further.
    """
    configure_tiles(task.tiles)
    height, width = task.height, task.width
    sums = task.scratch + thread * task.scratch_bytes
    a, a_step = sums + SIDE * ROW, (task.position_block + 2 * task.first + SIDE) * PIXEL
    panels, steps = task.out_channels // SIDE, task.in_channels // SIDE
    start, part = block // task.parts * task.position_block, block % task.parts
    stop = min(start + task.position_block, task.positions)
    pack_pixels(
        start - task.first, stop + task.first, task.n, height, width, task.in_channels, task.x, task.zeros, a, a_step
    )
    pixel_bytes = task.out_channels * FLOAT
    for panel in range(panels * part // task.parts, panels * (part + 1) // task.parts):
        channel = panel * SIDE * FLOAT
        for first in range(start, stop, SIDE):
            multiply_9(
                a + (first - start) * PIXEL, PIXEL, a_step, task.offsets, task.b + panel * task.b_panel, sums, steps, 0
            )  # fmt: skip
            image, rest = divmod(first, (height + 1) * (width + 1))
            row, column = divmod(rest, width + 1)
            for i in range(min(SIDE, stop - first)):
                if row < height and column < width:
                    pixel = task.y + ((image * height + row) * width + column) * pixel_bytes
                    finish_sums(sums + i * ROW, task.bias + channel, task.relu, pixel + channel)
                column += 1
                if column > width:
                    row, column = row + 1, 0
                if row > height:
                    image, row = image + 1, 0
    release_tiles()


@kernel(PRODUCTS)
def sum_weight_gradients(task: Any, thread: int, block: int) -> None:
    """The gradient y (K, C, 3, 3) in channels-last memory; a block is 32 input and 32 output channels of it.

    a: (C, positions), b: (K / 32, positions / 2, 32, 2). Scratch memory for each thread: 9 times 32 x 32 sums.
    """
    configure_tiles(task.tiles)
    sums = task.scratch + thread * task.scratch_bytes
    panels = task.out_channels // SIDE
    channel, panel = block // panels, block % panels
    a, b = task.a + channel * SIDE * task.a_row, task.b + panel * task.b_panel
    for start in range(0, task.positions, DEPTH):
        steps = min(DEPTH, task.positions - start) // SIDE
        for tap in range(9):
            multiply_1(
                a + start * BFLOAT16, task.a_row, PIXEL, task.offsets + tap * 8, b + start // 2 * ROW,
                sums + tap * SIDE * ROW, steps, int(start > 0),
            )  # fmt: skip
    tap_bytes = task.in_channels * FLOAT
    for tap in range(9):
        for i in range(2):
            for j in range(2):
                source = sums + (tap * SIDE + i * TILE) * ROW + j * TILE * FLOAT
                k = panel * SIDE + j * TILE
                place = task.y + (k * 9 + tap) * tap_bytes + (channel * SIDE + i * TILE) * FLOAT
                transpose_sums(source, place, 9 * tap_bytes)
    release_tiles()
