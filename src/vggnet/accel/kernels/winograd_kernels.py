"""The compiled parts of a Winograd convolution; `algorithms.winograd` calls them.

All arrays are float32: activations (N, H, W, C), kernels at the strides given, transformed values in planes, one for
each of the side * side products.
"""

from typing import Any

import numpy as np
from numba import carray, njit

from vggnet.accel.buffers import FLOAT
from vggnet.accel.kernels import llvm
from vggnet.accel.kernels.addresses import address_of, keep
from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.llvm import COLUMNS, ROWS, floats_at, multiply_tile

DEPTH = 256  # of a product at a time: COLUMNS columns of B of this depth stay in the first-level cache
PIXELS = 36  # addresses in a list: the largest tile
NOTHING, RELU, RELU_POOL = 0, 1, 2  # what may follow a convolution; the pool is the 2x2 max pool of an even map

TILES = task_type(
    "m", "n", "height", "width", "in_channels", "out_channels", "first", "tiles", "tile_block", "parts", "after",
    "x", "y", "bias", "u", "u_panel", "v", "v_row", "z", "z_row", "spare", "spare_bytes",
)  # fmt: skip
KERNELS = task_type(
    "m", "depth", "channels", "w", "w_y", "w_x", "w_depth", "w_channel", "u", "u_depth", "u_plane", "u_panel"
)
PRODUCTS = task_type(
    "rows", "rows_block", "panels", "depth", "add", "a", "a_row", "a_depth", "a_plane", "b", "b_depth", "b_panel",
    "b_plane", "c", "c_row", "c_plane",
)  # fmt: skip


@njit(inline="never")
def multiply(
    a: int, a_row: int, a_depth: int, b: int, b_depth: int, b_panel: int, c: int, c_row: int,
    rows: int, panels: int, depth: int, add: int,
) -> None:  # fmt: skip
    """C (+)= A B. Rows are worked through ROWS at a time, so C and A need room for the last of them."""
    for start in range(0, depth, DEPTH):
        count = min(DEPTH, depth - start)
        adds = 1 if start > 0 else add
        for panel in range(panels):
            b_here = b + panel * b_panel + start * b_depth
            for row in range(0, rows, ROWS):
                a_here = a + row * a_row + start * a_depth
                c_here = c + row * c_row + panel * (COLUMNS * FLOAT)
                multiply_tile(a_here, a_row, a_depth, b_here, b_depth, c_here, c_row, count, adds)


@njit(inline="never")
def list_pixels(
    addresses: Any, tile: int, side: int, m: int, before: int, height: int, width: int, pixel: int, start: int,
    outside: int,
) -> None:  # fmt: skip
    """The addresses of a tile's side * side pixels, row by row; those beyond the border are `outside`."""
    rows, columns = (height + m - 1) // m, (width + m - 1) // m
    image, position = divmod(tile, rows * columns)
    top, left = position // columns * m - before, position % columns * m - before
    for i in range(side):
        y = top + i
        for j in range(side):
            x = left + j
            inside = (0 <= y < height) and (0 <= x < width)
            addresses[i * side + j] = start + ((image * height + y) * width + x) * pixel if inside else outside


@njit(inline="never")
def list_planes(addresses: Any, count: int, start: int, plane: int) -> None:
    """The addresses of the same value in each plane."""
    for p in range(count):
        addresses[p] = start + p * plane


@njit(inline="never")
def transform_input(m: int, sources: int, destinations: int, num_bytes: int) -> None:
    """B^T d B."""
    if m == 4:
        llvm.input_4(sources, destinations, 0, num_bytes)
    else:
        llvm.input_2(sources, destinations, 0, num_bytes)


@njit(inline="never")
def transform_output(m: int, after: int, sources: int, destinations: int, bias: int, num_bytes: int) -> None:
    """A^T M A + bias, and what comes `after` it."""
    if m == 4:
        if after == RELU_POOL:
            llvm.output_pool_4(sources, destinations, bias, num_bytes)
        elif after == RELU:
            llvm.output_relu_4(sources, destinations, bias, num_bytes)
        else:
            llvm.output_4(sources, destinations, bias, num_bytes)
    elif after == RELU_POOL:
        llvm.output_pool_2(sources, destinations, bias, num_bytes)
    elif after == RELU:
        llvm.output_relu_2(sources, destinations, bias, num_bytes)
    else:
        llvm.output_2(sources, destinations, bias, num_bytes)


