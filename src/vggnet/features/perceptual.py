"""Perceptual distances: LPIPS, DISTS, and the content and style distances of Gatys et al."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vggnet.data.decoding import decode_image
from vggnet.data.pixels import to_tensor
from vggnet.devices import choose_device
from vggnet.errors import ConfigError, InputError
from vggnet.features.distance import Distance, checked_weights
from vggnet.features.dists import DISTS
from vggnet.features.extractor import DEFAULT_MODEL, accepts_weights, model_first
from vggnet.features.frozen_network import (
    CONTENT_LAYERS,
    STYLE_LAYERS,
    FrozenFeatures,
    content_loss,
    gram,
    style_loss,
)
from vggnet.features.lpips import LPIPS
from vggnet.models.vgg import VGG

__all__ = ["DISTANCES", "DISTS", "LPIPS", "Comparison", "ContentDistance", "StyleDistance", "compare_images"]


class ContentDistance(Distance):
    """Difference of the layout of two images: equation 1 on some layers, averaged over values, then over layers.

    Differentiable for the images; the weights are frozen.

    Args:
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`.
        layers: names of layers, whose mean is taken; or {name: weight}, whose weighted sum is taken.
        exact: see `FrozenFeatures`.

    Raises:
        ConfigError: the network has no such layer, or a weight is negative or not finite.
        WeightsError: there is no such file, or the model has no preprocessing, or does not take RGB images.

    Source:
        Gatys, Ecker & Bethge, CVPR 2016 (arXiv:1508.06576).

    Example:
        >>> distance = ContentDistance("vgg8_bn-cifar10-fast", layers=["relu4_1"])
        >>> images = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> distance(images, images).tolist()
        [0.0, 0.0]
    """

    @accepts_weights
    def __init__(
        self,
        model: VGG | Path | str = DEFAULT_MODEL,
        layers: Sequence[str] | Mapping[str, float] = CONTENT_LAYERS,
        *,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.layer_weights = _layer_weights(layers)
        self.features = FrozenFeatures(model, list(self.layer_weights), exact=exact)
        self.eval()

    def _compare(self, images: Tensor, others: Tensor) -> Tensor:
        pairs = dict(zip(self.features.extractor.channels, self.features.pair(images, others), strict=True))
        return torch.stack([weight * content_loss(*pairs[layer]) for layer, weight in self.layer_weights.items()]).sum(
            0
        )


class StyleDistance(Distance):
    """Difference of the style of two images: equation 5, the mean of equation 4 over some layers.

    Args:
        model: as for `ContentDistance`, which has the same errors and source.
        layers: names of layers, whose mean is taken; or {name: weight}, whose weighted sum is taken.
        exact: see `FrozenFeatures`.

    Example:
        >>> distance = StyleDistance("vgg8_bn-cifar10-fast", layers=["relu1_1", "relu2_1"])
        >>> images = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> distance(images, -images).shape
        torch.Size([2])
    """

    @accepts_weights
    def __init__(
        self,
        model: VGG | Path | str = DEFAULT_MODEL,
        layers: Sequence[str] | Mapping[str, float] = STYLE_LAYERS,
        *,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.layer_weights = _layer_weights(layers)
        self.features = FrozenFeatures(model, list(self.layer_weights), exact=exact)
        self.eval()

    def _compare(self, images: Tensor, others: Tensor) -> Tensor:
        pairs = dict(zip(self.features.extractor.channels, self.features.pair(images, others), strict=True))
        return torch.stack(
            [weight * style_loss(*map(gram, pairs[layer])) for layer, weight in self.layer_weights.items()]
        ).sum(0)


DISTANCES: dict[str, Callable[[VGG | Path | str], nn.Module]] = {
    "lpips": LPIPS,
    "dists": DISTS,
    "content": ContentDistance,
    "style": StyleDistance,
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Distances between two images."""

    first: str
    second: str
    distances: dict[str, float]  # name -> distance; 0 for equal images


@accepts_weights
@model_first("first", "second", "distances")
@torch.no_grad()
def compare_images(
    model: VGG | Path | str,
    first: Path | str,
    second: Path | str,
    *,
    distances: Sequence[str] = ("lpips",),
    device: str | None = None,
) -> Comparison:
    """Measure distances between two image files of one size.

    Args:
        model: weights of VGG-16, as for `LPIPS`.
        first: an image file.
        second: an image file of the same size.
        distances: names among "lpips", "dists", "content" and "style".
        device: "cpu", "cuda", ...; by default a GPU if there is one.

    Raises:
        ConfigError: a distance is unknown.
        ImageError: a file cannot be read.
        InputError: the sizes differ.
        WeightsError: as for `LPIPS`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> import vggnet
        >>> network = vggnet.create_model("vgg16", head="none", width=0.05)  # untrained
        >>> network.preprocess = vggnet.Preprocess.imagenet()
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 32)).save(f"{folder}/a.png")
        ...     compare_images(network, *[f"{folder}/a.png"] * 2, distances=["content", "style"]).distances
        {'content': 0.0, 'style': 0.0}
    """
    unknown = [name for name in distances if name not in DISTANCES]
    if unknown or not distances:
        raise ConfigError(f"unknown distance {', '.join(unknown) or '(none)'}; expected {', '.join(DISTANCES)}.")
    place = choose_device(device)
    pair = [image.to(place) for image in _read_pair(Path(first).expanduser(), Path(second).expanduser())]
    found = {name: DISTANCES[name](model).to(place)(*pair).item() for name in dict.fromkeys(distances)}
    return Comparison(first=str(first), second=str(second), distances=found)


def _layer_weights(layers: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """Raises: ConfigError for a weight that is negative or not finite."""
    if isinstance(layers, str):
        layers = [layers]
    if not isinstance(layers, Mapping):
        return {layer: 1 / len(set(layers)) for layer in layers}
    return checked_weights(layers)


def _read_pair(first: Path, second: Path) -> tuple[Tensor, Tensor]:
    """Two images of one size -> (1, 3, H, W) in [-1, 1] twice.  Raises: ImageError, InputError."""
    images = [to_tensor(decode_image(path))[None] / 127.5 - 1 for path in (first, second)]
    (h, w), (other_h, other_w) = (image.shape[2:] for image in images)
    if (h, w) != (other_h, other_w):
        raise InputError(
            f"{first} has {w} x {h} pixels and {second} {other_w} x {other_h}; they must be the same. "
            "Resize or crop one of them."
        )
    return images[0], images[1]
