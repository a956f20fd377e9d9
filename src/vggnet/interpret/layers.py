"""Layers and channels by the paper's names, relu4_3 and relu4_3:17: their outputs for an image, and the first filters.

The features of a VGG are a sequence, so a layer's output is computed by running the part that ends there; no hooks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from vggnet.data.images import Picture, named_pictures, read_pixels
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, ImageError
from vggnet.models.vgg import VGG
from vggnet.report.text import SKIP
from vggnet.weights.checkpoint import inference_mode, open_model


class Channel(NamedTuple):
    """One output of a layer."""

    layer: str
    number: int  # from 0

    def __str__(self) -> str:
        return f"{self.layer}:{self.number}"


@dataclass(frozen=True, kw_only=True)
class FeatureMaps:
    """The output of a layer for one image."""

    image: str  # its name
    picture: NDArray[np.uint8] = field(metadata=SKIP)  # as the network saw it: (H, W, 3), or (H, W) gray
    layer: str
    maps: NDArray[np.float32] = field(metadata=SKIP)  # (C, h, w)

    def strongest(self, top: int) -> list[int]:
        """The `top` channels with the largest absolute values, in the order of the layer."""
        peaks = np.abs(self.maps).max((1, 2))
        return sorted(np.argsort(-peaks, kind="stable")[:top].tolist())


def feature_maps(model: VGG | Path | str, image: Picture, layer: str, *, device: str | None = None) -> FeatureMaps:
    """Compute the output of a layer for an image.

    Args:
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`. Its own preprocessing
            prepares the image.
        image: a file, the bytes of one, an open file, a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W).
        layer: a name such as "conv1_1", "relu3_3" or "pool5".
        device: "cpu", "cuda", ...; by default a VGG stays where it is, and a file goes to the GPU if there is one.

    Raises:
        ConfigError: the network has no such layer, or the image is a folder of several.
        ImageError: the image cannot be read.
        WeightsError: there is no such model, or it has no preprocessing.

    Example:
        >>> from PIL import Image
        >>> feature_maps("vgg8_bn-cifar10-fast", Image.new("RGB", (40, 32)), "relu2_2").maps.shape
        (384, 16, 16)
    """
    opened = open_model(model, device=device)
    check_layer(opened.network, layer)
    name, pixels = read_one(image, opened.preprocess)
    with inference_mode(opened.network):
        batch = opened.preprocess.normalize(pixels.to(opened.device)).unsqueeze(0)
        maps = outputs(opened.network, batch, [layer])[layer][0]
    found = maps.float().cpu().contiguous().numpy()
    return FeatureMaps(image=name, picture=as_array(pixels), layer=layer, maps=found)


def first_filters(model: VGG | Path | str) -> NDArray[np.float32]:
    """The weights of the first layer, conv1_1.

    Args:
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`.

    Returns:
        (K, C, k, k), the channels in the order of the image (RGB), also of a network that takes BGR.

    Raises:
        WeightsError: there is no such model, or it is damaged.

    Example:
        >>> first_filters("vgg8_bn-cifar10-fast").shape
        (48, 3, 3, 3)
    """
    network = open_model(model, device=None if isinstance(model, VGG) else "cpu", accelerate=False).network
    weights = network.get_parameter("features.conv1_1.weight").detach().float().cpu()
    if network.preprocess is not None:
        weights = network.preprocess.in_rgb_order(weights)
    return weights.contiguous().numpy()


def layer_names(network: VGG) -> list[str]:
    """Of the features, in order."""
    return [name for name, _ in network.features.named_children()]


def check_layer(network: VGG, layer: str, names: Sequence[str] | None = None) -> None:
    """Raises: ConfigError unless it is one of `names`, by default of all layers of the features."""
    names = layer_names(network) if names is None else names
    if layer not in names:
        raise ConfigError(f"{network.architecture.name} has no layer {layer!r} here; expected {', '.join(names)}.")


def split_at(network: VGG, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The features up to and with `layer`, and those after it; both share the network's layers."""
    end = layer_names(network).index(layer) + 1
    return network.features[:end], network.features[end:]


def outputs(network: VGG, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """{layer: (N, C, h, w)} of images (N, in_channels, H, W), computed no deeper than the deepest layer."""
    names = layer_names(network)
    found: dict[str, Tensor] = {}
    start = 0
    for end in sorted({names.index(layer) + 1 for layer in layers}):
        images = network.features[start:end](images)
        found[names[end - 1]] = images
        start = end
    return found


def num_channels(network: VGG, layer: str) -> int:
    """Outputs of a layer: those of the last convolution up to it."""
    convs = [module for module in split_at(network, layer)[0] if isinstance(module, nn.Conv2d)]
    return convs[-1].out_channels


def read_channel(network: VGG, text: str) -> Channel:
    """`relu4_3:17`.  Raises: ConfigError for another form, or a layer or channel that the network does not have."""
    layer, colon, number = text.partition(":")
    if not colon:
        raise ConfigError(
            f"{text!r} is no channel; expected a layer and a number from 0, such as {layer or 'relu4_1'}:17."
        )
    check_layer(network, layer)
    last = num_channels(network, layer) - 1
    if not number.isdecimal() or int(number) > last:
        raise ConfigError(f"{layer} has no channel {number!r}; its channels are 0 to {last}.")
    return Channel(layer, int(number))


def read_channels(network: VGG, texts: Sequence[str] | str) -> list[Channel]:
    """One or more, each once.  Raises: ConfigError as `read_channel`, or for none."""
    channels = [read_channel(network, text) for text in ([texts] if isinstance(texts, str) else texts)]
    if not channels:
        raise ConfigError("no channel was given; expected one or more, such as relu4_1:17.")
    return list(dict.fromkeys(channels))


def read_one(image: Picture, preprocess: Preprocess) -> tuple[str, Tensor]:
    """The name of an image and its pixels, uint8 (C, H, W).

    Raises: ImageError if it cannot be read; ConfigError for a folder of several.
    """
    named, *others = named_pictures(image)
    if others:
        raise ConfigError(f"{image!s} is a folder of {1 + len(others)} images; expected one image.")
    pixels = read_pixels(named, preprocess)
    if isinstance(pixels, ImageError):
        raise pixels
    return named[0], pixels


def as_array(pixels: Tensor) -> NDArray[np.uint8]:
    """uint8 (C, H, W) -> (H, W, 3), or (H, W) gray."""
    array: NDArray[np.uint8] = pixels.movedim(0, 2).squeeze(2).cpu().numpy()
    return array
