"""The compiled parts of a fully connected layer with products in bfloat16; `algorithms.bfloat16_linear` calls them."""

from typing import Any

import numpy as np
from numba import carray

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.addresses import address_of
from vggnet.accel.kernels.bfloat16_packing import PIXEL
from vggnet.accel.kernels.bfloat16_vectors import transpose_pairs
from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.llvm import floats_at
from vggnet.accel.kernels.tiles import (
    SIDE,
    STEP,
    TILE,
    add_steps,
    clear_sums,
    configure_tiles,
    release_tiles,
    store_sums,
)

TASK = task_type("images", "rows", "steps", "tiles", "w", "packed", "x", "bias", "y")


@kernel(TASK)
def pack(task: Any, thread: int, block: int) -> None:
    """A weight (rows, in) as B: panels of 32 of its rows; the last 32 rows are the last panel. A block is a panel."""
    row_bytes = task.steps * SIDE * FLOAT
    source = task.w + min(block * SIDE, task.rows - SIDE) * row_bytes
    for step in range(task.steps):
        for half in range(2):
            transpose_pairs(
                source + half * TILE * row_bytes + step * SIDE * FLOAT, row_bytes,
                task.packed + (block * task.steps + step) * STEP + half * TILE * FLOAT,
            )  # fmt: skip


@kernel(TASK)
def linear(task: Any, thread: int, block: int) -> None:
    """y (images, rows) = x by a packed weight, plus bias. x: (images / 32, steps, 32, 32) bfloat16."""
    configure_tiles(task.tiles)
    images, rows, steps = task.images, task.rows, task.steps
    first = min(block * SIDE, rows - SIDE)
    bias = carray(floats_at(task.bias + first * FLOAT), SIDE)
    sums = np.empty((SIDE, SIDE), np.float32)
    for start in range(0, images, SIDE):
        clear_sums()
        add_steps(task.x + start * steps * PIXEL, PIXEL, SIDE * PIXEL, task.packed + block * steps * STEP, steps)
        store_sums(address_of(sums))
        for image in range(start, min(images, start + SIDE)):
            y = carray(floats_at(task.y + (image * rows + first) * FLOAT), SIDE)
            for i in range(SIDE):
                y[i] = sums[image - start, i] + bias[i]
    release_tiles()
