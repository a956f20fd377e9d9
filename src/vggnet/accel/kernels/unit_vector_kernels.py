"""The compiled parts of `unit_vectors`: distances between the vectors at each place, scaled to length 1.

All arrays are float32: activations (places, channels), a weight for each channel, and one value for each place.
"""

from typing import Any

import numpy as np
from numba import carray, njit

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.batch_norm_kernels import share
from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.llvm import floats_at

PLACES = task_type("rows", "channels", "first", "second", "weight", "scales", "values", "to_first", "to_second")
LEAST = np.float32(1e-10)  # the length of a shorter vector counts as this
ZERO = np.float32(1) / LEAST  # the scale of such a vector

_sums = njit(fastmath={"reassoc"})  # sums in any order, so in vectors; no more, as equal maps are at distance 0


@_sums
def _scale(x: Any) -> Any:
    """1 / length."""
    total = np.float32(0)
    for c in range(len(x)):
        total += x[c] * x[c]
    return np.float32(1) / max(np.sqrt(total), LEAST)


@_sums
def _distance(x: Any, y: Any, weight: Any, a: Any, b: Any) -> Any:
    total = np.float32(0)
    for c in range(len(x)):
        difference = x[c] * a - y[c] * b
        total += weight[c] * difference * difference
    return total


@_sums
def _slope(x: Any, y: Any, weight: Any, a: Any, b: Any) -> Any:
    """Half the derivative of the distance by the length of the scaled x."""
    total = np.float32(0)
    for c in range(len(x)):
        total += weight[c] * (x[c] * a - y[c] * b) * (x[c] * a)
    return total


@kernel(PLACES)
def distances(task: Any, thread: int, block: int) -> None:
    """values = sum over c of weight (first / |first| - second / |second|)^2, and scales = 1 / length of both."""
    channels = task.channels
    weight = carray(floats_at(task.weight), channels)
    start, stop = share(task.rows, block, task.blocks)
    for row in range(start, stop):
        x = carray(floats_at(task.first + row * channels * FLOAT), channels)
        y = carray(floats_at(task.second + row * channels * FLOAT), channels)
        scales = carray(floats_at(task.scales + row * 2 * FLOAT), 2)
        scales[0], scales[1] = _scale(x), _scale(y)
        value = carray(floats_at(task.values + row * FLOAT), 1)
        value[0] = _distance(x, y, weight, scales[0], scales[1])


@kernel(PLACES)
def gradients(task: Any, thread: int, block: int) -> None:
    """Gradients of both maps, into to_first and to_second unless these are 0; values are those of the distances."""
    channels = task.channels
    weight = carray(floats_at(task.weight), channels)
    start, stop = share(task.rows, block, task.blocks)
    for row in range(start, stop):
        x = carray(floats_at(task.first + row * channels * FLOAT), channels)
        y = carray(floats_at(task.second + row * channels * FLOAT), channels)
        scales = carray(floats_at(task.scales + row * 2 * FLOAT), 2)
        value = carray(floats_at(task.values + row * FLOAT), 1)
        if task.to_first:
            to_x = carray(floats_at(task.to_first + row * channels * FLOAT), channels)
            _gradient(x, y, weight, scales[0], scales[1], value[0], to_x)
        if task.to_second:
            to_y = carray(floats_at(task.to_second + row * channels * FLOAT), channels)
            _gradient(y, x, weight, scales[1], scales[0], value[0], to_y)


@njit
def _gradient(x: Any, y: Any, weight: Any, a: Any, b: Any, value: Any, to_x: Any) -> None:
    """That of x; a vector that counts as zero has none."""
    factor = np.float32(0) if a >= ZERO else np.float32(2) * value * a
    slope = _slope(x, y, weight, a, b)
    for c in range(len(x)):
        to_x[c] = factor * (weight[c] * (x[c] * a - y[c] * b) - slope * (x[c] * a))