@njit(inline="never")
def transform_grad_output(m: int, sources: int, destinations: int, num_bytes: int) -> None:
    """A dY A^T."""
    if m == 4:
        llvm.grad_output_4(sources, destinations, 0, num_bytes)
    else:
        llvm.grad_output_2(sources, destinations, 0, num_bytes)


@kernel(TILES)
def forward(task: Any, thread: int, block: int) -> None:
    """Transform a block of tiles, multiply it by transformed kernels, transform the products back.

    Where there are fewer blocks of tiles than threads, each is done in `parts`, by output channels.
    Scratch memory for each thread: planes of transformed tiles (v), planes of products (z), and `spare`: zeros for what
    lies beyond the border, then room for outputs that lie there.
    """
    m, side = task.m, task.m + 2
    v_plane, z_plane = task.tile_block * task.v_row, task.tile_block * task.z_row
    v = task.v + thread * side * side * v_plane
    z = task.z + thread * side * side * z_plane
    waste = task.spare + (thread + 1) * task.spare_bytes
    pixels, planes = np.empty(PIXELS, np.int64), np.empty(PIXELS, np.int64)
    pixel_list, plane_list = address_of(pixels), address_of(planes)
    in_bytes, out_bytes = task.in_channels * FLOAT, task.out_channels * FLOAT
    panels = (task.out_channels + COLUMNS - 1) // COLUMNS
    shrink = 2 if task.after == RELU_POOL else 1
    start, part = block // task.parts * task.tile_block, block % task.parts
    count = min(task.tile_block, task.tiles - start)
    first, last = panels * part // task.parts, panels * (part + 1) // task.parts
    offset = first * COLUMNS * FLOAT
    for t in range(count):
        list_pixels(pixels, start + t, side, m, 1, task.height, task.width, in_bytes, task.x, task.spare)
        list_planes(planes, side * side, v + t * task.v_row, v_plane)
        transform_input(m, pixel_list, plane_list, in_bytes)
    for p in range(side * side):
        multiply(
            v + p * v_plane, task.v_row, FLOAT,
            task.u + (p * panels + first) * task.u_panel, COLUMNS * FLOAT, task.u_panel,
            z + p * z_plane + offset, task.z_row, count, last - first, task.in_channels, 0,
        )  # fmt: skip
    num_bytes = min(out_bytes, last * COLUMNS * FLOAT) - offset
    for t in range(count):
        list_planes(planes, side * side, z + t * task.z_row + offset, z_plane)
        list_pixels(
            pixels, start + t, m // shrink, m // shrink, 0, task.height // shrink, task.width // shrink,
            out_bytes, task.y + offset, waste,
        )  # fmt: skip
        transform_output(m, task.after, plane_list, pixel_list, task.bias + offset, num_bytes)
    keep(pixels, planes)


@kernel(TILES)
def transform_both(task: Any, thread: int, block: int) -> None:
    """Input tiles (x, v) and tiles of the output's gradient (y, z), both transformed, for the kernel's gradient."""
    m, side = task.m, task.m + 2
    v_plane, z_plane = task.tiles * task.v_row, task.tiles * task.z_row
    pixels, planes = np.empty(PIXELS, np.int64), np.empty(PIXELS, np.int64)
    sources, destinations = address_of(pixels), address_of(planes)
    in_bytes, out_bytes = task.in_channels * FLOAT, task.out_channels * FLOAT
    start = block * task.tile_block
    for t in range(start, min(start + task.tile_block, task.tiles)):
        tile = task.first + t
        list_pixels(pixels, tile, side, m, 1, task.height, task.width, in_bytes, task.x, task.spare)
        list_planes(planes, side * side, task.v + t * task.v_row, v_plane)
        transform_input(m, sources, destinations, in_bytes)
        list_pixels(pixels, tile, m, m, 0, task.height, task.width, out_bytes, task.y, task.spare)
        list_planes(planes, side * side, task.z + t * task.z_row, z_plane)
        transform_grad_output(m, sources, destinations, out_bytes)
    keep(pixels, planes)


