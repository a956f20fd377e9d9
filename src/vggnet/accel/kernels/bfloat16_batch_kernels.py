"""The compiled parts of a 3x3 convolution of many small maps in bfloat16; `algorithms.bfloat16_batch` calls them.

The 32 rows of a tile are the same position of 32 images. So no position of zeros surrounds a map, and a neighbor that
lies outside of it is left out instead of multiplied: of a map of 2x2 pixels 16 products remain for 36, of 4x4 100 for
144. `bfloat16_kernels` puts positions of one image into the rows, with zeros around each map.
"""

from typing import Any

import numpy as np
from numba import njit

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.addresses import address_of, keep
from vggnet.accel.kernels.bfloat16_kernels import SUMS, finish
from vggnet.accel.kernels.bfloat16_packing import PIXEL, pack_pairs, pack_pixels, pack_transposed
from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.tiles import (
    BFLOAT16,
    ROW,
    SIDE,
    STEP,
    add_products,
    clear_sums,
    configure_tiles,
    load_sums,
    release_tiles,
    store_sums,
)

ROWS = SIDE * PIXEL  # bytes of 32 channels of 32 images at one position

BATCH_PRODUCTS = task_type(
    "n", "height", "width", "in_channels", "out_channels", "images", "parts", "x_bytes", "y_bytes", "tiles", "x",
    "zeros", "b", "b_panel", "bias", "least", "y", "scratch", "scratch_bytes",
)  # fmt: skip
BATCH_WEIGHT_SUMS = task_type(
    "n", "height", "width", "in_channels", "out_channels", "images", "groups", "x_bytes", "grad_bytes", "tiles", "x",
    "grad", "zeros", "a_row", "a_bytes", "b_panel", "sums", "scratch", "scratch_bytes",
)  # fmt: skip


@njit(inline="never")
def find_neighbors(height: int, width: int) -> Any:
    """The positions around each position, itself included, that lie on the map, and which taps of a kernel they are.

    Returns:
        (positions + 1,): where the list of each position begins; then the positions and taps of all lists.
    """
    starts = np.empty(height * width + 1, np.int64)
    positions, taps = np.empty(9 * height * width, np.int64), np.empty(9 * height * width, np.int64)
    count = 0
    for y in range(height):
        for x in range(width):
            starts[y * width + x] = count
            for tap in range(9):
                row, column = y + tap // 3 - 1, x + tap % 3 - 1
                if 0 <= row < height and 0 <= column < width:
                    positions[count], taps[count] = row * width + column, tap
                    count += 1
    starts[height * width] = count
    return starts, positions[:count], taps[:count]


@njit(inline="never")
def find_position(start: int, count: int, n: int, image_bytes: int, address: int, beyond: int) -> Any:
    """The addresses of one position in `count` images, from image `start` on; `beyond` where there are no more images.

    address: of the position in the first image of the batch.
    """
    addresses = np.full(count, beyond, np.int64)
    for i in range(min(count, n - start)):
        addresses[i] = address + (start + i) * image_bytes
    return addresses


