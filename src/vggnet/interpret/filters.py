"""The filters of the first layer, as the pictures that they answer to most."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggnet.interpret.borrowing import Model, opened
from vggnet.report.explanation_figures import draw_tiles


def first_filters(model: Model) -> NDArray[np.float32]:
    """The weights of conv1_1, (K, C, k, k), the channels in the order of the image (RGB).

    Raises: WeightsError as `vggnet.load`.
    """
    network = opened(model)
    weights = network.get_parameter("features.conv1_1.weight").detach().float().cpu()
    if network.preprocess is not None:
        weights = network.preprocess.in_rgb_order(weights)
    return weights.contiguous().numpy()


def draw_filters(filters: NDArray[np.float32], path: Path) -> None:
    """One tile a filter in RGB; for other than three input channels one in gray for each of them.

    All by one scale: mid-gray is a weight of 0, white (or the full color) the largest of all, black its negative.
    Raises: StorageError if `path` cannot be written.
    """
    count, channels = filters.shape[:2]
    tiles = 0.5 + filters / (2 * max(np.abs(filters).max(), np.finfo(np.float32).tiny))
    if channels == 3:
        tiles, names = np.moveaxis(tiles, 1, 3), [str(index) for index in range(count)]
    else:
        tiles = tiles.reshape(-1, *filters.shape[2:])
        places = [f"{index}, input {channel}" for index in range(count) for channel in range(channels)]
        names = places if channels > 1 else [str(index) for index in range(count)]
    title = f"conv1_1: {count} filters of {filters.shape[2]} x {filters.shape[3]} weights; mid-gray is 0"
    draw_tiles(tiles, names, path, title=title)
