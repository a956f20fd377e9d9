"""A fully connected layer for few images, with its weights in float16: memory traffic is its time, and this is half.

Values and sums stay float32; only the weights are rounded, by at most 2^-11 of each.
"""

from typing import Any

import numpy as np
from numba import carray
from torch import Tensor

from vggnet.accel.kernels.llvm import FLOAT, HALF_ROWS, HAS_HALVES, LANES, fetch_add, floats_at, multiply_halves
from vggnet.accel.kernels.winograd_kernels import compiled
from vggnet.accel.threads import floats, run

ROWS_BLOCK = 64  # rows that a thread takes at a time

TASK = np.dtype(
    [(name, np.int64) for name in ("slots", "next", "blocks", "rows", "depth", "images", "w", "x", "bias", "y")]
)


@compiled(TASK)
def linear_kernel(pointer: Any) -> None:
    """y (images, rows) = x (images, depth) by w (rows, depth) float16, plus bias."""
    task = carray(pointer, 1)[0]
    counter = carray(pointer, 1).ctypes.data + 8
    rows, depth = task.rows, task.depth
    lanes = np.empty((HALF_ROWS, LANES), np.float32)
    bias = carray(floats_at(task.bias), rows)
    while True:
        block = fetch_add(counter, 1)
        if block >= task.blocks:
            break
        for row in range(block * ROWS_BLOCK, min(rows, (block + 1) * ROWS_BLOCK), HALF_ROWS):
            for image in range(task.images):
                multiply_halves(
                    task.w + row * depth * 2, depth * 2, task.x + image * depth * FLOAT, depth, lanes.ctypes.data
                )
                y = carray(floats_at(task.y + image * rows * FLOAT), rows)
                for i in range(HALF_ROWS):
                    total = bias[row + i]
                    for lane in range(LANES):
                        total += lanes[i, lane]
                    y[row + i] = total


def supports(weight: Tensor) -> bool:
    """Whether weight (out, in) float32 fills the vectors, and no value is too large for float16."""
    rows, depth = weight.shape
    return HAS_HALVES and rows % HALF_ROWS == 0 and depth % LANES == 0 and bool(weight.abs().max() < 65504)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (N, in) float32, weight (out, in) float16, bias (out,) float32 -> (N, out) float32."""
    x = x.contiguous()
    images, (rows, depth) = len(x), weight.shape
    biases = floats(rows).zero_() if bias is None else bias
    y = floats(images, rows)
    run(
        linear_kernel, TASK, blocks=-(-rows // ROWS_BLOCK), rows=rows, depth=depth, images=images,
        w=weight, x=x, bias=biases, y=y,
    )  # fmt: skip
    return y
