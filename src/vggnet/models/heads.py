"""What follows the last feature map, and the exact conversions between the heads.

A head takes the feature map of the five blocks, (N, C, h, w) with C = 512 at width 1, and returns logits
(N, num_classes); the head "none" returns the map. The paper's layer names are kept: fc6, fc7, fc8.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.errors import ConfigError, InputError
from vggnet.models import detection_heads, mask_heads, trained_heads
from vggnet.models.architecture import Architecture
from vggnet.models.detection_heads import DESIGNS
from vggnet.models.map_head import Builder, MapHead
from vggnet.models.table1 import FC_WIDTH, MAP_HEADS, POOLED_SIZE, TOTAL_STRIDE, layers, levels, resolve

GRID_SIZE = 4  # cells a side that the head "grid" tells apart
REDUCE = "_reduce"  # ends the name of the first of the two layers that a factorized one is


class OneCellMap(nn.Module):
    """Flatten a 1x1 map: (N, C, 1, 1) -> (N, C).  Raises: InputError for a larger map."""

    def forward(self, feature_map: Tensor) -> Tensor:
        """(N, C, 1, 1) -> (N, C)."""
        _check_one_cell(feature_map)
        return feature_map.flatten(1)


class FlattenToLength1(nn.Flatten):
    """Flatten a map to a vector of Euclidean length 1: the linear layer after it then learns at the same rate."""

    def forward(self, feature_map: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C h w)."""
        return F.normalize(super().forward(feature_map), dim=1)


class ScoreMap(nn.Module):
    """Average the class scores over space: (N, K, h, w) -> (N, K) (paper, section 3.2)."""

    def forward(self, scores: Tensor) -> Tensor:
        """(N, K, h, w) -> (N, K)."""
        return scores.mean((2, 3))


class AtLeastPooledSize(nn.Module):
    """Check that a 7x7 window fits into the map.  Raises: InputError for a smaller map."""

    def forward(self, feature_map: Tensor) -> Tensor:
        """(N, C, h, w), unchanged."""
        _check_pooled_size(feature_map)
        return feature_map


@torch.fx.wrap  # a traced network calls it as one operator
def _check_one_cell(feature_map: Tensor) -> None:
    h, w = feature_map.shape[-2:]
    if (h, w) != (1, 1):
        raise InputError(
            f"this head takes images of {TOTAL_STRIDE} to {2 * TOTAL_STRIDE - 1} pixels (a 1x1 map after five "
            f"pools), but the map is {h}x{w}. Resize the images to {TOTAL_STRIDE} pixels, or build the model "
            'with head="gap" (any size) or head="paper".'
        )


@torch.fx.wrap
def _check_pooled_size(feature_map: Tensor) -> None:
    h, w = feature_map.shape[-2:]
    if min(h, w) < POOLED_SIZE:
        least = POOLED_SIZE * TOTAL_STRIDE
        raise InputError(
            f"the dense head needs a map of at least {POOLED_SIZE}x{POOLED_SIZE} (images of {least}x{least} "
            f'pixels), but the map is {h}x{w}. Enlarge the images, or use head="paper", which pools to 7x7.'
        )


def _three_layers(first: Mapping[str, nn.Module], num_classes: int, dropout: float) -> nn.Sequential:
    """The fully connected layers of Table 1, the first of which depends on the size of the map."""
    return nn.Sequential(
        OrderedDict(
            **first,
            relu6=nn.ReLU(),
            drop6=nn.Dropout(dropout),
            fc7=nn.Linear(FC_WIDTH, FC_WIDTH),
            relu7=nn.ReLU(),
            drop7=nn.Dropout(dropout),
            fc8=nn.Linear(FC_WIDTH, num_classes),
        )
    )


