"""Networks that answer in every window of a whole image: what they say there, and where their boxes lie."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from vggnet.errors import ConfigError
from vggnet.metrics import check_finite_logits
from vggnet.models.dense import feature_map, score_map, sliding
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.models.vgg import VGG
from vggnet.tasks.box_geometry import Array, decode
from vggnet.tasks.protocols import check_is_vgg
from vggnet.weights.checkpoint import OpenModel, inference_mode


class Windows(NamedTuple):
    """A network whose head takes single windows of its last feature map."""

    network: VGG
    side: int  # cells
    ready: OpenModel

    def outputs(self, pixels: Tensor, max_pixels: int) -> Tensor:
        """For every window, on the CPU: uint8 (n, C, h, w) -> (n, outputs, rows, columns).  Raises: NonFiniteError."""
        device, normalize = self.ready.device, self.ready.preprocess.normalize
        with inference_mode(self.network):
            features = feature_map(self.network, pixels.to(device), normalize, max_pixels)
            outputs = score_map(self.network, features, self.side).cpu()
        check_finite_logits(outputs.flatten(1))
        return outputs

    def boxes(self, pixels: Tensor, max_pixels: int) -> Array:
        """Of a network that gives boxes, in pixels of these images: (n, 1 or K, rows, columns, 4).

        Raises: NonFiniteError.
        """
        outputs = self.outputs(pixels, max_pixels)
        values = outputs.view(len(outputs), -1, 4, *outputs.shape[2:]).movedim(2, -1)
        edges = decode(values.double().numpy(), self.ready.preprocess.crop)
        down, across = np.indices(edges.shape[2:4]) * TOTAL_STRIDE  # where each window begins
        placed: Array = edges + np.stack([across, down, across, down], -1)
        return placed


def windows_of(ready: OpenModel) -> Windows:
    """Raises: ConfigError if the network is no VGG."""
    return Windows(*sliding(check_is_vgg(ready.network), ready.preprocess.crop), ready)


def require_one_kind(networks: list[OpenModel]) -> None:
    """Raises: ConfigError if they do not see the same pixels."""
    kinds = {(ready.preprocess.crop, ready.preprocess.mode) for ready in networks}
    if len(kinds) > 1:
        found = " and ".join(f"{crop} pixels in {mode}" for crop, mode in sorted(kinds))
        raise ConfigError(
            f"the networks take crops of different sizes or colors: {found}. Train both at one (--resize, --crop)."
        )
