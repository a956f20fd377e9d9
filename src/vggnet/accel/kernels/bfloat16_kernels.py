"""The compiled parts of a convolution with products in bfloat16; `algorithms.bfloat16` calls them.

Memory layout: a batch is a sequence of positions. One position of zeros follows each row of pixels, and one row of
zeros follows each image, so that the nine neighbors of every pixel are at the same distances from it. Zeros also
precede the first image. For a kernel with dilation d this gap is d positions and d rows, for one of 1x1 there is none.
Sums are computed at the padding as well and discarded. A thread packs the positions of its block as they are needed, so
that packed ones stay in its cache.
"""

from typing import Any

import numpy as np
from numba import carray, njit

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.addresses import address_of, keep
from vggnet.accel.kernels.bfloat16_packing import (
    PIXEL,
    find_pixels,
    find_results,
    pack_pairs,
    pack_pixels,
    pack_rests,
    pack_transposed,
    pack_windows,
)
from vggnet.accel.kernels.bfloat16_vectors import (
    NEIGHBORS,
    convolve_and_finish_bfloat16,
    convolve_and_finish_float32,
    copy_values,
    finish_bfloat16,
    finish_float32,
    round_pairs,
    transpose_pairs,
)
from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.llvm import floats_at
from vggnet.accel.kernels.stored_values import as_stored, values_at
from vggnet.accel.kernels.tiles import (
    BFLOAT16,
    ROW,
    SIDE,
    STEP,
    TILE,
    add_products,
    add_steps,
    clear_sums,
    configure_tiles,
    load_sums,
    release_tiles,
    store_sums,
)

DEPTH = 256  # positions that the weight's gradient sums over before it turns to the next tap: they stay in the L1 cache
SUMS = SIDE * ROW  # bytes of the sums of 32 input and 32 output channels, for each tap

WEIGHTS = task_type("in_channels", "out_channels", "taps", "w", "packed", "turned")
PRODUCTS = task_type(
    "n", "height", "width", "taps", "gap", "in_channels", "out_channels", "images", "rows", "parts", "first", "pool",
    "split", "x_bytes", "y_bytes", "tiles", "x", "zeros", "b", "b_panel", "bias", "least", "y", "unused",
    "scratch", "scratch_bytes", "before_channels", "before_b", "before_bias", "before_least",
)  # fmt: skip
WEIGHT_SUMS = task_type(
    "n", "height", "width", "taps", "gap", "in_channels", "out_channels", "positions", "chunk", "parts", "groups",
    "first", "x_bytes", "grad_bytes", "tiles", "x", "grad", "zeros", "a_row", "a_bytes", "copies", "b_copy",
    "sums", "y", "scratch", "scratch_bytes",
)  # fmt: skip


@kernel(WEIGHTS)
def pack_weights(task: Any, thread: int, block: int) -> None:
    """A weight (K, C, 3, 3) or (K, C, 1, 1) in channels-last memory as B of a convolution; a block is 32 of its K rows.

    turned: by 180 degrees, C and K exchanged, as for the gradient of the input.
    """
    taps, tap_bytes = task.taps, task.in_channels * FLOAT
    kernel_bytes = taps * tap_bytes
    rows, columns = task.out_channels // SIDE, task.in_channels // SIDE
    for tap in range(taps):
        for column in range(columns):  # the rows are read in the order of memory
            source = task.w + block * SIDE * kernel_bytes + tap * tap_bytes + column * SIDE * FLOAT
            if task.turned:
                destination = task.packed + ((column * rows + block) * taps + taps - 1 - tap) * STEP
                for pair in range(TILE):
                    row = source + 2 * pair * kernel_bytes
                    round_pairs(row, row + kernel_bytes, destination + pair * ROW)
            else:
                destination = task.packed + ((block * columns + column) * taps + tap) * STEP
                for half in range(2):
                    transpose_pairs(
                        source + half * TILE * kernel_bytes, kernel_bytes, destination + half * TILE * FLOAT
                    )