@kernel(BATCH_PRODUCTS)
def convolve_batch(task: Any, thread: int, block: int) -> None:
    """y = max(a convolution of x, `least`); a block is a part of the output channels of `images` images.

    Scratch memory for each thread: 32 x 32 sums twice, as the last ones become results while the next ones are
    computed, and the packed images, (images / 32, positions, C / 32, 32, 32).
    """
    configure_tiles(task.tiles)
    size, steps, panels = task.height * task.width, task.in_channels // SIDE, task.out_channels // SIDE
    x_pixel, y_pixel = task.in_channels * task.x_bytes, task.out_channels * task.y_bytes
    start, part = block // task.parts * task.images, block % task.parts
    count = min(task.images, task.n - start)
    groups = -(-count // SIDE)
    before = task.scratch + thread * task.scratch_bytes
    sums = before + SIDE * ROW
    a = sums + SIDE * ROW
    starts, neighbors, taps = find_neighbors(task.height, task.width)
    destinations = np.empty((groups, size, SIDE), np.int64)
    for group in range(groups):
        first = start + group * SIDE
        for position in range(size):
            pixels = find_position(first, SIDE, task.n, size * x_pixel, task.x + position * x_pixel, task.zeros)
            pack_pixels(pixels, task.in_channels, task.x_bytes, a + (group * size + position) * steps * ROWS, ROWS)
            results = find_position(first, SIDE, task.n, size * y_pixel, task.y + position * y_pixel, 0)
            destinations[group, position] = results
    others = np.full(SIDE, task.least, np.int64)
    rate, rows, bias_before, offset_before = -(-SIDE // steps), 0, task.bias, 0
    to, other = address_of(destinations), address_of(others)
    for panel in range(panels * part // task.parts, panels * (part + 1) // task.parts):
        b, bias, offset = task.b + panel * task.b_panel, task.bias + panel * SIDE * FLOAT, panel * SIDE * task.y_bytes
        for group in range(groups):
            for position in range(size):
                clear_sums()
                for step in range(steps):
                    factors = a + (group * size * steps + step) * ROWS
                    for i in range(starts[position], starts[position + 1]):
                        add_products(factors + neighbors[i] * steps * ROWS, PIXEL, b + (step * 9 + taps[i]) * STEP)
                    done = step * rate  # rows of the last results
                    left = min(rate, rows - done)
                    if left > 0:
                        finish(
                            task.y_bytes, before + done * ROW, left, bias_before, other + done * 8, to + done * 8,
                            offset_before,
                        )  # fmt: skip
                store_sums(sums)
                rows, bias_before, offset_before = min(SIDE, count - group * SIDE), bias, offset
                to = address_of(destinations) + (group * size + position) * SIDE * 8
                sums, before = before, sums
    finish(task.y_bytes, before, rows, bias_before, other, to, offset_before)
    keep(destinations, others)
    release_tiles()


@kernel(BATCH_WEIGHT_SUMS)
def sum_batch_weight_gradients(task: Any, thread: int, block: int) -> None:
    """Sums of the weight's gradient, (K / 32, C / 32, 9, 32, 32); a block is a part of K.

    The gradient is A, its rows are channels and its columns images; x is B, in pairs of images. `images` are packed at
    a time. Scratch memory for each thread: `a_bytes` for the channels of a block, (positions, K, images), then x,
    (positions, C / 32, images / 2, 32, 2).
    """
    configure_tiles(task.tiles)
    a = task.scratch + thread * task.scratch_bytes
    b = a + task.a_bytes
    size, panels, rows = task.height * task.width, task.in_channels // SIDE, task.out_channels // SIDE
    x_pixel, grad_pixel = task.in_channels * task.x_bytes, task.out_channels * task.grad_bytes
    top, bottom = rows * block // task.groups, rows * (block + 1) // task.groups
    a_position, b_position = (bottom - top) * SIDE * task.a_row, panels * task.b_panel
    starts, neighbors, taps = find_neighbors(task.height, task.width)
    for start in range(0, task.n, task.images):
        count = -(-min(task.images, task.n - start) // SIDE) * SIDE
        for position in range(size):
            pixels = find_position(
                start, count, task.n, size * grad_pixel, task.grad + position * grad_pixel, task.zeros
            )
            pack_transposed(
                pixels, top * SIDE, (bottom - top) * SIDE, task.grad_bytes, a + position * a_position, task.a_row
            )
            pixels = find_position(start, count, task.n, size * x_pixel, task.x + position * x_pixel, task.zeros)
            pack_pairs(pixels, task.in_channels, task.x_bytes, b + position * b_position, task.b_panel)
        for panel in range(panels):
            for row in range(top, bottom):
                sums = task.sums + (row * panels + panel) * 9 * SUMS
                first, second = a + (row - top) * SIDE * task.a_row, b + panel * task.b_panel
                for tap in range(9):
                    if start:
                        load_sums(sums + tap * SUMS)
                    else:
                        clear_sums()
                    for position in range(size):
                        for i in range(starts[position], starts[position + 1]):
                            if taps[i] == tap:
                                one, other = first + position * a_position, second + neighbors[i] * b_position
                                for step in range(count // SIDE):
                                    add_products(one + step * SIDE * BFLOAT16, task.a_row, other + step * STEP)
                    store_sums(sums + tap * SUMS)
    release_tiles()
