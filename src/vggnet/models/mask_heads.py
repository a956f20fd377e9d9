"""Heads that give class scores for each pixel: U-Net, FCN-32s, FCN-8s and SegNet, on any column of Table 1.

A head of this kind takes the maps of the layers in its `taps`, the shallowest first, of images whose height and width
are multiples of 32, and returns logits (N, num_classes, H, W). Only the layers in its `scores` depend on the number of
classes. The convolutions of a decoder have batch norm whether or not the network has it, as decoders start untrained.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.accel.fusion import run_for_convolution
from vggnet.accel.resizing import enlarge_and_join
from vggnet.models import map_head
from vggnet.models.map_head import Builder, MapHead, Tapped
from vggnet.models.table1 import TOTAL_STRIDE, WIDTHS, Level

torch.fx.wrap("enlarge_and_join")  # a traced network calls it as one operator

# Of a decoder at width 1, from the map of pool4 to the whole image. Others end with 16; matrix units take 32 at once.
UNET_CHANNELS = (256, 128, 64, 32, 32)
FC_FACTOR = 8  # channels of fc6 and fc7 for one of pool5: 4096 at width 1


class MaskHead(MapHead):
    """What heads for pixels have in common: they take images of any size."""

    def of_images(self, tapped: Tapped, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_classes, H, W): images are padded to multiples of 32, and logits cropped."""
        height, width = images.shape[2:]
        return super().of_images(tapped, map_head.padded(images))[..., :height, :width]


class UNet(MaskHead):
    """Enlarge by 2, join the encoder's map of that size, convolve twice; five times, up to the whole image.

    Args:
        levels: of the network.
        num_classes: number of outputs for each pixel.
        dropout: does not apply.

    Source:
        Ronneberger et al. (arXiv:1505.04597), with nearest-neighbor upsampling and batch norm, as is usual on
        pretrained encoders.
    """

    maps_for_convolution = True

    def __init__(self, levels: Sequence[Level], num_classes: int, dropout: float) -> None:
        width = levels[0].channels / WIDTHS[0]
        channels = [max(8, round(width * one)) for one in UNET_CHANNELS]
        skips = [level.channels for level in reversed(levels)]
        taps = [*(level.last for level in levels), levels[-1].pool]
        strides = [2**place for place in range(len(levels))]
        reach = 2 * strides[-1] + 2 * sum(strides)  # the center, and two convolutions in each stage
        super().__init__(taps, reach)
        self.scores = nn.ModuleDict({"pixels": nn.Conv2d(channels[-1], num_classes, 1)})
        self.center = _block(skips[0], channels[0])
        self.stages = nn.ModuleList(
            nn.Sequential(*_block(before + skip, after), *_block(after, after))
            for before, skip, after in zip([channels[0], *channels], skips, channels, strict=False)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of `taps` -> logits (N, num_classes, H, W)."""
        *skips, deepest = maps
        x = run_for_convolution(self.center, deepest)
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            joined = enlarge_and_join(x, skip)
            x = stage(joined) if stage is self.stages[-1] else run_for_convolution(stage, joined)
        logits: Tensor = self.scores["pixels"](x)
        return logits


class FCN(MaskHead):
    """The paper's fully connected layers as convolutions, their scores enlarged by transposed convolutions.

    FCN-32s enlarges the scores of pool5 by 32. FCN-8s enlarges them by 2, adds scores of pool4, enlarges by 2, adds
    those of pool3, and enlarges by 8. Transposed convolutions start as bilinear interpolation and learn. fc6 is padded,
    so that no map is cropped.

    Args:
        levels: of the network.
        num_classes: number of outputs for each pixel.
        dropout: probability in [0, 1) after fc6 and fc7.
        skips: False for FCN-32s, True for FCN-8s.

    Source:
        Long et al. (arXiv:1411.4038).
    """

    def __init__(self, levels: Sequence[Level], num_classes: int, dropout: float, *, skips: bool) -> None:
        *_, third, fourth, fifth = levels
        width = FC_FACTOR * fifth.channels
        joined = [fourth, third] if skips else []
        factors = (2, 2, 8) if skips else (32,)
        scores: dict[str, nn.Module] = {"fc8": nn.Conv2d(width, num_classes, 1)}
        scores |= {level.pool: nn.Conv2d(level.channels, num_classes, 1) for level in joined}
        for place, factor in enumerate(factors, start=1):
            scores[f"up{place}"] = nn.ConvTranspose2d(
                num_classes, num_classes, 2 * factor, stride=factor, padding=factor // 2, bias=False
            )
        fc6, enlarging = 3 * TOTAL_STRIDE, TOTAL_STRIDE
        super().__init__([level.pool for level in [*reversed(joined), fifth]], fc6 + enlarging)
        self.scores = nn.ModuleDict(scores)
        self.joined = [level.pool for level in joined]
        self.fc6 = nn.Conv2d(fifth.channels, width, 7, padding=3)
        self.fc7 = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of `taps` -> logits (N, num_classes, H, W)."""
        *skips, deepest = maps
        x = self.dropout(self.fc6(deepest).relu())
        x = self.scores["fc8"](self.dropout(self.fc7(x).relu()))
        for place, (pool, skip) in enumerate(zip(self.joined, reversed(skips), strict=True), start=1):
            x = self.scores[f"up{place}"](x) + self.scores[pool](skip)
        logits: Tensor = self.scores[f"up{len(self.joined) + 1}"](x)
        return logits


class SegNet(MaskHead):
    """The encoder mirrored: where it pools, values go back to the places that they came from, then convolutions.

    Args:
        levels: of the network.
        num_classes: number of outputs for each pixel.
        dropout: does not apply.

    Source:
        Badrinarayanan et al. (arXiv:1511.00561).
    """

    def __init__(self, levels: Sequence[Level], num_classes: int, dropout: float) -> None:
        first = levels[0].channels
        taps = [*(level.last for level in levels), levels[-1].pool]
        reach = sum(level.convolutions * 2**place for place, level in enumerate(levels))
        super().__init__(taps, reach)
        self.scores = nn.ModuleDict({"pixels": nn.Conv2d(first, num_classes, 3, padding=1)})
        self.stages = nn.ModuleList()
        following = [first, *(level.channels for level in levels)]
        for level, after in zip(reversed(levels), reversed(following[:-1]), strict=True):
            count = level.convolutions - (level is levels[0])  # the scores are the last convolution
            outputs = [*[level.channels] * (count - 1), after][:count]
            inputs = [level.channels, *outputs]
            blocks = [_block(given, given_to) for given, given_to in zip(inputs, outputs, strict=False)]
            self.stages.append(nn.Sequential(*(layer for block in blocks for layer in block)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of `taps` -> logits (N, num_classes, H, W)."""
        *lasts, x = maps
        for stage, last in zip(self.stages, reversed(lasts), strict=True):
            _, places = F.max_pool2d(last, 2, return_indices=True)
            x = stage(F.max_unpool2d(x, places, (2, 2)))
        logits: Tensor = self.scores["pixels"](x)
        return logits


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution, batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


BUILDERS: Mapping[str, Builder] = {
    "unet": UNet,
    "fcn8": lambda levels, num_classes, dropout: FCN(levels, num_classes, dropout, skips=True),
    "fcn32": lambda levels, num_classes, dropout: FCN(levels, num_classes, dropout, skips=False),
    "segnet": SegNet,
}
