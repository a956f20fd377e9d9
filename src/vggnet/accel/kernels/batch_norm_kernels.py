"""The compiled parts of `norm`, each run by every thread at once until no block of work is left.

All arrays are float32: activations (N, H, W, C), and one value for each channel, or for each block and channel.
"""

from typing import Any

import numpy as np
from numba import carray

from vggnet.accel.kernels.llvm import FLOAT, fetch_add, floats_at
from vggnet.accel.kernels.winograd_kernels import compiled

TASK = np.dtype(
    [
        (name, np.int64)
        for name in (
            "slots", "next", "blocks", "rows", "width", "channels", "pool",
            "x", "y", "scale", "shift", "center", "slope", "first", "second",
        )
    ]
)  # fmt: skip

JOINED = 64  # channels that a thread joins at a time
JOIN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "slots", "next", "blocks", "rows", "channels", "first", "second", "mean", "variance",
            "scale", "inverse", "slope", "center", "for_weight", "for_bias",
        )
    ]
)  # fmt: skip


@compiled(TASK)
def moments(pointer: Any) -> None:
    """Mean (first) and sum of squared differences from it (second) of each block of rows, by channel."""
    task = carray(pointer, 1)[0]
    counter = carray(pointer, 1).ctypes.data + 8
    rows, channels = task.rows, task.channels
    while True:
        block = fetch_add(counter, 1)
        if block >= task.blocks:
            break
        start, stop = rows * block // task.blocks, rows * (block + 1) // task.blocks
        x = carray(floats_at(task.x + start * channels * 4), (stop - start, channels))
        mean = carray(floats_at(task.first + block * channels * 4), channels)
        squares = carray(floats_at(task.second + block * channels * 4), channels)
        mean[:] = 0
        squares[:] = 0
        for i in range(stop - start):
            for c in range(channels):
                mean[c] += x[i, c]
        share = np.float32(1.0 / (stop - start))
        for c in range(channels):
            mean[c] *= share
        for i in range(stop - start):
            for c in range(channels):
                difference = x[i, c] - mean[c]
                squares[c] += difference * difference


@compiled(JOIN)
def join_moments(pointer: Any) -> None:
    """Mean and biased variance by channel from those of the blocks, in float64 (Chan et al., 1979)."""
    task = carray(pointer, 1)[0]
    counter = carray(pointer, 1).ctypes.data + 8
    total, squares = np.empty(JOINED, np.float64), np.empty(JOINED, np.float64)
    while True:
        start = fetch_add(counter, 1) * JOINED
        if start >= task.channels:
            break
        count = min(JOINED, task.channels - start)
        total[:] = 0
        squares[:] = 0
        for block in range(task.blocks):
            size = task.rows * (block + 1) // task.blocks - task.rows * block // task.blocks
            mean = carray(floats_at(task.first + (block * task.channels + start) * FLOAT), count)
            for c in range(count):
                total[c] += size * np.float64(mean[c])
        for block in range(task.blocks):
            size = task.rows * (block + 1) // task.blocks - task.rows * block // task.blocks
            mean = carray(floats_at(task.first + (block * task.channels + start) * FLOAT), count)
            within = carray(floats_at(task.second + (block * task.channels + start) * FLOAT), count)
            for c in range(count):
                difference = np.float64(mean[c]) - total[c] / task.rows
                squares[c] += within[c] + size * difference * difference
        means = carray(floats_at(task.mean + start * FLOAT), count)
        variances = carray(floats_at(task.variance + start * FLOAT), count)
        for c in range(count):
            means[c] = total[c] / task.rows
            variances[c] = squares[c] / task.rows


@compiled(JOIN)
def join_gradient_sums(pointer: Any) -> None:
    """From the blocks' sums, added in float64, the gradients of weight and bias, and what `gradient` needs."""
    task = carray(pointer, 1)[0]
    counter = carray(pointer, 1).ctypes.data + 8
    dz, dz_x = np.empty(JOINED, np.float64), np.empty(JOINED, np.float64)
    while True:
        start = fetch_add(counter, 1) * JOINED
        if start >= task.channels:
            break
        count = min(JOINED, task.channels - start)
        dz[:] = 0
        dz_x[:] = 0
        for block in range(task.blocks):
            first = carray(floats_at(task.first + (block * task.channels + start) * FLOAT), count)
            second = carray(floats_at(task.second + (block * task.channels + start) * FLOAT), count)
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


