"""Structured pruning: whole channels of convolutions are removed, with all that reads them.

A VGG is a chain: what follows a convolution are its own batch norm, and the next convolution or the head.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vggnet.compression.fold import with_state_of
from vggnet.compression.scores import Scores, weight_scores
from vggnet.errors import ConfigError
from vggnet.interpret.costs import architecture_macs
from vggnet.models.architecture import Architecture
from vggnet.models.table1 import MAP_HEADS, layers, resolve
from vggnet.models.vgg import VGG, empty


class Limit(NamedTuple):
    """How large a pruned network may be."""

    most: float
    measure: Callable[[Architecture], float]
    shown: Callable[[float], str]  # such a number as words


def macs_limit(model: VGG, share: float, size: int) -> Limit:
    """The multiply-adds of one image.

    Args:
        model: the network before it is pruned.
        share: of its multiply-adds, that may remain, in (0, 1).
        size: pixels of both sides of the image.

    Raises:
        ConfigError: the share is out of range.
    """
    if not 0 < share < 1:
        raise ConfigError(f"to_macs is {share}; it is the share of multiply-adds that may remain, and in (0, 1).")
    before = architecture_macs(model.architecture, size)
    return Limit(
        share,
        lambda made: architecture_macs(made, size) / before,
        lambda number: f"a share of {number:.3f} of the multiply-adds",
    )


def prune(
    model: VGG, limits: Sequence[Limit], *, scores: Scores | None = None, floor: float = 0.1, multiple: int = 32
) -> VGG:
    """Remove the channels with the lowest scores from the whole network, at once, until it is within the limits.

    Of each layer a multiple of some channels remains, or all. With two limits, the scores of each layer are
    multiplied by a power of the area of its maps, which is chosen so that the network comes near to both: layers
    with small maps have many parameters and few multiply-adds.

    Args:
        model: the network; it is not changed.
        limits: how large it may be, one or two, such as `[macs_limit(model, 0.5, 32)]`.
        scores: of the channels, as `vggnet.compression.scores` gives them; by default Euclidean norms of filters.
        floor: share of each layer's channels that remains at least, in [0, 1]; `multiple` of them do in any case.
        multiple: channels remain in multiples of it. The fast convolutions need 32 for the matrix unit of a CPU, and 16
            for its vectors; others are computed by PyTorch.

    Raises:
        ConfigError: an option is out of range, or so small a network cannot be reached; the message says how near one
            can get.

    Example:
        >>> from vggnet.models.vgg import build
        >>> model = build("vgg8_bn", num_classes=10, head="cifar", width=0.5)
        >>> pruned = prune(model, [macs_limit(model, 0.5, 32)])
        >>> len(pruned.architecture.channels), pruned.head.fc.in_features == pruned.architecture.channels[-1]
        (7, True)
    """
    if model.architecture.head in MAP_HEADS:
        raise ConfigError(f"the head {model.architecture.head} takes the maps of several layers; it cannot be pruned.")
    scores = weight_scores(model, "l2") if scores is None else scores
    if not 0 <= floor <= 1:
        raise ConfigError(f"floor is {floor}; it is a share of each layer's channels, in [0, 1].")
    least = [
        count if is_needed else min(count, multiple * max(1, ceil(floor * count / multiple)))
        for count, is_needed in zip(map(len, scores), _needed(model), strict=True)
    ]
    areas = _areas(model)

    @cache
    def tilted(tilt: float) -> Architecture:
        weighted = [of_layer * area**tilt for of_layer, area in zip(scores, areas, strict=True)]
        return _largest_within(model.architecture, limits, weighted, least, multiple)

    best = tilted(0.0) if len(limits) == 1 else _evenly_within(tilted, limits)
    for limit in limits:
        if (reached := limit.measure(best)) > limit.most:
            raise ConfigError(
                f"{limit.shown(limit.most)} may remain, but with a floor of {floor} {limit.shown(reached)} does at "
                "least. Give a larger target, a lower floor, or a smaller multiple."
            )
    channels = best.channels
    assert channels is not None
    kept = [of_layer.topk(count).indices.sort().values for of_layer, count in zip(scores, channels, strict=True)]
    return remove_channels(model, kept)


def _evenly_within(tilted: Callable[[float], Architecture], limits: Sequence[Limit]) -> Architecture:
    """The architecture that comes as near to one of two limits as to the other, found by bisection of the exponent.

    Args:
        tilted: exponent of the layers' areas -> the largest architecture within both limits.
        limits: two.
    """

    @cache
    def shares(tilt: float) -> list[float]:
        return [limit.measure(tilted(tilt)) / limit.most for limit in limits]

    low, high = -1.0, 2.0
    tilts = [low, 0.0, high]
    for _ in range(8):
        tilts.append(middle := (low + high) / 2)
        is_before = (shares(middle)[0] > shares(middle)[1]) == (shares(low)[0] > shares(low)[1])
        low, high = (middle, high) if is_before else (low, middle)
    # Within the limits comes first, then their use.
    return tilted(max(tilts, key=lambda tilt: (-max(1.0, *shares(tilt)), min(shares(tilt)))))


def _largest_within(
    given: Architecture, limits: Sequence[Limit], scores: Scores, least: Sequence[int], multiple: int
) -> Architecture:
    """The architecture with as few of the lowest scores removed as the limits allow; the smallest if none is within.

    Args:
        given: the architecture before.
        limits: see `prune`.
        scores: of each layer's channels.
        least: channels that remain of each layer at least.
        multiple: channels remain in multiples of it.
    """
    counts = [len(of_layer) for of_layer in scores]
    layer_of = torch.cat([torch.full((count,), index) for index, count in enumerate(counts)])
    ranked = layer_of[torch.cat(scores).argsort(stable=True)]  # the layer of each channel, from the lowest score on

    def left(removed: int) -> Architecture:
        kept = torch.tensor(counts) - ranked[:removed].bincount(minlength=len(counts))
        rounded = [
            number if number == count else max(lowest, min(count, multiple * round(number / multiple)))
            for number, count, lowest in zip(kept.tolist(), counts, least, strict=True)
        ]
        return replace(given, channels=tuple(rounded), width=1.0)

    def is_within(removed: int) -> bool:
        made = left(removed)
        return all(limit.measure(made) <= limit.most for limit in limits)

    return left(bisect_left(range(len(ranked)), True, key=is_within))


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
    needed = [after.kind == "lrn" for layer, after in pairwise([*found, found[-1]]) if layer.kind == "conv"]
    needed[-1] = needed[-1] or model.architecture.head == "none"
    return needed


def _areas(model: VGG) -> list[float]:
    """For each convolution, the pixels of its outputs as a share of the image's."""
    areas, share = [], 1.0
    for layer in layers(resolve(model.architecture.name).column):
        share /= layer.stride**2
        if layer.kind == "conv":
            areas.append(share)
    return areas
