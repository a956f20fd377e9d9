"""The outputs of heads for pixels and maps on large images: tile by tile, within limited memory."""

from collections.abc import Callable, Iterator
from math import isqrt
from typing import NamedTuple, cast

import torch
from torch import Tensor

from vggnet.models.map_head import MapHead, padded
from vggnet.models.table1 import TOTAL_STRIDE, layers, resolve
from vggnet.models.vgg import VGG

LEAST_TILE = 8  # cells of 32 pixels along a side, beside the margin
MAX_PIXELS = 1024**2  # of an image or tile that a head for pixels sees at once


class Tile(NamedTuple):
    """A part of one axis of an image, in cells of 32 pixels, and with a margin in pixels."""

    first: int  # cell
    end: int
    start: int  # pixel, with the margin
    until: int

    def inside(self, factor: int) -> tuple[int, int]:
        """Where the tile without its margin begins and ends in outputs of which each stands for `factor` pixels."""
        first, end = ((cell * TOTAL_STRIDE - self.start) // factor for cell in (self.first, self.end))
        return first, end


def tiles(length: int, cells: int, *, side: int, margin: int) -> Iterator[Tile]:
    """Cut an axis where the pools divide.

    Args:
        length: in pixels; tiles at the end have all that is left.
        cells: how many cells are wanted.
        side: of a tile in cells, without the margin.
        margin: in cells, on both sides.

    Example:
        >>> list(tiles(100, 4, side=2, margin=1))
        [Tile(first=0, end=2, start=0, until=96), Tile(first=2, end=4, start=32, until=100)]
    """
    for first in range(0, cells, side):
        end = min(first + side, cells)
        until = length if end + margin >= cells else (end + margin) * TOTAL_STRIDE
        yield Tile(first, end, max(first - margin, 0) * TOTAL_STRIDE, until)


def reach(network: VGG) -> int:
    """How many cells beyond its own 32 pixels a cell of the last map sees, on each side, rounded up."""
    column = resolve(network.architecture.name).column
    pixels, stride = 0, 1
    for layer in layers(column):
        if layer.kind == "conv":
            pixels += layer.kernel // 2 * stride
        stride *= layer.stride
    return -(-pixels // TOTAL_STRIDE)


def outputs_of_large(
    network: VGG, pixels: Tensor, normalize: Callable[[Tensor], Tensor], *, max_pixels: int = MAX_PIXELS
) -> Tensor:
    """The outputs of a network whose head is for pixels or gives maps: (N, C, h, w) on the CPU.

    An image of more than `max_pixels` is seen in tiles, each with a margin as wide as an output depends on, and cut
    where the pools divide. The result is then that of the whole image, padded with its mean color to multiples of 32,
    within rounding.

    Args:
        network: in eval mode.
        pixels: (N, c, H, W), as `normalize` takes them.
        normalize: makes them ready for the network.
        max_pixels: of an image or tile, with its margin. The least tile has 256 pixels a side and its margin.

    Example:
        >>> from vggnet.models.vgg import build
        >>> network = build("vgg11", num_classes=2, head="unet", width=0.1).eval()
        >>> with torch.inference_mode():
        ...     outputs_of_large(network, torch.rand(1, 3, 300, 40), lambda pixels: pixels, max_pixels=9000).shape
        torch.Size([1, 2, 300, 40])
    """
    height, width = pixels.shape[2:]
    if height * width <= max_pixels:
        return network(normalize(pixels)).cpu()  # type: ignore[no-any-return]
    margin = reach(network) - (-cast(MapHead, network.head).reach // TOTAL_STRIDE)
    side = max(isqrt(max_pixels) // TOTAL_STRIDE - 2 * margin, LEAST_TILE)
    rows, columns = (list(tiles(one, -(-one // TOTAL_STRIDE), side=side, margin=margin)) for one in (height, width))
    found, factor = torch.empty(0), 1
    for row in rows:
        for column in columns:
            outputs = network(padded(normalize(pixels[:, :, row.start : row.until, column.start : column.until])))
            if not found.numel():
                factor = -(-(row.until - row.start) // TOTAL_STRIDE) * TOTAL_STRIDE // outputs.shape[2]
                shape = [one[-1].end * TOTAL_STRIDE // factor for one in (rows, columns)]
                found = torch.empty(*outputs.shape[:2], *shape)
            (top, bottom), (left, right) = row.inside(factor), column.inside(factor)
            down, across = (one.first * TOTAL_STRIDE // factor for one in (row, column))
            found[:, :, down : down + bottom - top, across : across + right - left] = outputs[
                :, :, top:bottom, left:right
            ]
            del outputs  # else it is there beside the next tile
    return found[:, :, : height // factor, : width // factor]
