"""The compiled parts of batch norm with ReLU and max pool; `batch_norm` calls them.

All arrays are float32: activations (N, H, W, C), and one value for each channel, or for each part and channel. A part
is the share of the rows (pixels) that one block of `moments` or `gradient_sums` adds up.
"""

from typing import Any

import numpy as np
from numba import carray, njit

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.llvm import floats_at

ROWS = task_type("rows", "width", "channels", "pool", "x", "y", "scale", "shift", "center", "slope", "first", "second")
JOINED = 64  # channels in a block of a kernel that joins the parts
JOIN = task_type(
    "parts", "rows", "channels", "first", "second", "mean", "variance", "scale", "inverse", "slope", "center",
    "for_weight", "for_bias",
)  # fmt: skip


@njit
def share(rows: int, block: int, blocks: int) -> tuple[int, int]:
    """First row of this block, and of the next."""
    return rows * block // blocks, rows * (block + 1) // blocks


@njit
def window(row: int, width: int, channels: int) -> int:
    """Where the 2x2 window of a pooled pixel begins, in bytes; its lower half is 2 * width pixels further."""
    return (row // width * 4 * width + row % width * 2) * channels * FLOAT


@kernel(ROWS)
def moments(task: Any, thread: int, block: int) -> None:
    """Mean (first) and sum of squared differences from it (second) of each part, by channel."""
    rows, channels = task.rows, task.channels
    start, stop = share(rows, block, task.blocks)
    x = carray(floats_at(task.x + start * channels * FLOAT), (stop - start, channels))
    mean = carray(floats_at(task.first + block * channels * FLOAT), channels)
    squares = carray(floats_at(task.second + block * channels * FLOAT), channels)
    mean[:] = 0
    squares[:] = 0
    for i in range(stop - start):
        for c in range(channels):
            mean[c] += x[i, c]
    inverse = np.float32(1.0 / (stop - start))
    for c in range(channels):
        mean[c] *= inverse
    for i in range(stop - start):
        for c in range(channels):
            difference = x[i, c] - mean[c]
            squares[c] += difference * difference


@kernel(JOIN)
def join_moments(task: Any, thread: int, block: int) -> None:
    """Mean and biased variance by channel from those of the parts, in float64 (Chan et al., 1979)."""
    start = block * JOINED
    count = min(JOINED, task.channels - start)
    total, squares = np.zeros(JOINED, np.float64), np.zeros(JOINED, np.float64)
    for part in range(task.parts):
        first, stop = share(task.rows, part, task.parts)
        mean = carray(floats_at(task.first + (part * task.channels + start) * FLOAT), count)
        for c in range(count):
            total[c] += (stop - first) * np.float64(mean[c])
    for part in range(task.parts):
        first, stop = share(task.rows, part, task.parts)
        mean = carray(floats_at(task.first + (part * task.channels + start) * FLOAT), count)
        within = carray(floats_at(task.second + (part * task.channels + start) * FLOAT), count)
        for c in range(count):
            difference = np.float64(mean[c]) - total[c] / task.rows
            squares[c] += within[c] + (stop - first) * difference * difference
    means = carray(floats_at(task.mean + start * FLOAT), count)
    variances = carray(floats_at(task.variance + start * FLOAT), count)
    for c in range(count):
        means[c] = total[c] / task.rows
        variances[c] = squares[c] / task.rows


@kernel(JOIN)
def join_gradient_sums(task: Any, thread: int, block: int) -> None:
    """From the parts' sums, added in float64: the gradients of weight and bias, and what `gradient` needs."""
    start = block * JOINED
    count = min(JOINED, task.channels - start)
    dz, dz_x = np.zeros(JOINED, np.float64), np.zeros(JOINED, np.float64)
    for part in range(task.parts):
        first = carray(floats_at(task.first + (part * task.channels + start) * FLOAT), count)
        second = carray(floats_at(task.second + (part * task.channels + start) * FLOAT), count)
        for c in range(count):
            dz[c] += first[c]
            dz_x[c] += second[c]
    mean = carray(floats_at(task.mean + start * FLOAT), count)
    scale = carray(floats_at(task.scale + start * FLOAT), count)
    inverse = carray(floats_at(task.inverse + start * FLOAT), count)
    slope = carray(floats_at(task.slope + start * FLOAT), count)
    center = carray(floats_at(task.center + start * FLOAT), count)
    for_weight = carray(floats_at(task.for_weight + start * FLOAT), count)
    for_bias = carray(floats_at(task.for_bias + start * FLOAT), count)
    for c in range(count):
        tilt = -np.float64(scale[c]) * inverse[c] * inverse[c] * dz_x[c] / task.rows
        slope[c] = tilt
        center[c] = -np.float64(scale[c]) * dz[c] / task.rows - tilt * mean[c]
        for_weight[c] = dz_x[c] * inverse[c]
        for_bias[c] = dz[c]


@kernel(ROWS)
def normalize(task: Any, thread: int, block: int) -> None:
    """y = max(x * scale + shift, 0); with `pool`, the largest of each 2x2 window. `rows` are those of y."""
    width, channels = task.width, task.channels
    scale, shift = carray(floats_at(task.scale), channels), carray(floats_at(task.shift), channels)
    zero = np.float32(0)
    start, stop = share(task.rows, block, task.blocks)
    for row in range(start, stop):
        y = carray(floats_at(task.y + row * channels * FLOAT), channels)
        if task.pool:
            top = task.x + window(row, width, channels)
            above = carray(floats_at(top), (2, channels))
            below = carray(floats_at(top + 2 * width * channels * FLOAT), (2, channels))
            for c in range(channels):
                a, b = above[0, c] * scale[c] + shift[c], above[1, c] * scale[c] + shift[c]
                d, e = below[0, c] * scale[c] + shift[c], below[1, c] * scale[c] + shift[c]
                z = max(max(a, b), max(d, e))
                y[c] = zero if z < zero else z
        else:
            x = carray(floats_at(task.x + row * channels * FLOAT), channels)
            for c in range(channels):
                z = x[c] * scale[c] + shift[c]
                y[c] = zero if z < zero else z


@kernel(ROWS)
def gradient_sums(task: Any, thread: int, block: int) -> None:
    """By channel and part: sums of dz (first) and of dz * (x - center) (second). y is the gradient of the output.

    Values are read before they are chosen from: else there are no vectors on CPUs that cannot mask what they read.
    """
    width, channels = task.width, task.channels
    scale, shift = carray(floats_at(task.scale), channels), carray(floats_at(task.shift), channels)
    center = carray(floats_at(task.center), channels)
    zero = np.float32(0)
    start, stop = share(task.rows, block, task.blocks)
    first = carray(floats_at(task.first + block * channels * FLOAT), channels)
    second = carray(floats_at(task.second + block * channels * FLOAT), channels)
    first[:] = 0
    second[:] = 0
    for row in range(start, stop):
        y = carray(floats_at(task.y + row * channels * FLOAT), channels)
        if task.pool:
            top = task.x + window(row, width, channels)
            above = carray(floats_at(top), (2, channels))
            below = carray(floats_at(top + 2 * width * channels * FLOAT), (2, channels))
            for c in range(channels):
                x, right, left_below, right_below, grad = above[0, c], above[1, c], below[0, c], below[1, c], y[c]
                z = x * scale[c] + shift[c]
                other = right * scale[c] + shift[c]
                x, z = (right, other) if other > z else (x, z)
                other = left_below * scale[c] + shift[c]
                x, z = (left_below, other) if other > z else (x, z)
                other = right_below * scale[c] + shift[c]
                x, z = (right_below, other) if other > z else (x, z)
                dz = grad if z > zero else zero
                first[c] += dz
                second[c] += dz * (x - center[c])
        else:
            x_row = carray(floats_at(task.x + row * channels * FLOAT), channels)
            for c in range(channels):
                x, grad = x_row[c], y[c]
                dz = grad if x * scale[c] + shift[c] > zero else zero
                first[c] += dz
                second[c] += dz * (x - center[c])


@kernel(ROWS)
def gradient(task: Any, thread: int, block: int) -> None:
    """dx (first) = scale * dz + slope * x + center, where y is the gradient of the output."""
    width, channels = task.width, task.channels
    scale, shift = carray(floats_at(task.scale), channels), carray(floats_at(task.shift), channels)
    center, slope = carray(floats_at(task.center), channels), carray(floats_at(task.slope), channels)
    zero = np.float32(0)
    start, stop = share(task.rows, block, task.blocks)
    for row in range(start, stop):
        y = carray(floats_at(task.y + row * channels * FLOAT), channels)
        if task.pool:
            top, down = window(row, width, channels), 2 * width * channels * FLOAT
            above = carray(floats_at(task.x + top), (2, channels))
            below = carray(floats_at(task.x + top + down), (2, channels))
            to_above = carray(floats_at(task.first + top), (2, channels))
            to_below = carray(floats_at(task.first + top + down), (2, channels))
            for c in range(channels):
                a, b = above[0, c] * scale[c] + shift[c], above[1, c] * scale[c] + shift[c]
                d, e = below[0, c] * scale[c] + shift[c], below[1, c] * scale[c] + shift[c]
                z = max(max(a, b), max(d, e))
                dz = y[c] * scale[c] if z > zero else zero
                is_a = a == z
                is_b = (b == z) & (not is_a)
                is_d = (d == z) & (not (is_a | is_b))
                is_e = not (is_a | is_b | is_d)
                to_above[0, c] = (dz if is_a else zero) + slope[c] * above[0, c] + center[c]
                to_above[1, c] = (dz if is_b else zero) + slope[c] * above[1, c] + center[c]
                to_below[0, c] = (dz if is_d else zero) + slope[c] * below[0, c] + center[c]
                to_below[1, c] = (dz if is_e else zero) + slope[c] * below[1, c] + center[c]
        else:
            x = carray(floats_at(task.x + row * channels * FLOAT), channels)
            dx = carray(floats_at(task.first + row * channels * FLOAT), channels)
            for c in range(channels):
                dz = y[c] * scale[c] if x[c] * scale[c] + shift[c] > zero else zero
                dx[c] = dz + slope[c] * x[c] + center[c]
