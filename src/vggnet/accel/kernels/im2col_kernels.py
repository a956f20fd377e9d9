"""The compiled parts of a convolution of few channels; `algorithms.im2col` calls them.

A row of the image and its two neighbors, zeros beyond the border, are unfolded: position p holds the 3 C values of
column p - 1, so that the 9 C values which output pixel p sees begin there and lie side by side.
"""

from typing import Any

from numba import carray, njit

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.llvm import COLUMNS, ROWS, floats_at, multiply_tile, multiply_tile_and_finish

SEGMENT = 64  # pixels of a row that the weight's gradient sums over at a time: their gradients stay in the cache
TASK = task_type(
    "rows", "height", "width", "in_channels", "out_channels", "x", "y", "w", "bias", "relu", "stream",
    "unfolded", "unfolded_bytes", "sums", "sums_bytes",
)  # fmt: skip


@njit(inline="never")
def unfold(address: int, x: int, row: int, height: int, width: int, channels: int) -> None:
    """Write the (width + 2, 3, channels) values around a row, counted over all images, to `address`."""
    unfolded = carray(floats_at(address), (width + 2, 3, channels))
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


@kernel(TASK)
def forward(task: Any, thread: int, row: int) -> None:
    """A block is a row of the output: `w` (9 C, K) times what each pixel sees, plus the bias.

    The last tile of a row may overlap the one before it.
    """
    unfolded = task.unfolded + thread * task.unfolded_bytes
    position, pixel, depth = 3 * task.in_channels * FLOAT, task.out_channels * FLOAT, 9 * task.in_channels
    unfold(unfolded, task.x, row, task.height, task.width, task.in_channels)
    y = task.y + row * task.width * pixel
    for tile in range(0, task.width, ROWS):
        start = min(tile, task.width - ROWS)
        for column in range(0, pixel, COLUMNS * FLOAT):
            multiply_tile_and_finish(
                unfolded + start * position, position, FLOAT, task.w + column, pixel,
                y + start * pixel + column, pixel, depth, task.bias + column, task.relu, task.stream,
            )  # fmt: skip


@kernel(TASK)
def grad_weight(task: Any, thread: int, block: int) -> None:
    """A block is a part of the rows, which it sums over: what each pixel sees times the gradient `y` of the pixel."""
    unfolded = task.unfolded + thread * task.unfolded_bytes
    position, pixel, taps = 3 * task.in_channels * FLOAT, task.out_channels * FLOAT, 9 * task.in_channels
    sums = task.sums + block * task.sums_bytes
    for row in range(task.rows * block // task.blocks, task.rows * (block + 1) // task.blocks):
        unfold(unfolded, task.x, row, task.height, task.width, task.in_channels)
        for start in range(0, task.width, SEGMENT):
            y = task.y + (row * task.width + start) * pixel
            for column in range(0, pixel, COLUMNS * FLOAT):
                for tap in range(0, taps, ROWS):
                    multiply_tile(
                        unfolded + start * position + tap * FLOAT, FLOAT, position, y + column, pixel,
                        sums + tap * pixel + column, pixel, min(SEGMENT, task.width - start), 1,
                    )  # fmt: skip