@compiled(TASK)
def normalize(pointer: Any) -> None:
    """y = max(x * scale + shift, 0); with `pool`, the largest of each 2x2 window. `rows` are those of y."""
    task = carray(pointer, 1)[0]
    counter = carray(pointer, 1).ctypes.data + 8
    rows, width, channels = task.rows, task.width, task.channels
    scale, shift = carray(floats_at(task.scale), channels), carray(floats_at(task.shift), channels)
    zero = np.float32(0)
    while True:
        block = fetch_add(counter, 1)
        if block >= task.blocks:
            break
        start, stop = rows * block // task.blocks, rows * (block + 1) // task.blocks
        for row in range(start, stop):
            y = carray(floats_at(task.y + row * channels * 4), channels)
            if task.pool:
                top = task.x + (row // width * 4 * width + row % width * 2) * channels * 4
                above = carray(floats_at(top), (2, channels))
                below = carray(floats_at(top + 2 * width * channels * 4), (2, channels))
                for c in range(channels):
                    a, b = above[0, c] * scale[c] + shift[c], above[1, c] * scale[c] + shift[c]
                    d, e = below[0, c] * scale[c] + shift[c], below[1, c] * scale[c] + shift[c]
                    z = max(max(a, b), max(d, e))
                    y[c] = zero if z < zero else z
            else:
                x = carray(floats_at(task.x + row * channels * 4), channels)
                for c in range(channels):
                    z = x[c] * scale[c] + shift[c]
                    y[c] = zero if z < zero else z


@compiled(TASK)
def gradient_sums(pointer: Any) -> None:
    """By channel and block: sums of dz (first) and of dz * (x - center) (second). y is the gradient of the output."""
    task = carray(pointer, 1)[0]
    counter = carray(pointer, 1).ctypes.data + 8
    rows, width, channels = task.rows, task.width, task.channels
    scale, shift = carray(floats_at(task.scale), channels), carray(floats_at(task.shift), channels)
    center = carray(floats_at(task.center), channels)
    zero = np.float32(0)
    while True:
        block = fetch_add(counter, 1)
        if block >= task.blocks:
            break
        start, stop = rows * block // task.blocks, rows * (block + 1) // task.blocks
        first = carray(floats_at(task.first + block * channels * 4), channels)
        second = carray(floats_at(task.second + block * channels * 4), channels)
        first[:] = 0
        second[:] = 0
        for row in range(start, stop):
            y = carray(floats_at(task.y + row * channels * 4), channels)
            if task.pool:
                top = task.x + (row // width * 4 * width + row % width * 2) * channels * 4
                above = carray(floats_at(top), (2, channels))
                below = carray(floats_at(top + 2 * width * channels * 4), (2, channels))
                for c in range(channels):
                    x = above[0, c]
                    z = x * scale[c] + shift[c]
                    other = above[1, c] * scale[c] + shift[c]
                    x, z = (above[1, c], other) if other > z else (x, z)
                    other = below[0, c] * scale[c] + shift[c]
                    x, z = (below[0, c], other) if other > z else (x, z)
                    other = below[1, c] * scale[c] + shift[c]
                    x, z = (below[1, c], other) if other > z else (x, z)
                    dz = y[c] if z > zero else zero
                    first[c] += dz
                    second[c] += dz * (x - center[c])
            else:
                x_row = carray(floats_at(task.x + row * channels * 4), channels)
                for c in range(channels):
                    dz = y[c] if x_row[c] * scale[c] + shift[c] > zero else zero
                    first[c] += dz
                    second[c] += dz * (x_row[c] - center[c])


@compiled(TASK)
def gradient(pointer: Any) -> None:
    """dx (first) = scale * dz + slope * x + center, where y is the gradient of the output."""
    task = carray(pointer, 1)[0]
    counter = carray(pointer, 1).ctypes.data + 8
    rows, width, channels = task.rows, task.width, task.channels
    scale, shift = carray(floats_at(task.scale), channels), carray(floats_at(task.shift), channels)
    center, slope = carray(floats_at(task.center), channels), carray(floats_at(task.slope), channels)
    zero = np.float32(0)
    while True:
        block = fetch_add(counter, 1)
        if block >= task.blocks:
            break
        start, stop = rows * block // task.blocks, rows * (block + 1) // task.blocks
        for row in range(start, stop):
            y = carray(floats_at(task.y + row * channels * 4), channels)
            if task.pool:
                place = (row // width * 4 * width + row % width * 2) * channels * 4
                down = 2 * width * channels * 4
                above = carray(floats_at(task.x + place), (2, channels))
                below = carray(floats_at(task.x + place + down), (2, channels))
                to_above = carray(floats_at(task.first + place), (2, channels))
                to_below = carray(floats_at(task.first + place + down), (2, channels))
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
                x = carray(floats_at(task.x + row * channels * 4), channels)
                dx = carray(floats_at(task.first + row * channels * 4), channels)
                for c in range(channels):
                    dz = y[c] * scale[c] if x[c] * scale[c] + shift[c] > zero else zero
                    dx[c] = dz + slope[c] * x[c] + center[c]
