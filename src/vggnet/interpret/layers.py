"""Layers and channels by the paper's names: relu4_3, and relu4_3:17 for a channel, counted from 0.

The features of a VGG are a sequence, so the output of a layer is had by running the part that ends there: no hooks.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from vggnet.errors import ConfigError
from vggnet.models.vgg import VGG


class Channel(NamedTuple):
    """One output of a layer."""

    layer: str
    number: int  # from 0

    def __str__(self) -> str:
        return f"{self.layer}:{self.number}"


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
    """{layer: (N, C, h, w)} of images (N, in_channels, H, W), computed no deeper than they lie."""
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
    """`relu4_3:17`.  Raises: ConfigError for another form, or a layer or channel that there is not."""
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
    """One or more.  Raises: ConfigError as `read_channel`, or for none."""
    channels = [read_channel(network, text) for text in ([texts] if isinstance(texts, str) else texts)]
    if not channels:
        raise ConfigError("no channel was given; expected one or more, such as relu4_1:17.")
    return channels
