"""What a layer makes of a picture: its maps as a grid."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vggnet.data.images import Picture, read_pixels
from vggnet.errors import ImageError, check_at_least
from vggnet.interpret.borrowing import Model, borrowed, opened
from vggnet.interpret.explain import as_array, one_picture
from vggnet.interpret.layers import check_layer, outputs
from vggnet.report.explanation_figures import draw_maps
from vggnet.weights.prepared import preprocess_of


class FeatureMaps(NamedTuple):
    """The output of a layer for one picture."""

    image: str
    picture: NDArray[np.uint8]  # as the network saw it: (H, W, 3), or (H, W) gray
    layer: str
    maps: NDArray[np.float32]  # (C, h, w)

    def strongest(self, top: int) -> list[int]:
        """The channels with the largest values (after a convolution, the largest sizes), in the order of the layer."""
        peaks = np.abs(self.maps).max((1, 2))
        return sorted(np.argsort(-peaks, kind="stable")[:top].tolist())


def feature_maps(model: Model, image: Picture, layer: str, *, device: str | None = None) -> FeatureMaps:
    """The output of a layer, by the paper's name, for a picture that is prepared by the model's own preprocessing.

    Raises: ConfigError for a layer that there is not; ImageError for a picture that cannot be read; WeightsError.
    """
    network = opened(model, device, fast=True)
    check_layer(network, layer)
    preprocess = preprocess_of(network)
    named = one_picture(image)
    pixels = read_pixels(named, preprocess)
    if isinstance(pixels, ImageError):
        raise pixels
    with borrowed(network), torch.no_grad():
        batch = preprocess.normalize(pixels.to(next(network.parameters()).device)).unsqueeze(0)
        maps = outputs(network, batch, [layer])[layer][0]
    return FeatureMaps(named[0], as_array(pixels), layer, maps.float().cpu().contiguous().numpy())


def draw_feature_maps(found: FeatureMaps, path: Path, *, top: int = 64) -> list[int]:
    """The `top` strongest channels as a grid; returns them.  Raises: ConfigError for `top`; StorageError."""
    check_at_least(1, top=top)
    shown = found.strongest(top)
    count, height, width = found.maps.shape
    which = "all" if len(shown) == count else f"the {len(shown)} strongest of"
    title = f"{found.layer} of {Path(found.image).name}: {which} {count} channels, {height} x {width} places"
    draw_maps(found.picture, found.maps[shown], list(map(str, shown)), path, title=title)
    return shown
