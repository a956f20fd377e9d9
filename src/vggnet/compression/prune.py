"""Structured pruning: whole channels of convolutions are removed, with all that reads them.

A VGG is a chain: what follows a convolution are its own batch norm, and the next convolution or the head.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vggnet.compression.fold import with_state_of
from vggnet.errors import ConfigError
from vggnet.interpret.costs import count_macs
from vggnet.models.table1 import layers, resolve
from vggnet.models.vgg import VGG, Architecture, empty

Criterion = Literal["l1", "l2", "bn"]
STEP = 8  # channels are kept in multiples of it, which kernels for vectors need


def prune(model: VGG, *, to_macs: float, size: int, criterion: Criterion = "l2", floor: float = 0.1) -> VGG:
    """Remove the channels with the lowest scores from the whole network, at once.

    Scores are divided by their mean in each layer, and ranked over all layers. Of each layer a multiple of 8 channels
    remains, or all.

    Args:
        model: the network; it is not changed.
        to_macs: the share of the multiply-adds of one image that may remain, in (0, 1).
        size: pixels of both sides of the image for which they are counted.
        criterion: "l1" or "l2", that norm of a channel's filter; "bn", the absolute scale of its batch norm.
        floor: share of each layer's channels that remains at least, in [0, 1]; 8 channels do in any case.

    Raises:
        ConfigError: an option is out of range, the criterion needs batch norm, or so few multiply-adds cannot be
            reached; the message says how few can.

    Source: Li et al. (ICLR 2017, arXiv:1608.08710) for the norms, Liu et al. (ICCV 2017, arXiv:1708.06519) for "bn".

    Example:
        >>> from vggnet.models.vgg import build
        >>> pruned = prune(build("vgg8_bn", num_classes=10, head="cifar", width=0.5), to_macs=0.5, size=32)
        >>> len(pruned.architecture.channels), pruned.head.fc.in_features == pruned.architecture.channels[-1]
        (7, True)
    """
    scores = channel_scores(model, criterion)
    if not 0 < to_macs < 1:
        raise ConfigError(f"to_macs is {to_macs}; it is the share of multiply-adds that may remain, and in (0, 1).")
    if model.architecture.outputs == "masks":
        raise ConfigError(f"the head {model.architecture.head} takes the maps of several layers; it cannot be pruned.")
    if not 0 <= floor <= 1:
        raise ConfigError(f"floor is {floor}; it is a share of each layer's channels, in [0, 1].")
    given = [len(of_layer) for of_layer in scores]
    least = [
        count if is_needed else min(count, STEP * max(1, ceil(floor * count / STEP)))
        for count, is_needed in zip(given, _needed(model), strict=True)
    ]
    layer_of = torch.cat([torch.full((count,), index) for index, count in enumerate(given)])
    ranked = layer_of[torch.cat(scores).argsort(stable=True)]  # the layer of each channel, from the lowest score on

    def counts(removed: int) -> tuple[int, ...]:
        left = torch.tensor(given) - ranked[:removed].bincount(minlength=len(given))
        rounded = [
            kept if kept == count else max(lowest, min(count, STEP * round(kept / STEP)))
            for kept, count, lowest in zip(left.tolist(), given, least, strict=True)
        ]
        return tuple(rounded)

    def share(channels: tuple[int, ...]) -> float:
        return _macs(model.architecture, channels, size) / before

    before = _macs(model.architecture, tuple(given), size)
    total = len(ranked)
    removed = bisect_left(range(total), True, key=lambda number: share(counts(number)) <= to_macs)
    channels = counts(removed)
    if (reached := share(channels)) > to_macs:
        raise ConfigError(
            f"to_macs is {to_macs}, but with a floor of {floor} a share of {reached:.3f} of the multiply-adds remains "
            "at least. Give a larger share, or a lower floor."
        )
    kept = [of_layer.topk(count).indices.sort().values for of_layer, count in zip(scores, channels, strict=True)]
    return remove_channels(model, kept)


@torch.no_grad()
def channel_scores(model: VGG, criterion: Criterion) -> list[Tensor]:
    """How much each channel of each convolution counts: float64 (channels,), with a mean of 1 in each layer.

    Raises: ConfigError for an unknown criterion, or one that needs batch norm.
    """
    if criterion not in get_args(Criterion):
        raise ConfigError(f"unknown criterion {criterion!r}. The criteria are {', '.join(get_args(Criterion))}.")
    if criterion == "bn" and not resolve(model.architecture.name).batch_norm:
        raise ConfigError(
            f'the criterion "bn" needs batch norm, but {model.architecture.name} has none (or no longer, after fold). '
            'Prune before fold, or take the criterion "l2".'
        )
    kind = nn.BatchNorm2d if criterion == "bn" else nn.Conv2d
    weights = [layer.weight.double() for layer in model.features if isinstance(layer, kind)]
    power = 2 if criterion == "l2" else 1
    norms = [weight.reshape(len(weight), -1).norm(power, dim=1) for weight in weights]
    return [of_layer / of_layer.mean().clamp(min=1e-300) for of_layer in norms]


@torch.no_grad()
def remove_channels(model: VGG, kept: Sequence[Tensor]) -> VGG:
    """The network with some channels of its convolutions alone.

    Its outputs are those of the network whose other channels are zero after their ReLU.

    Args:
        model: the network; it is not changed.
        kept: for each convolution the numbers of the channels that remain, ascending int64 (n,), n at least 1.

    Example:
        >>> from vggnet.models.vgg import build
        >>> model = build("vgg13_5x5", num_classes=10, head="gap", width=0.1)
        >>> remove_channels(model, [torch.arange(4)] * 5).features.conv2_1
        Conv2d(4, 4, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
    """
    state = dict(model.state_dict())
    names = [name for name, layer in model.features.named_children() if isinstance(layer, nn.Conv2d)]
    for number, (name, channels) in enumerate(zip(names, kept, strict=True)):
        own = (f"features.{name}.", f"features.{name.replace('conv', 'bn')}.")
        for key, tensor in state.items():
            if key.startswith(own) and tensor.ndim:
                state[key] = tensor[channels]
        if number:
            state[f"features.{name}.weight"] = state[f"features.{name}.weight"][:, kept[number - 1]]
    first = next(iter(model.head.state_dict()), None)
    if first is not None:
        weight, last = state[f"head.{first}"], kept[-1]
        # A fully connected layer reads the map channel by channel, all cells of one side by side.
        of_channels = weight.reshape(len(weight), model.features.get_submodule(names[-1]).out_channels, -1)[:, last]
        state[f"head.{first}"] = of_channels.reshape(len(weight), -1, *weight.shape[2:])
    architecture = replace(model.architecture, channels=tuple(map(len, kept)), width=1.0)
    return with_state_of(model, empty(architecture), state)


def _needed(model: VGG) -> list[bool]:
    """For each convolution, whether all of its channels are needed: by LRN, or as the outputs of the network."""
    found = list(layers(resolve(model.architecture.name).column))
    needed = [after.kind == "lrn" for layer, after in pairwise(found) if layer.kind == "conv"]
    needed[-1] = needed[-1] or model.architecture.head == "none"
    return needed


def _macs(architecture: Architecture, channels: tuple[int, ...], size: int) -> int:
    return count_macs(
        empty(replace(architecture, channels=channels, width=1.0)), size, in_channels=architecture.in_channels
    )
