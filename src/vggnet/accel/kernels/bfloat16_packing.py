"""How positions become factors of the matrix unit, and where their results go; `bfloat16_kernels` has the layout."""

from typing import Any

import numpy as np
from numba import njit

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels.addresses import address_of, keep
from vggnet.accel.kernels.bfloat16_vectors import (
    WINDOW,
    copy_values,
    gather_1,
    gather_3,
    make_pairs,
    round_1,
    round_3,
    round_pairs,
    round_rests,
    round_transposed,
    round_values,
    transpose_values,
)
from vggnet.accel.kernels.tiles import BFLOAT16, ROW, SIDE, TILE

PIXEL = SIDE * BFLOAT16  # bytes of the 32 channels of a position that lie side by side


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
    place, pixel_bytes = address_of(values), channels * BFLOAT16
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
    keep(values)


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
        sources = address_of(addresses) + start * 8
        for i in range(0, count, TILE):
            offset, destination = (channel + i) * value_bytes, packed + i * row + start * BFLOAT16
            if value_bytes == FLOAT:
                round_transposed(sources, offset, destination, row)
            else:
                transpose_values(sources, offset, destination, row)


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
