"""The compiled parts of a convolution of few channels, each run by every thread at once. See `kernels` for tasks.

A row of the image and its two neighbors, zeros beyond the border, are unfolded: place p holds the 3 C values of
column p - 1, so that the 9 C values which output pixel p sees begin there and lie side by side.
"""

from typing import Any

import numpy as np
from numba import carray, njit

from vggnet.accel.kernels.llvm import (
    COLUMNS,
    FLOAT,
    ROWS,
    fetch_add,
    floats_at,
    multiply_tile,
    multiply_tile_and_finish,
)
from vggnet.accel.kernels.winograd_kernels import compiled

SEGMENT = 64  # pixels of a row that the kernel's gradient sums over at a time: their gradients stay in the cache
TASK = np.dtype(
    [
        (name, np.int64)
        for name in (
            "slots", "next", "blocks", "rows", "height", "width", "in_channels", "out_channels",
            "x", "y", "w", "bias", "relu", "stream", "unfolded", "unfolded_bytes", "sums", "sums_bytes",
        )
    ]
)  # fmt: skip


@njit(inline="never")
def unfold(places: int, x: int, row: int, height: int, width: int, channels: int) -> None:
    """Write the (width + 2, 3, channels) values around a row, counted over all images, to the address `places`."""
    unfolded = carray(floats_at(places), (width + 2, 3, channels))
    image, y = divmod(row, height)
    for i in range(3):
        unfolded[0, i] = 0
        unfolded[width + 1, i] = 0
        source = y + i - 1
        if 0 <= source < height:
            pixels = carray(floats_at(x + (image * height + source) * width * channels * FLOAT), (width, channels))
            for channel in range(channels):
                for column in range(width):
                    unfolded[column + 1, i, channel] = pixels[column, channel]
        else:
            unfolded[1 : width + 1, i] = 0


@compiled(TASK)
def forward(pointer: Any) -> None:
    """A block is a row of the output: `w` (9 C, K) times what each pixel sees, and the bias.

    The last tile of a row may overlap the one before it.
    """
    task = carray(pointer, 1)[0]
    counters = carray(pointer, 1).ctypes.data
    unfolded = task.unfolded + fetch_add(counters, 1) * task.unfolded_bytes
    place, pixel, depth = 3 * task.in_channels * FLOAT, task.out_channels * FLOAT, 9 * task.in_channels
    while True:
        row = fetch_add(counters + 8, 1)
        if row >= task.blocks:
            break
        unfold(unfolded, task.x, row, task.height, task.width, task.in_channels)
        y = task.y + row * task.width * pixel
        for tile in range(0, task.width, ROWS):
            start = min(tile, task.width - ROWS)
            for column in range(0, pixel, COLUMNS * FLOAT):
                multiply_tile_and_finish(
                    unfolded + start * place, place, FLOAT, task.w + column, pixel,
                    y + start * pixel + column, pixel, depth, task.bias + column, task.relu, task.stream,
                )  # fmt: skip


@compiled(TASK)
def grad_weight(pointer: Any) -> None:
    """A block is a share of the rows, which it sums over: what each pixel sees times the gradient `y` of the pixel."""
    task = carray(pointer, 1)[0]
    counters = carray(pointer, 1).ctypes.data
    unfolded = task.unfolded + fetch_add(counters, 1) * task.unfolded_bytes
    place, pixel, taps = 3 * task.in_channels * FLOAT, task.out_channels * FLOAT, 9 * task.in_channels
    while True:
        block = fetch_add(counters + 8, 1)
        if block >= task.blocks:
            break
        sums = task.sums + block * task.sums_bytes
        for row in range(task.rows * block // task.blocks, task.rows * (block + 1) // task.blocks):
            unfold(unfolded, task.x, row, task.height, task.width, task.in_channels)
            for start in range(0, task.width, SEGMENT):
                y = task.y + (row * task.width + start) * pixel
                for column in range(0, pixel, COLUMNS * FLOAT):
                    for tap in range(0, taps, ROWS):
                        multiply_tile(
                            unfolded + start * place + tap * FLOAT, FLOAT, place, y + column, pixel,
                            sums + tap * pixel + column, pixel, min(SEGMENT, task.width - start), 1,
                        )  # fmt: skip
