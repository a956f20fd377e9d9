"""Heads that give classes and places for many boxes of an image: SSD300 and SSD512, on any column of Table 1.

A head of this kind takes the maps of the layers in its `taps`, the shallowest first, and returns (N, D, K + 5): for
each of its D default boxes the scores of the background and of K classes, and how far the box is from the default one,
in the code of SSD. Which default boxes there are follows from its `Design` alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.models.map_head import Builder, MapHead
from vggnet.models.table1 import WIDTHS, Level

FC_CHANNELS = 1024  # outputs of fc6 and fc7 at width 1
SCALE = 20.0  # of the vectors of length 1 that the first map is made of, at the start


class Extra(NamedTuple):
    """Two convolutions after fc7: 1x1, and one that makes the map smaller."""

    channels: int  # of the second; the first has half as many
    kernel: int  # of the second
    stride: int
    padding: int


class Design(NamedTuple):
    """The shape of a head, and its default boxes: a row of them for each map, the largest map first."""

    size: int  # pixels, both sides of the image
    maps: tuple[int, ...]  # cells, both sides
    extras: tuple[Extra, ...]
    steps: tuple[int, ...]  # pixels between the centers of the boxes of neighboring cells
    scales: tuple[float, ...]  # of the boxes, in units of `size`; one more, for the larger square of the last map
    ratios: tuple[tuple[int, ...], ...]  # width over height; each also upright

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Two squares, and two boxes for each ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)


_HALVE, _REST = Extra(256, 3, 2, 1), Extra(256, 3, 1, 0)
# Liu et al. (arXiv:1512.02325), section 2.2, figure 2 and the appendix of its version 5. Scales of SSD300 are those of
# torchvision, of SSD512 those of the authors' code for PASCAL VOC.
DESIGNS: Mapping[str, Design] = {
    "ssd300": Design(
        size=300,
        maps=(38, 19, 10, 5, 3, 1),
        extras=(_HALVE._replace(channels=512), _HALVE, _REST, _REST),
        steps=(8, 16, 32, 64, 100, 300),
        scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    ),
    "ssd512": Design(
        size=512,
        maps=(64, 32, 16, 8, 4, 2, 1),
        extras=(_HALVE._replace(channels=512), _HALVE, _HALVE, _HALVE, Extra(256, 4, 1, 1)),
        steps=(8, 16, 32, 64, 128, 256, 512),
        scales=(0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05),
        ratios=((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    ),
}


class UnitVectors(nn.Module):
    """Each pixel's vector of channels at length 1, times a learned factor for each channel.

    Args:
        channels: of the map.

    Source:
        Liu et al. (arXiv:1506.04579), section 3.2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All factors are SCALE."""
        nn.init.constant_(self.weight, SCALE)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, h, w) -> the same."""
        return self.weight.view(1, -1, 1, 1) * F.normalize(maps)


class SSD(MapHead):
    """SSD's head: fc6 as a dilated convolution, fc7, pairs of convolutions, and predictors on seven or six maps.

    Batch norm, where the network has it, is in the features alone.

    Args:
        design: of the head.
        levels: of the network.
        num_classes: K, without the background.

    Attributes:
        design: as given.

    Source:
        Liu et al., "SSD: Single Shot MultiBox Detector" (arXiv:1512.02325).
    """

    ceil_pools = True  # 75 pixels become 38, as in the authors' code

    def __init__(self, design: Design, levels: Sequence[Level], num_classes: int) -> None:
        *_, fourth, fifth = levels
        super().__init__((fourth.last, fifth.last), reach=design.size)  # the smallest map is of the whole image
        width = fifth.channels / WIDTHS[-1]
        self.design, self.size = design, design.size
        self.norm4_3 = UnitVectors(fourth.channels)
        channels = _scaled(FC_CHANNELS, width)
        self.fc6 = nn.Conv2d(fifth.channels, channels, 3, padding=6, dilation=6)
        self.fc7 = nn.Conv2d(channels, channels, 1)
        of_maps = {"conv4_3": fourth.channels, "fc7": channels}
        for number, extra in enumerate(design.extras, start=8):
            first, second = _scaled(extra.channels // 2, width), _scaled(extra.channels, width)
            self.add_module(f"conv{number}_1", nn.Conv2d(channels, first, 1))
            reduce = nn.Conv2d(first, second, extra.kernel, stride=extra.stride, padding=extra.padding)
            self.add_module(f"conv{number}_2", reduce)
            channels = of_maps[f"conv{number}_2"] = second
        self.scores, self.boxes = nn.ModuleDict(), nn.ModuleDict()
        for (name, inputs), boxes in zip(of_maps.items(), design.boxes_per_cell, strict=True):
            self.scores[name] = nn.Conv2d(inputs, boxes * (1 + num_classes), 3, padding=1)
            self.boxes[name] = nn.Conv2d(inputs, boxes * 4, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of `taps` -> (N, D, K + 5)."""
        rows = [
            torch.cat([_rows(kind(x), boxes) for kind in (scores, offsets)], 2)
            for x, boxes, scores, offsets in zip(
                self._maps(*maps), self.design.boxes_per_cell, self.scores.values(), self.boxes.values(), strict=True
            )
        ]
        return torch.cat(rows, 1)

    def _maps(self, fourth: Tensor, fifth: Tensor) -> Iterator[Tensor]:
        """What is predicted from, the largest map first."""
        yield self.norm4_3(fourth)
        x = F.max_pool2d(fifth, 3, stride=1, padding=1)
        x = self.fc7(self.fc6(x).relu()).relu()
        yield x
        names = [f"conv{number}" for number in range(8, 8 + len(self.design.extras))]
        for name in names:
            x = self.get_submodule(f"{name}_1")(x).relu()
            x = self.get_submodule(f"{name}_2")(x).relu()
            yield x

    def start(self) -> None:
        """Draw all convolutions anew: Glorot's uniform distribution and biases 0, as in the authors' code."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


BUILDERS: Mapping[str, Builder] = {
    name: lambda levels, num_classes, dropout, design=design: SSD(design, levels, num_classes)  # type: ignore[misc]
    for name, design in DESIGNS.items()
}


def _scaled(channels: int, width: float) -> int:
    return max(8, round(channels * width))


def _rows(values: Tensor, boxes: int) -> Tensor:
    """(N, boxes n, h, w) -> (N, h w boxes, n): the boxes of a cell side by side, cells row by row."""
    count, channels, height, width = values.shape
    return values.permute(0, 2, 3, 1).reshape(count, height * width * boxes, channels // boxes)