@kernel(PRODUCTS)
def products(task: Any, thread: int, block: int) -> None:
    """One product for each plane; a block is `rows_block` rows of it."""
    row_blocks = (task.rows + task.rows_block - 1) // task.rows_block
    plane, row = block // row_blocks, block % row_blocks * task.rows_block
    multiply(
        task.a + plane * task.a_plane + row * task.a_row, task.a_row, task.a_depth,
        task.b + plane * task.b_plane, task.b_depth, task.b_panel,
        task.c + plane * task.c_plane + row * task.c_row, task.c_row,
        min(task.rows_block, task.rows - row), task.panels, task.depth, task.add,
    )  # fmt: skip


@njit(inline="never")
def transform_kernel(m: int, sources: int, destinations: int, num_bytes: int) -> None:
    """G g G^T."""
    if m == 4:
        llvm.kernel_4(sources, destinations, 0, num_bytes)
    else:
        llvm.kernel_2(sources, destinations, 0, num_bytes)


@njit(inline="never")
def gather(taps: Any, w: int, w_y: int, w_x: int, w_depth: int, w_channel: int, depth: int, channels: int) -> None:
    """taps (9, COLUMNS, COLUMNS): each tap of so many depths and channels, channels innermost."""
    for tap in range(9):
        for channel in range(channels):
            here = w + tap // 3 * w_y + tap % 3 * w_x + channel * w_channel
            for d in range(depth):
                taps[tap, d, channel] = carray(floats_at(here + d * w_depth), 1)[0]


@njit(inline="never")
def transform_kernel_gradient(m: int, sources: int, destinations: int, num_bytes: int) -> None:
    """G^T dU G."""
    if m == 4:
        llvm.grad_kernel_4(sources, destinations, 0, num_bytes)
    else:
        llvm.grad_kernel_2(sources, destinations, 0, num_bytes)


@njit
def list_taps(addresses: Any, w: int, w_y: int, w_x: int) -> None:
    """The addresses of a kernel's nine taps."""
    for tap in range(9):
        addresses[tap] = w + tap // 3 * w_y + tap % 3 * w_x


@kernel(KERNELS)
def transform_kernels(task: Any, thread: int, block: int) -> None:
    """G g G^T of all kernels, into panels of COLUMNS channels; a block is COLUMNS depths (channels that are summed).

    Where the weight does not have a depth's channels side by side, they are brought into scratch memory first.
    """
    m, side = task.m, task.m + 2
    taps, planes = np.empty(PIXELS, np.int64), np.empty(PIXELS, np.int64)
    sources, destinations = address_of(taps), address_of(planes)
    gathered = np.empty((9, COLUMNS, COLUMNS), np.float32)
    start = block * COLUMNS
    depth = min(COLUMNS, task.depth - start)
    for column in range(0, task.channels, COLUMNS):
        channels = min(COLUMNS, task.channels - column)
        w = task.w + start * task.w_depth + column * task.w_channel
        w_y, w_x, w_depth = task.w_y, task.w_x, task.w_depth
        if task.w_channel != FLOAT:
            gather(gathered, w, w_y, w_x, w_depth, task.w_channel, depth, channels)
            w, w_depth = address_of(gathered), COLUMNS * FLOAT
            w_x = COLUMNS * w_depth
            w_y = 3 * w_x
        u = task.u + column // COLUMNS * task.u_panel + start * task.u_depth
        for d in range(depth):
            list_taps(taps, w + d * w_depth, w_y, w_x)
            list_planes(planes, side * side, u + d * task.u_depth, task.u_plane)
            transform_kernel(m, sources, destinations, channels * FLOAT)
    keep(taps, planes, gathered)


@kernel(KERNELS)
def transform_kernel_gradients(task: Any, thread: int, depth: int) -> None:
    """G^T dU G: from planes (u) of rows to the kernels' gradient; a block is one row, of one depth."""
    m, side = task.m, task.m + 2
    taps, planes = np.empty(PIXELS, np.int64), np.empty(PIXELS, np.int64)
    list_taps(taps, task.w + depth * task.w_depth, task.w_y, task.w_x)
    list_planes(planes, side * side, task.u + depth * task.u_depth, task.u_plane)
    transform_kernel_gradient(m, address_of(planes), address_of(taps), task.channels * FLOAT)
    keep(taps, planes)
