"""Table 1 of the VGG paper as data, other columns beside it, and the networks' names. No PyTorch here.

Source: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015,
arXiv:1409.1556v6).
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from vggnet.errors import ConfigError

LRN: Literal["LRN"] = "LRN"

# Each entry: the layers of one block, in order; a number is a convolution's kernel size. A ReLU follows every
# convolution (before LRN), a 2x2 max-pool of stride 2 ends every block.
TABLE_1: dict[str, tuple[tuple[int | Literal["LRN"], ...], ...]] = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "A-LRN": ((3, LRN), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
WIDTHS = (64, 128, 256, 512, 512)  # output channels of blocks 1..5, the same in every column
# Section 4.1's shallow net, which the paper compares with B: each pair of 3x3 convolutions is one 5x5.
SHALLOW_B = ((5,), (5,), (5,), (5,), (5,))
# Column S is ours, not the paper's, and made for 32x32 images: output channels of the 3x3 convolutions of its blocks.
# It has few where the map is largest, most at 16x16 and 8x8, and grows before a pool rather than after it.
SMALL_IMAGES = ((32, 64), (64, 256), (256, 256), (256,), ())
# RepVGG (Ding et al., CVPR 2021, arXiv:2101.03697, Table 2): output channels of the 3x3 convolutions of its stages. The
# first convolution of a block has stride 2, and there is no pool.
STRIDED = {
    "RepVGG-A0": ((48,), (48,) * 2, (96,) * 4, (192,) * 14, (1280,)),
    "RepVGG-A1": ((64,), (64,) * 2, (128,) * 4, (256,) * 14, (1280,)),
    "RepVGG-A2": ((64,), (96,) * 2, (192,) * 4, (384,) * 14, (1408,)),
    "RepVGG-B0": ((64,), (64,) * 4, (128,) * 6, (256,) * 16, (1280,)),
    "RepVGG-B1": ((64,), (128,) * 4, (256,) * 6, (512,) * 16, (2048,)),
}
FC_WIDTH = 4096  # outputs of fc6 and fc7
POOLED_SIZE = 7  # pixels, the last feature map of a 224x224 image
TOTAL_STRIDE = 32  # five pools, or convolutions, of stride 2
MASK_HEADS = ("unet", "fcn8", "fcn32", "segnet")  # heads that give scores for each pixel
DETECTION_HEADS = ("ssd300", "ssd512")  # heads that give scores and places of many boxes
# Heads of networks that others trained, which give maps, and the only network that each is for.
NETWORK_OF_HEAD = {"craft": "vgg16_bn", "hed": "vgg16"}
# What heads that take the maps of several layers give for an image.
OUTPUTS_OF_HEAD: dict[str, Literal["masks", "detections", "maps"]] = {
    **dict.fromkeys(MASK_HEADS, "masks"),
    **dict.fromkeys(DETECTION_HEADS, "detections"),
    **dict.fromkeys(NETWORK_OF_HEAD, "maps"),
}
MAP_HEADS = tuple(OUTPUTS_OF_HEAD)
# How many fully connected layers a head has; those of "dense" and of heads that take several maps are convolutions.
FULLY_CONNECTED = {"paper": 3, "cifar": 1, "gap": 1, "grid": 1, "dense": 0, "folded": 3, "none": 0} | dict.fromkeys(
    MAP_HEADS, 0
)

COLUMN_OF_NAME = {
    "vgg11": "A",
    "vgg11_lrn": "A-LRN",
    "vgg13": "B",
    "vgg16_1x1": "C",
    "vgg16": "D",
    "vgg19": "E",
    "vgg13_5x5": "B-5x5",
    "vgg8": "S",
    **{column.lower().replace("-", "_"): column for column in STRIDED},
}
# "Batch norm after each convolution" is younger than the paper; column A-LRN has its own normalization.
MODEL_NAMES = (
    *COLUMN_OF_NAME,
    *(f"{name}_bn" for name, column in COLUMN_OF_NAME.items() if column not in ("A-LRN", "B-5x5")),
)


class Network(NamedTuple):
    """What a model name stands for."""

    name: str
    column: str
    batch_norm: bool


def resolve(name: str) -> Network:
    """The network that a name stands for.

    Args:
        name: a model name (`vgg16_bn`) or a column letter of Table 1 (`D`, `D_bn`), in upper or lower case.

    Raises:
        ConfigError: an unknown name; the message lists those that exist.

    Example:
        >>> resolve("D_bn")
        Network(name='vgg16_bn', column='D', batch_norm=True)
    """
    if not isinstance(name, str):
        raise ConfigError(f"a model's name is a string such as 'vgg16', not {name!r}.")
    base, batch_norm = (name[:-3], True) if name.lower().endswith("_bn") else (name, False)
    for known, column in COLUMN_OF_NAME.items():
        if base.lower() in (known, column.lower()):
            full_name = f"{known}_bn" if batch_norm else known
            if full_name in MODEL_NAMES:
                return Network(full_name, column, batch_norm)
    raise ConfigError(
        f"unknown model {name!r}. The models are {', '.join(MODEL_NAMES)}; "
        f"the paper's column letters {', '.join(TABLE_1)} are accepted too (with _bn for batch norm)."
    )


class Layer(NamedTuple):
    """One layer of a column: `kind` is "conv", "lrn" or "pool"; `kernel` is 0 for LRN."""

    kind: Literal["conv", "lrn", "pool"]
    block: int
    number: int  # of the convolution within its block, from 1; for a pool, 0
    kernel: int
    channels: int  # outputs
    stride: int = 1


def num_convolutions(column: str) -> int:
    """How many convolutions a column has.

    Example:
        >>> num_convolutions("D")
        13
    """
    return sum(map(len, _blocks(column))) - (column == "A-LRN")


def layers(column: str, width: float = 1.0, given: Sequence[int] | None = None) -> Iterator[Layer]:
    """The layers of a column, in order.

    Args:
        column: a key of `TABLE_1` or `STRIDED`, "B-5x5" (the shallow net of section 4.1) or "S" (ours).
        width: multiplies the channels of the convolutions.
        given: the channels of each convolution of a pruned network, instead of Table 1's.

    Example:
        >>> [(layer.kind, layer.channels) for layer in layers("A")][:4]
        [('conv', 64), ('pool', 64), ('conv', 128), ('pool', 128)]
    """
    channels = 0
    pruned = iter(given) if given is not None else None
    for block, members in enumerate(_blocks(column), start=1):
        number = 0
        for kernel, outputs in members:
            if kernel == LRN:
                yield Layer("lrn", block, number, 0, channels)
            else:
                number += 1
                channels = max(1, round(outputs * width)) if pruned is None else next(pruned)
                stride = 2 if column in STRIDED and number == 1 else 1
                yield Layer("conv", block, number, int(kernel), channels, stride)
        if column not in STRIDED:
            yield Layer("pool", block, 0, 2, channels, 2)


class Level(NamedTuple):
    """The maps of a block, which heads for pixels and objects take."""

    last: str  # name of the layer before the pool; its map is twice as high and wide as that of the pool
    pool: str  # name of the pool
    channels: int  # of both
    convolutions: int  # of the block


def levels(column: str, width: float = 1.0, given: Sequence[int] | None = None) -> list[Level]:
    """The five blocks of a column. Arguments: as `layers`.

    Raises:
        ConfigError: the column has no pools.

    Example:
        >>> levels("D")[2]
        Level(last='relu3_3', pool='pool3', channels=256, convolutions=3)
    """
    found: list[Level] = []
    last, convolutions = "", 0
    for layer in layers(column, width, given):
        if layer.kind == "pool":
            pool = f"pool{layer.block}"
            found.append(Level(last, pool, layer.channels, convolutions))
            last, convolutions = pool, 0
        else:
            last = f"{'lrn' if layer.kind == 'lrn' else 'relu'}{layer.block}_{layer.number}"
            convolutions += layer.kind == "conv"
    if not found:
        raise ConfigError(
            f"heads for pixels and objects take the maps before pools, but {column} has none. Take another model."
        )
    return found


def _blocks(column: str) -> list[list[tuple[int | Literal["LRN"], int]]]:
    """Kernel size and output channels of each convolution, block by block."""
    given = SMALL_IMAGES if column == "S" else STRIDED.get(column)
    if given is not None:
        return [[(3, outputs) for outputs in block] for block in given]
    blocks = SHALLOW_B if column == "B-5x5" else TABLE_1[column]
    return [[(kernel, outputs) for kernel in block] for outputs, block in zip(WIDTHS, blocks, strict=True)]
