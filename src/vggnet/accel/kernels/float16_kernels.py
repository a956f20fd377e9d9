"""The compiled part of a fully connected layer with weights in float16; `algorithms.float16_linear` calls it."""

from typing import Any

import numpy as np
from numba import carray

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.addresses import address_of
from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.llvm import FLOAT16_ROWS, LANES, floats_at, multiply_float16

ROWS_BLOCK = 64  # rows that a thread takes at a time

TASK = task_type("rows", "depth", "images", "w", "x", "bias", "y")


@kernel(TASK)
def linear(task: Any, thread: int, block: int) -> None:
    """y (images, rows) = x (images, depth) by w (rows, depth) float16, plus bias."""
    rows, depth = task.rows, task.depth
    lanes = np.empty((FLOAT16_ROWS, LANES), np.float32)
    bias = carray(floats_at(task.bias), rows)
    for row in range(block * ROWS_BLOCK, min(rows, (block + 1) * ROWS_BLOCK), FLOAT16_ROWS):
        for image in range(task.images):
            multiply_float16(
                task.w + row * depth * 2, depth * 2, task.x + image * depth * FLOAT, depth, address_of(lanes)
            )
            y = carray(floats_at(task.y + image * rows * FLOAT), rows)
            for i in range(FLOAT16_ROWS):
                total = bias[row + i]
                for lane in range(LANES):
                    total += lanes[i, lane]
                y[row + i] = total
