"""The compiled parts of batch norm with ReLU and max pool; `batch_norm` calls them.

Arrays are float32: activations (N, H, W, C), and one value for each channel, or for each part and channel. Activations
may also be bfloat16. A part is the share of the rows (pixels) that one block of `moments` or `gradient_sums` adds up.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.kernel import Kernel, kernel, task_type
from vggnet.accel.kernels.llvm import floats_at
from vggnet.accel.kernels.stored_values import as_float32, as_stored, values_at

ROWS = task_type("rows", "width", "channels", "pool", "x", "y", "scale", "shift", "center", "slope", "first", "second")
JOINED = 64  # channels in a block of a kernel that joins the parts
JOIN = task_type(
    "parts", "rows", "channels", "first", "second", "mean", "variance", "scale", "inverse", "slope", "center",
    "for_weight", "for_bias",
)  # fmt: skip


class ActivationKernels(NamedTuple):
    """Those that read or write activations: x and its gradient of one type, y and its gradient of another."""

    moments: Kernel
    normalize: Kernel
    gradient_sums: Kernel
    gradient: Kernel


@njit
def share(rows: int, block: int, blocks: int) -> tuple[int, int]:
    """First row of this block, and of the next."""
    return rows * block // blocks, rows * (block + 1) // blocks


@njit
def window(row: int, width: int) -> tuple[int, int]:
    """The first pixels in the upper and in the lower half of the 2x2 window of a pooled pixel."""
    first = row // width * 4 * width + row % width * 2
    return first, first + 2 * width


@njit
def larger(a: np.float32, b: np.float32) -> np.float32:
    """The larger one; what is no number if one of them is none, as in PyTorch's pools."""
    return b if (b > a) | (b != b) else a


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


