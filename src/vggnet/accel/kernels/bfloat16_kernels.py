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
from vggnet.accel.kernels.bfloat16_vectors import (
    NEIGHBORS,
    WINDOW,
    convolve_and_finish_bfloat16,
    convolve_and_finish_float32,
    copy_values,
    finish_bfloat16,
    finish_float32,
    gather_1,
    gather_3,
    make_pairs,
    round_1,
    round_3,
    round_pairs,
    round_rests,
    round_transposed,
    round_values,
    transpose_pairs,
    transpose_values,
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

PIXEL = SIDE * BFLOAT16  # bytes of the 32 channels of a position that lie side by side
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


@njit(inline="never")
def find_pixels(
    start: int, stop: int, n: int, height: int, width: int, gap: int, pixel_bytes: int, x: int, zeros: int
) -> Any:
    """Where the pixels at positions from `start` to `stop` lie, and `zeros` for the padding; 0 is the first pixel."""
    addresses = np.empty(stop - start, np.int64)
    row, column = divmod(start, width + gap)  # of all images' rows, with those of zeros
    i = 0
    while i < len(addresses):
        image, y = divmod(row, height + gap)
        end = min(i + width + gap - column, len(addresses))
        inside = i
        if 0 <= image < n and y < height:
            inside = max(min(i + width - column, len(addresses)), i)
            first = x + ((image * height + y) * width + column) * pixel_bytes
            for j in range(inside - i):
                addresses[i + j] = first + j * pixel_bytes
        for j in range(inside, end):
            addresses[j] = zeros
        i, row, column = end, row + 1, 0
    return addresses


@njit(inline="never")
def pack_pixels(addresses: Any, channels: int, value_bytes: int, packed: int, row: int) -> None:
    """Pixels as A of a convolution, (C / 32, positions, 32). `row`: bytes from 32 channels to the next.

    value_bytes: 4 for float32, 2 for values that are bfloat16 already.
    """
    for i in range(len(addresses)):
        for chunk in range(channels // SIDE):
            source, destination = addresses[i] + chunk * SIDE * value_bytes, packed + chunk * row + i * PIXEL
            if value_bytes == FLOAT:
                round_values(source, destination)
            else:
                copy_values(source, destination)


@njit(inline="never")
def pack_rests(addresses: Any, channels: int, packed: int, row: int) -> None:
    """As `pack_pixels`: what rounding of the float32 values to bfloat16 loses, itself rounded."""
    for i in range(len(addresses)):
        for chunk in range(channels // SIDE):
            round_rests(addresses[i] + chunk * SIDE * FLOAT, packed + chunk * row + i * PIXEL)


@njit(inline="never")
def pack_windows(addresses: Any, pitch: int, channels: int, packed: int) -> None:
    """For a convolution of 1 or 3 float32 channels: A whose rows are all 9 C factors of a position, and zeros.

    addresses: of the positions, with `pitch` + 1 more before them and after them.
    """
    values = np.empty(len(addresses) * channels + WINDOW, np.uint16)
    place, pixel_bytes = values.ctypes.data, channels * BFLOAT16
    for i in range(len(addresses)):
        if channels == 1:
            round_1(addresses[i], place + i * pixel_bytes)
        else:
            round_3(addresses[i], place + i * pixel_bytes)
    for i in range(len(addresses) - 2 * (pitch + 1)):
        if channels == 1:
            gather_1(place + i * pixel_bytes, pitch * pixel_bytes, packed + i * PIXEL)
        else:
            gather_3(place + i * pixel_bytes, pitch * pixel_bytes, packed + i * PIXEL)


@njit(inline="never")
def pack_pairs(addresses: Any, channels: int, value_bytes: int, packed: int, panel: int) -> None:
    """Pixels as B of the weight's gradient, (C / 32, positions / 2, 32, 2). `panel`: bytes of 32 channels.

    value_bytes: as `pack_pixels`.
    """
    for pair in range(len(addresses) // 2):
        for chunk in range(channels // SIDE):
            offset, destination = chunk * SIDE * value_bytes, packed + chunk * panel + pair * ROW
            if value_bytes == FLOAT:
                round_pairs(addresses[2 * pair] + offset, addresses[2 * pair + 1] + offset, destination)
            else:
                make_pairs(addresses[2 * pair] + offset, addresses[2 * pair + 1] + offset, destination)


@njit(inline="never")
def pack_transposed(addresses: Any, channel: int, count: int, value_bytes: int, packed: int, row: int) -> None:
    """`count` channels of a multiple of 16 pixels as A of the weight's gradient, (count, positions).

    value_bytes: as `pack_pixels`.
    """
    for start in range(0, len(addresses), TILE):
        sources = addresses.ctypes.data + start * 8
        for i in range(0, count, TILE):
            offset, destination = (channel + i) * value_bytes, packed + i * row + start * BFLOAT16
            if value_bytes == FLOAT:
                round_transposed(sources, offset, destination, row)
            else:
                transpose_values(sources, offset, destination, row)


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
def find_results(
    start: int, stop: int, height: int, width: int, gap: int, pixel_bytes: int, pool: int, y: int, least: int,
    unused: int,
) -> Any:  # fmt: skip
    """Where the results of positions go, and what each is compared with: `least`, or the largest of its window so far.

    pool: 1 for 2x2 max pool, else 0. Results of the padding go to `unused`.
    """
    destinations, others = np.empty(stop - start, np.int64), np.empty(stop - start, np.int64)
    row, column = divmod(start, width + gap)
    i = 0
    while i < len(destinations):
        image, row_of_image = divmod(row, height + gap)
        end = min(i + width + gap - column, len(destinations))
        inside = max(min(i + width - column, len(destinations)), i) if row_of_image < height else i
        first = y + (image * (height >> pool) + (row_of_image >> pool)) * (width >> pool) * pixel_bytes
        for j in range(inside - i):
            destinations[i + j] = first + ((column + j) >> pool) * pixel_bytes
            others[i + j] = destinations[i + j] if (row_of_image | (column + j)) & pool else least
        for j in range(inside, end):
            destinations[j], others[j] = unused, least
        i, row, column = end, row + 1, 0
    return destinations, others


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
            place, other = destinations.ctypes.data + i * 8, others.ctypes.data + i * 8
            finish_bfloat16(sums, min(SIDE, stop - start - i), bias, other, place, 0)


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
    to, other = destinations.ctypes.data, others.ctypes.data
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
                    factors, PIXEL, a_step, neighbors.ctypes.data, b, sums, steps,
                    rate, before, rows, bias_before, other, to, offset_before,
                )  # fmt: skip
            else:
                convolve_and_finish_bfloat16(
                    factors, PIXEL, a_step, neighbors.ctypes.data, b, sums, steps,
                    rate, before, rows, bias_before, other, to, offset_before,
                )  # fmt: skip
            if task.split:
                load_sums(sums)
                add_neighbors(factors + steps * a_step, a_step, neighbors, b, steps)
                add_neighbors(factors, a_step, neighbors, b + panels * task.b_panel, steps)
                store_sums(sums)
            rows, bias_before, offset_before = min(SIDE, stop - start - first), bias, offset
            to, other = destinations.ctypes.data + first * 8, others.ctypes.data + first * 8
            sums, before = before, sums
    finish(task.y_bytes, before, rows, bias_before, other, to, offset_before)
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
