"""Dense evaluation (paper, section 3.2): the head on every window of the last feature map of a whole image."""

from collections.abc import Callable
from math import isqrt

import torch
from torch import Tensor

from vggnet.models.large_images import LEAST_TILE, reach, tiles
from vggnet.models.table1 import POOLED_SIZE, TOTAL_STRIDE
from vggnet.models.vgg import VGG, from_dense

MAX_WINDOWS = 512  # that the head works on at once


def feature_map(network: VGG, pixels: Tensor, normalize: Callable[[Tensor], Tensor], max_pixels: int) -> Tensor:
    """The last feature map of images (N, c, H, W), which `normalize` makes ready: (N, C, H // 32, W // 32).

    Where the images have more than `max_pixels` together, the network sees them tile by tile, each with a margin as
    wide as the convolutions reach and cut where the pools divide: the map is that of the whole, within rounding.
    """
    n, _, height, width = pixels.shape
    if n * height * width <= max_pixels:
        return network.features(normalize(pixels))  # type: ignore[no-any-return]
    margin = reach(network)
    side = max(isqrt(max_pixels // n) // TOTAL_STRIDE - 2 * margin, LEAST_TILE)
    columns = list(tiles(width, width // TOTAL_STRIDE, side=side, margin=margin))
    rows = []
    for row in tiles(height, height // TOTAL_STRIDE, side=side, margin=margin):
        parts = []
        for column in columns:
            tile = pixels[:, :, row.start : row.until, column.start : column.until]
            cells = network.features(normalize(tile))
            (top, bottom), (left, right) = row.inside(TOTAL_STRIDE), column.inside(TOTAL_STRIDE)
            parts.append(cells[:, :, top:bottom, left:right].clone())
        rows.append(torch.cat(parts, 3))
    return torch.cat(rows, 2)


def score_map(network: VGG, features: Tensor, window: int) -> Tensor:
    """The head on every window of `window` cells a side: (N, C, h, w) -> (N, K, h - window + 1, w - window + 1).

    With the paper's head and 7 cells these are its fully connected layers as convolutions.
    """
    n, channels, height, width = features.shape
    across = width - window + 1
    at_once = max(1, MAX_WINDOWS // (n * across))  # rows of windows
    strips = []
    for top in range(0, height - window + 1, at_once):
        strip = features[:, :, top : top + at_once + window - 1]
        windows = strip.unfold(2, window, 1).unfold(3, window, 1)  # (N, C, rows, across, window, window)
        num_rows = windows.shape[2]
        scores = network.head(windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, window, window))
        strips.append(scores.view(n, num_rows, across, -1).permute(0, 3, 1, 2))
    return torch.cat(strips, 2)


def sliding(network: VGG, crop: int) -> tuple[VGG, int]:
    """The network with a head for single windows, and how many cells a side these have.

    They are as large as the map that the head knows from crops of `crop` pixels; 7 if it is made of convolutions.
    """
    if network.architecture.head == "dense":
        return from_dense(network), POOLED_SIZE
    return network, crop // TOTAL_STRIDE


def dense_logits(
    network: VGG, pixels: Tensor, normalize: Callable[[Tensor], Tensor], *, window: int, max_pixels: int
) -> Tensor:
    """Whole images (N, c, H, W) -> logits (N, K), averaged over the score map.

    network, window: of `sliding`. The `gap` head, which takes a map of any size, sees all of it at once.
    """
    features = feature_map(network, pixels, normalize, max_pixels)
    if network.architecture.head == "gap":
        return network.head(features)  # type: ignore[no-any-return]
    return score_map(network, features, window).mean((2, 3))
