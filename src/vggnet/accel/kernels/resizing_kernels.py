"""The compiled parts of a 2x2 max pool, and of enlarging a map by 2 and joining another one; `resizing` calls them.

Arrays are channels-last (N, H, W, C), float32 or bfloat16. `rows` are the pixels of the smaller maps, and `width` is
theirs: each stands for a 2x2 window of the larger ones.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from vggnet.accel.kernels.batch_norm_kernels import larger, share, window
from vggnet.accel.kernels.kernel import Kernel, kernel, task_type
from vggnet.accel.kernels.stored_values import as_float32, as_stored, values_at

POOL = task_type("rows", "width", "channels", "large", "small", "grad")
JOIN = task_type("rows", "width", "channels", "more_channels", "small", "large", "joined")


class ResizingKernels(NamedTuple):
    """Those for maps of one type."""

    pool: Kernel
    pool_gradient: Kernel
    join: Kernel
    join_gradient: Kernel


@cache
def for_type(value_bytes: int) -> ResizingKernels:
    """The kernels for values of so many bytes: 4 for float32, 2 for bfloat16."""

    @kernel(POOL)
    def pool(task: Any, thread: int, block: int) -> None:
        """small = the largest of each 2x2 window of large."""
        rows, channels = task.rows, task.channels
        large = values_at(task.large, (4 * rows, channels), value_bytes)
        small = values_at(task.small, (rows, channels), value_bytes)
        start, stop = share(rows, block, task.blocks)
        for row in range(start, stop):
            above, below = window(row, task.width)
            for c in range(channels):
                upper = larger(as_float32(large[above, c]), as_float32(large[above + 1, c]))
                lower = larger(as_float32(large[below, c]), as_float32(large[below + 1, c]))
                small[row, c] = as_stored(larger(upper, lower), value_bytes)

    @kernel(POOL)
    def pool_gradient(task: Any, thread: int, block: int) -> None:
        """grad, of large, is small at the first of the largest values of each window, and 0 elsewhere."""
        rows, channels = task.rows, task.channels
        large = values_at(task.large, (4 * rows, channels), value_bytes)
        small = values_at(task.small, (rows, channels), value_bytes)
        grad = values_at(task.grad, (4 * rows, channels), value_bytes)
        zero = np.float32(0)
        start, stop = share(rows, block, task.blocks)
        for row in range(start, stop):
            above, below = window(row, task.width)
            for c in range(channels):
                a, b = as_float32(large[above, c]), as_float32(large[above + 1, c])
                d, e = as_float32(large[below, c]), as_float32(large[below + 1, c])
                z, given = larger(larger(a, b), larger(d, e)), as_float32(small[row, c])
                is_a = a == z
                is_b = (b == z) & (not is_a)
                is_d = (d == z) & (not (is_a | is_b))
                is_e = not (is_a | is_b | is_d)
                grad[above, c] = as_stored(given if is_a else zero, value_bytes)
                grad[above + 1, c] = as_stored(given if is_b else zero, value_bytes)
                grad[below, c] = as_stored(given if is_d else zero, value_bytes)
                grad[below + 1, c] = as_stored(given if is_e else zero, value_bytes)

    @kernel(JOIN)
    def join(task: Any, thread: int, block: int) -> None:
        """joined = the channels of small, each pixel four times, and then those of large."""
        rows, channels, more = task.rows, task.channels, task.more_channels
        small = values_at(task.small, (rows, channels), value_bytes)
        large = values_at(task.large, (4 * rows, more), value_bytes)
        joined = values_at(task.joined, (4 * rows, channels + more), value_bytes)
        start, stop = share(rows, block, task.blocks)
        for row in range(start, stop):
            above, below = window(row, task.width)
            for pixel in (above, above + 1, below, below + 1):
                for c in range(channels):
                    joined[pixel, c] = small[row, c]
                for c in range(more):
                    joined[pixel, channels + c] = large[pixel, c]

    @kernel(JOIN)
    def join_gradient(task: Any, thread: int, block: int) -> None:
        """The gradients of small and large from that of joined; sums in float32."""
        rows, channels, more = task.rows, task.channels, task.more_channels
        small = values_at(task.small, (rows, channels), value_bytes)
        large = values_at(task.large, (4 * rows, more), value_bytes)
        joined = values_at(task.joined, (4 * rows, channels + more), value_bytes)
        start, stop = share(rows, block, task.blocks)
        for row in range(start, stop):
            above, below = window(row, task.width)
            for c in range(channels):
                upper = as_float32(joined[above, c]) + as_float32(joined[above + 1, c])
                lower = as_float32(joined[below, c])
                small[row, c] = as_stored(upper + lower + as_float32(joined[below + 1, c]), value_bytes)
            for pixel in (above, above + 1, below, below + 1):
                for c in range(more):
                    large[pixel, c] = joined[pixel, channels + c]

    return ResizingKernels(pool, pool_gradient, join, join_gradient)