@kernel(WEIGHTS)
def pack_few_weights(task: Any, thread: int, block: int) -> None:
    """A weight of few input channels as B of a convolution of windows; a block is 32 of its K rows."""
    factors = 9 * task.in_channels
    w = values_at(task.w + block * SIDE * factors * FLOAT, (SIDE, factors), FLOAT)
    b = values_at(task.packed + block * STEP, (TILE, 2 * SIDE), BFLOAT16)
    b[:] = 0
    for row in range(SIDE):
        for i in range(factors):
            b[i // 2, 2 * row + i % 2] = as_stored(w[row, i], BFLOAT16)


@njit(inline="never")
def finish(y_bytes: int, sums: int, count: int, bias: int, others: int, destinations: int, offset: int) -> None:
    """As `finish_float32` or `finish_bfloat16`."""
    if y_bytes == FLOAT:
        finish_float32(sums, count, bias, others, destinations, offset)
    else:
        finish_bfloat16(sums, count, bias, others, destinations, offset)


@njit(inline="never")
def pack_results(task: Any, start: int, stop: int, packed: int, row: int, windows: int, sums: int, unused: int) -> None:
    """As `pack_pixels` for positions from `start` to `stop`: the results of the convolution before this one."""
    height, width, channels = task.height, task.width, task.before_channels
    gap, first, panels = task.gap, task.first, task.in_channels // SIDE
    pitch = width + gap
    pixels = find_pixels(start - first, stop + first, task.n, height, width, gap, channels * FLOAT, task.x, task.zeros)
    pack_windows(pixels, pitch, channels, windows)
    others = np.full(stop - start, task.before_least, np.int64)
    for panel in range(panels):
        destinations = find_pixels(start, stop, task.n, height, width, gap, 0, 1, 0)  # 1 for a pixel, 0 for padding
        for i in range(len(destinations)):
            place = packed + panel * row + i * PIXEL
            if destinations[i]:
                destinations[i] = place
            else:
                destinations[i] = unused
                copy_values(task.zeros, place)
        b, bias = task.before_b + panel * STEP, task.before_bias + panel * SIDE * FLOAT
        for i in range(0, stop - start, SIDE):
            clear_sums()
            add_products(windows + i * PIXEL, PIXEL, b)
            store_sums(sums)
            place, other = address_of(destinations) + i * 8, address_of(others) + i * 8
            finish_bfloat16(sums, min(SIDE, stop - start - i), bias, other, place, 0)
        keep(destinations, others)


@njit(inline="never")
def add_neighbors(a: int, a_step: int, neighbors: Any, b: int, steps: int) -> None:
    """Add the products of 32 positions' neighbors to the sums. `a_step`: bytes from 32 channels to the next."""
    for step in range(steps):
        for i in range(NEIGHBORS):
            add_products(a + step * a_step + neighbors[i], PIXEL, b + (step * NEIGHBORS + i) * STEP)


@kernel(PRODUCTS)
def convolve(task: Any, thread: int, block: int) -> None:
    """y = what follows a convolution of x; a block is a part of the output channels of `images` images or `rows` rows.

    y is at least `least`, a value for each output channel: 0 for ReLU. With `pool` a block has whole windows of 2x2
    pixels, and y is pooled. Scratch memory for each thread: `unused` bytes, 32 x 32 sums twice, as the last ones become
    results while the next ones are computed, and the positions of a block with `first` ones before and after it; the
    last sums may reach 31 positions further. Of few channels the nine factors of a position lie side by side. With
    `split` the rests of positions lie behind their values, and the packed rests of the weights too; values by values,
    rests by values and values by rests are added. With `before_channels` x is what another convolution of so few
    channels takes, and its results are what is convolved here.
    """
    configure_tiles(task.tiles)
    height, width, gap = task.height, task.width, task.gap
    pitch, panels, steps = width + gap, task.out_channels // SIDE, task.in_channels // SIDE
    size, bands = (height + gap) * pitch, -(-height // task.rows)
    block, part = block // task.parts, block % task.parts
    image, top = block // bands * task.images, block % bands * task.rows
    start = image * size + top * pitch
    stop = (min(image + task.images, task.n) - 1) * size + min(top + task.rows, height) * pitch
    addresses = find_pixels(
        start - task.first, stop + task.first, task.n, height, width, gap, task.in_channels * task.x_bytes, task.x,
        task.zeros,
    )  # fmt: skip
    unused = task.scratch + thread * task.scratch_bytes
    first_sums = unused + task.unused
    a, a_step = first_sums + 2 * SIDE * ROW, (len(addresses) + SIDE) * PIXEL
    if task.before_channels:
        pack_results(task, start - task.first, stop + task.first, a, a_step, a + steps * a_step, first_sums, unused)
    elif steps:
        pack_pixels(addresses, task.in_channels, task.x_bytes, a, a_step)
        if task.split:
            pack_rests(addresses, task.in_channels, a + steps * a_step, a_step)
    else:
        pack_windows(addresses, pitch, task.in_channels, a)
    destinations, others = find_results(
        start, stop, height, width, gap, task.out_channels * task.y_bytes, task.pool, task.y, task.least, unused
    )
    sums, before = first_sums, first_sums + SIDE * ROW
    neighbors = np.array([(i // 3 * pitch + i % 3) * gap * PIXEL for i in range(NEIGHBORS)])
    rate, rows, bias_before, offset_before = -(-SIDE // (NEIGHBORS * max(steps, 1))), 0, task.bias, 0
    to, other = address_of(destinations), address_of(others)
    for panel in range(panels * part // task.parts, panels * (part + 1) // task.parts):
        b, bias, offset = task.b + panel * task.b_panel, task.bias + panel * SIDE * FLOAT, panel * SIDE * task.y_bytes
        for first in range(0, stop - start, SIDE):
            factors = a + first * PIXEL
            if task.taps == 1:
                finish(task.y_bytes, before, rows, bias_before, other, to, offset_before)
                clear_sums()
                add_steps(factors, PIXEL, a_step, b, max(steps, 1))
                store_sums(sums)
            elif task.y_bytes == FLOAT:
                convolve_and_finish_float32(
                    factors, PIXEL, a_step, address_of(neighbors), b, sums, steps,
                    rate, before, rows, bias_before, other, to, offset_before,
                )  # fmt: skip
            else:
                convolve_and_finish_bfloat16(
                    factors, PIXEL, a_step, address_of(neighbors), b, sums, steps,
                    rate, before, rows, bias_before, other, to, offset_before,
                )  # fmt: skip
            if task.split:
                load_sums(sums)
                add_neighbors(factors + steps * a_step, a_step, neighbors, b, steps)
                add_neighbors(factors, a_step, neighbors, b + panels * task.b_panel, steps)
                store_sums(sums)
            rows, bias_before, offset_before = min(SIDE, stop - start - first), bias, offset
            to, other = address_of(destinations) + first * 8, address_of(others) + first * 8
            sums, before = before, sums
    finish(task.y_bytes, before, rows, bias_before, other, to, offset_before)
    keep(destinations, others, neighbors)
    release_tiles()


@kernel(WEIGHT_SUMS)
def sum_weight_gradients(task: Any, thread: int, block: int) -> None:
    """Sums of the weight's gradient, (parts, K / 32, C / 32, taps, 32, 32); a block is a part of positions and of K.

    The gradient is A, whose rows lie at the same place for all taps, and x is B, whose pairs of positions lie elsewhere
    for each tap. If a tap is an odd number of positions away from the first one, its pairs are those of another copy,
    which begins one position later: so every tile is aligned. Scratch memory for each thread: `a_bytes` for a group's
    channels of the gradient, then for each 32 channels of x `copies` of `b_copy` bytes.
    """
    configure_tiles(task.tiles)
    a = task.scratch + thread * task.scratch_bytes
    b = a + task.a_bytes
    n, height, width, gap, first = task.n, task.height, task.width, task.gap, task.first
    part, group = block // task.groups, block % task.groups
    rows, panels, b_panel = task.out_channels // SIDE, task.in_channels // SIDE, task.copies * task.b_copy
    top, bottom = rows * group // task.groups, rows * (group + 1) // task.groups
    chunks = -(-task.positions // task.chunk)
    begin = chunks * part // task.parts * task.chunk
    end = min(chunks * (part + 1) // task.parts * task.chunk, task.positions)
    for start in range(begin, end, task.chunk):
        count = -(-min(task.chunk, end - start) // SIDE) * SIDE
        pack_transposed(
            find_pixels(
                start, start + count, n, height, width, gap, task.out_channels * task.grad_bytes, task.grad, task.zeros
            ),
            top * SIDE, (bottom - top) * SIDE, task.grad_bytes, a, task.a_row,
        )  # fmt: skip
        pairs = count // 2 + first
        pixels = find_pixels(
            start - first, start - first + 2 * pairs + 1, n, height, width, gap, task.in_channels * task.x_bytes,
            task.x, task.zeros,
        )  # fmt: skip
        for copy in range(task.copies):
            place = b + copy * task.b_copy
            pack_pairs(pixels[copy : copy + 2 * pairs], task.in_channels, task.x_bytes, place, b_panel)
        for panel in range(panels):
            for row in range(top, bottom):
                sums = task.sums + ((part * rows + row) * panels + panel) * task.taps * SUMS
                for depth in range(0, count, DEPTH):
                    one = a + (row - top) * SIDE * task.a_row + depth * BFLOAT16
                    other = b + panel * b_panel + depth // 2 * ROW
                    steps = min(DEPTH, count - depth) // SIDE
                    for tap in range(task.taps):
                        away = (tap // 3 * (width + gap) + tap % 3) * gap
                        pair = other + (away & 1) * task.b_copy + (away >> 1) * ROW
                        if start + depth > begin:
                            load_sums(sums + tap * SUMS)
                        else:
                            clear_sums()
                        add_steps(one, task.a_row, PIXEL, pair, steps)
                        store_sums(sums + tap * SUMS)
    release_tiles()


@kernel(WEIGHT_SUMS)
def join_weight_gradients(task: Any, thread: int, block: int) -> None:
    """The gradient y of the weight, channels-last, from the sums of all parts; a block is 32 of its K rows."""
    rows, panels, taps = task.out_channels // SIDE, task.in_channels // SIDE, task.taps
    tap_bytes = task.in_channels * FLOAT
    for tap in range(taps):
        for i in range(SIDE):
            for panel in range(panels):  # the results are written in the order of memory
                first = task.sums + ((block * panels + panel) * taps + tap) * SUMS + i * ROW
                place = task.y + ((block * SIDE + i) * taps + tap) * tap_bytes + panel * SIDE * FLOAT
                total = carray(floats_at(place), SIDE)
                total[:] = carray(floats_at(first), SIDE)
                for part in range(1, task.parts):
                    total += carray(floats_at(first + part * rows * panels * taps * SUMS), SIDE)