def paper_head(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Table 1: pool to 7x7 (the identity at 224 pixels), 4096, 4096, num_classes. Any input size."""
    first = {
        "pool": nn.AdaptiveAvgPool2d(POOLED_SIZE),
        "flatten": nn.Flatten(),
        "fc6": nn.Linear(channels * POOLED_SIZE**2, FC_WIDTH),
    }
    return _three_layers(first, num_classes, dropout)


def folded_head(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """The paper's three layers straight on a 1x1 map (32x32 images); see `fold_repeated_pool`."""
    first = {"flatten": OneCellMap(), "fc6": nn.Linear(channels, FC_WIDTH)}
    return _three_layers(first, num_classes, dropout)


def dense_head(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """The paper's head as convolutions (section 3.2): a class score map, averaged over space. 224 pixels and more."""
    return nn.Sequential(
        OrderedDict(
            check=AtLeastPooledSize(),
            fc6=nn.Conv2d(channels, FC_WIDTH, POOLED_SIZE),
            relu6=nn.ReLU(),
            drop6=nn.Dropout(dropout),
            fc7=nn.Conv2d(FC_WIDTH, FC_WIDTH, 1),
            relu7=nn.ReLU(),
            drop7=nn.Dropout(dropout),
            fc8=nn.Conv2d(FC_WIDTH, num_classes, 1),
            average=ScoreMap(),
        )
    )


def cifar_head(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """One linear layer on the last feature map, 512 x 1 x 1 for a 32x32 image. `dropout` does not apply."""
    return nn.Sequential(OrderedDict(flatten=OneCellMap(), fc=nn.Linear(channels, num_classes)))


def gap_head(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Global average pool and one linear layer, any input size. `dropout` does not apply."""
    return nn.Sequential(
        OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, num_classes))
    )


def grid_head(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Pool to 4x4 (the identity at 128 pixels) and one linear layer, any input size. `dropout` does not apply.

    Unlike global pooling it keeps positions, which boxes need.
    """
    return nn.Sequential(
        OrderedDict(
            pool=nn.AdaptiveAvgPool2d(GRID_SIZE),
            flatten=FlattenToLength1(),
            fc=nn.Linear(channels * GRID_SIZE**2, num_classes),
        )
    )


def no_head(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Nothing: the network ends at pool5 and gives its map, (N, C, h, w)."""
    return nn.Sequential()


HEADS = {
    "paper": paper_head,
    "cifar": cifar_head,
    "gap": gap_head,
    "grid": grid_head,
    "dense": dense_head,
    "folded": folded_head,
    "none": no_head,
}


OF_MAPS: Mapping[str, Builder] = {**mask_heads.BUILDERS, **detection_heads.BUILDERS, **trained_heads.BUILDERS}


def head_of(architecture: Architecture) -> nn.Sequential | MapHead:
    """The head of a network, with new weights.

    Args:
        architecture: of the network.

    Raises:
        ConfigError: an unknown head, or the network has no pools, which heads of several maps need.

    Example:
        >>> head_of(Architecture(name="vgg11", head="fcn8", num_classes=3, width=0.1)).taps
        ('pool3', 'pool4', 'pool5')
    """
    sizes = resolve(architecture.name).column, architecture.width, architecture.channels
    if architecture.head in OF_MAPS:
        return OF_MAPS[architecture.head](levels(*sizes), architecture.num_classes, architecture.dropout)
    *_, last = layers(*sizes)
    return build_head(
        architecture.head,
        channels=last.channels,
        num_classes=architecture.num_outputs,
        dropout=architecture.dropout,
        ranks=architecture.ranks,
    )


def takes(head: str, crop: int) -> bool:
    """Whether a head exists, has outputs, and works on images of a size.

    Args:
        head: a name of `HEADS`.
        crop: side of the images in pixels, at least 32.

    Example:
        >>> takes("cifar", 63), takes("cifar", 64), takes("dense", 223), takes("dense", 224), takes("none", 224)
        (True, False, False, True, False)
    """
    if head in ("cifar", "folded"):
        return crop < 2 * TOTAL_STRIDE
    if head in DESIGNS:
        return crop == DESIGNS[head].size
    if head == "dense":
        return crop >= POOLED_SIZE * TOTAL_STRIDE
    return head in (*HEADS, *MAP_HEADS) and head != "none"


def build_head(
    name: str, *, channels: int, num_classes: int, dropout: float, ranks: Sequence[int] | None = None
) -> nn.Sequential:
    """A head by its name.

    Args:
        name: a key of `HEADS`.
        channels: channels of the feature map, 512 at width 1.
        num_classes: number of outputs.
        dropout: probability in [0, 1), of the heads with three layers.
        ranks: of each fully connected layer: fc6 of rank 100 becomes fc6_reduce, with 100 outputs and no bias, and fc6,
            with 100 inputs; one of rank 0 stays whole.

    Raises:
        ConfigError: an unknown name.

    Example:
        >>> build_head("gap", channels=512, num_classes=10, dropout=0.5).fc
        Linear(in_features=512, out_features=10, bias=True)
    """
    if name not in HEADS:
        raise ConfigError(f"unknown head {name!r}. The heads are {', '.join((*HEADS, *MAP_HEADS))}.")
    head = HEADS[name](channels, num_classes, dropout)
    return head if ranks is None else _factorized(head, iter(ranks))


def _factorized(head: nn.Sequential, ranks: Iterator[int]) -> nn.Sequential:
    """The head with two layers in the place of each fully connected one whose rank is not 0."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in head.named_children():
        if isinstance(layer, nn.Linear) and (rank := next(ranks)):
            layers[f"{name}{REDUCE}"] = nn.Linear(layer.in_features, rank, bias=False)
            layers[name] = nn.Linear(rank, layer.out_features)
        else:
            layers[name] = layer
    return nn.Sequential(layers)


def dense_from_paper(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of a paper head -> state of the dense head with the same scores (paper, section 3.2)."""
    fc6 = head["fc6.weight"]
    channels = fc6.shape[1] // POOLED_SIZE**2
    return {
        **head,
        "fc6.weight": fc6.reshape(-1, channels, POOLED_SIZE, POOLED_SIZE),
        "fc7.weight": head["fc7.weight"][:, :, None, None],
        "fc8.weight": head["fc8.weight"][:, :, None, None],
    }


def paper_from_dense(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `dense_from_paper`."""
    return {**head, **{f"{fc}.weight": head[f"{fc}.weight"].flatten(1) for fc in ("fc6", "fc7", "fc8")}}


def folded_from_paper(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of a paper head -> state of the folded head with the same scores on a 1x1 map.

    Pooling 1x1 "to 7x7" repeats one pixel x 49 times, so fc6 computes sum_p W_p x = (sum_p W_p) x. The sum is
    taken in float64.
    """
    first = f"fc6{REDUCE}.weight" if f"fc6{REDUCE}.weight" in head else "fc6.weight"
    fc6 = head[first]
    summed = fc6.reshape(len(fc6), -1, POOLED_SIZE**2).sum(2, dtype=torch.float64)
    return {**head, first: summed.to(fc6.dtype)}