@cache
def for_types(x_bytes: int, y_bytes: int) -> ActivationKernels:
    """The kernels for x and y of so many bytes a value: 4 for float32, 2 for bfloat16."""

    @kernel(ROWS)
    def moments(task: Any, thread: int, block: int) -> None:
        """Mean (first) and sum of squared differences from it (second) of each part, by channel."""
        channels = task.channels
        start, stop = share(task.rows, block, task.blocks)
        x = values_at(task.x, (task.rows, channels), x_bytes)
        mean = carray(floats_at(task.first + block * channels * FLOAT), channels)
        squares = carray(floats_at(task.second + block * channels * FLOAT), channels)
        mean[:] = 0
        squares[:] = 0
        for row in range(start, stop):
            for c in range(channels):
                mean[c] += as_float32(x[row, c])
        inverse = np.float32(1.0 / (stop - start))
        for c in range(channels):
            mean[c] *= inverse
        for row in range(start, stop):
            for c in range(channels):
                difference = as_float32(x[row, c]) - mean[c]
                squares[c] += difference * difference

    @kernel(ROWS)
    def normalize(task: Any, thread: int, block: int) -> None:
        """y = max(x * scale + shift, 0); with `pool`, the largest of each 2x2 window. `rows` are those of y."""
        rows, width, channels = task.rows, task.width, task.channels
        scale, shift = carray(floats_at(task.scale), channels), carray(floats_at(task.shift), channels)
        x = values_at(task.x, (4 * rows if task.pool else rows, channels), x_bytes)
        y = values_at(task.y, (rows, channels), y_bytes)
        zero = np.float32(0)
        start, stop = share(rows, block, task.blocks)
        for row in range(start, stop):
            if task.pool:
                above, below = window(row, width)
                for c in range(channels):
                    a = as_float32(x[above, c]) * scale[c] + shift[c]
                    b = as_float32(x[above + 1, c]) * scale[c] + shift[c]
                    d = as_float32(x[below, c]) * scale[c] + shift[c]
                    e = as_float32(x[below + 1, c]) * scale[c] + shift[c]
                    z = larger(larger(a, b), larger(d, e))
                    y[row, c] = as_stored(zero if z < zero else z, y_bytes)
            else:
                for c in range(channels):
                    z = as_float32(x[row, c]) * scale[c] + shift[c]
                    y[row, c] = as_stored(zero if z < zero else z, y_bytes)

    @kernel(ROWS)
    def gradient_sums(task: Any, thread: int, block: int) -> None:
        """By channel and part: sums of dz (first) and of dz * (x - center) (second). y is the gradient of the output.

        Values are read before they are chosen from: else there are no vectors on CPUs that cannot mask what they read.
        """
        rows, width, channels = task.rows, task.width, task.channels
        scale, shift = carray(floats_at(task.scale), channels), carray(floats_at(task.shift), channels)
        center = carray(floats_at(task.center), channels)
        x = values_at(task.x, (4 * rows if task.pool else rows, channels), x_bytes)
        y = values_at(task.y, (rows, channels), y_bytes)
        zero = np.float32(0)
        start, stop = share(rows, block, task.blocks)
        first = carray(floats_at(task.first + block * channels * FLOAT), channels)
        second = carray(floats_at(task.second + block * channels * FLOAT), channels)
        first[:] = 0
        second[:] = 0
        for row in range(start, stop):
            if task.pool:
                above, below = window(row, width)
                for c in range(channels):
                    left, right = as_float32(x[above, c]), as_float32(x[above + 1, c])
                    left_below, right_below = as_float32(x[below, c]), as_float32(x[below + 1, c])
                    grad = as_float32(y[row, c])
                    largest, z = left, left * scale[c] + shift[c]
                    other = right * scale[c] + shift[c]
                    largest, z = (right, other) if other > z else (largest, z)
                    other = left_below * scale[c] + shift[c]
                    largest, z = (left_below, other) if other > z else (largest, z)
                    other = right_below * scale[c] + shift[c]
                    largest, z = (right_below, other) if other > z else (largest, z)
                    dz = grad if z > zero else zero
                    first[c] += dz
                    second[c] += dz * (largest - center[c])
            else:
                for c in range(channels):
                    value, grad = as_float32(x[row, c]), as_float32(y[row, c])
                    dz = grad if value * scale[c] + shift[c] > zero else zero
                    first[c] += dz
                    second[c] += dz * (value - center[c])

    @kernel(ROWS)
    def gradient(task: Any, thread: int, block: int) -> None:
        """dx (first) = scale * dz + slope * x + center, where y is the gradient of the output."""
        rows, width, channels = task.rows, task.width, task.channels
        scale, shift = carray(floats_at(task.scale), channels), carray(floats_at(task.shift), channels)
        center, slope = carray(floats_at(task.center), channels), carray(floats_at(task.slope), channels)
        pixels = 4 * rows if task.pool else rows
        x = values_at(task.x, (pixels, channels), x_bytes)
        dx = values_at(task.first, (pixels, channels), x_bytes)
        y = values_at(task.y, (rows, channels), y_bytes)
        zero = np.float32(0)
        start, stop = share(rows, block, task.blocks)
        for row in range(start, stop):
            if task.pool:
                above, below = window(row, width)
                for c in range(channels):
                    left, right = as_float32(x[above, c]), as_float32(x[above + 1, c])
                    left_below, right_below = as_float32(x[below, c]), as_float32(x[below + 1, c])
                    a, b = left * scale[c] + shift[c], right * scale[c] + shift[c]
                    d, e = left_below * scale[c] + shift[c], right_below * scale[c] + shift[c]
                    z = max(max(a, b), max(d, e))
                    dz = as_float32(y[row, c]) * scale[c] if z > zero else zero
                    is_a = a == z
                    is_b = (b == z) & (not is_a)
                    is_d = (d == z) & (not (is_a | is_b))
                    is_e = not (is_a | is_b | is_d)
                    dx[above, c] = as_stored((dz if is_a else zero) + slope[c] * left + center[c], x_bytes)
                    dx[above + 1, c] = as_stored((dz if is_b else zero) + slope[c] * right + center[c], x_bytes)
                    dx[below, c] = as_stored((dz if is_d else zero) + slope[c] * left_below + center[c], x_bytes)
                    dx[below + 1, c] = as_stored((dz if is_e else zero) + slope[c] * right_below + center[c], x_bytes)
            else:
                for c in range(channels):
                    value = as_float32(x[row, c])
                    dz = as_float32(y[row, c]) * scale[c] if value * scale[c] + shift[c] > zero else zero
                    dx[row, c] = as_stored(dz + slope[c] * value + center[c], x_bytes)

    return ActivationKernels(moments, normalize, gradient_sums, gradient)
