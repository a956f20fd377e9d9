"""A fully connected layer for few images, with its weights in float16: memory traffic is its time, and this is half.

Values and sums stay float32; only the weights are rounded, by at most 2^-11 of each.
"""

import math
from typing import Any

import numpy as np
from numba import carray
from torch import Tensor

from vggnet.accel.buffers import FLOAT, floats
from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.llvm import FLOAT16_ROWS, HAS_FLOAT16, LANES, floats_at, multiply_float16

ROWS_BLOCK = 64  # rows that a thread takes at a time
LARGEST = 65504  # that float16 holds

TASK = task_type("rows", "depth", "images", "w", "x", "bias", "y")


@kernel(TASK)
def linear_kernel(task: Any, thread: int, block: int) -> None:
    """y (images, rows) = x (images, depth) by w (rows, depth) float16, plus bias."""
    rows, depth = task.rows, task.depth
    lanes = np.empty((FLOAT16_ROWS, LANES), np.float32)
    bias = carray(floats_at(task.bias), rows)
    for row in range(block * ROWS_BLOCK, min(rows, (block + 1) * ROWS_BLOCK), FLOAT16_ROWS):
        for image in range(task.images):
            multiply_float16(
                task.w + row * depth * 2, depth * 2, task.x + image * depth * FLOAT, depth, lanes.ctypes.data
            )
            y = carray(floats_at(task.y + image * rows * FLOAT), rows)
            for i in range(FLOAT16_ROWS):
                total = bias[row + i]
                for lane in range(LANES):
                    total += lanes[i, lane]
                y[row + i] = total


def supports(weight: Tensor) -> bool:
    """Whether weight (out, in) float32 fills the vectors, and no value is too large for float16."""
    rows, depth = weight.shape
    return HAS_FLOAT16 and rows % FLOAT16_ROWS == 0 and depth % LANES == 0 and bool(weight.abs().max() < LARGEST)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (N, in) float32, weight (out, in) float16, bias (out,) float32 -> (N, out) float32."""
    x = x.contiguous()
    images, (rows, depth) = len(x), weight.shape
    y = floats(images, rows)
    linear_kernel(
        blocks=math.ceil(rows / ROWS_BLOCK), rows=rows, depth=depth, images=images, w=weight, x=x,
        bias=floats(rows).zero_() if bias is None else bias, y=y,
    )  # fmt: skip
    return y
