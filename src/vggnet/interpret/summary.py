"""The layer table of a network: shapes, parameters, multiply-adds, memory and receptive fields."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from vggnet.errors import ConfigError
from vggnet.interpret.costs import layer_macs
from vggnet.interpret.receptive_field import Field
from vggnet.models.architecture import Architecture
from vggnet.models.heads import AtLeastPooledSize, OneCellMap, ScoreMap
from vggnet.models.table1 import MAP_HEADS, TOTAL_STRIDE, resolve
from vggnet.models.vgg import VGG, empty
from vggnet.weights.registry import PUBLISHED, find

FLOAT = 4  # bytes of a number in float32
Kind = Literal["input", "conv", "lrn", "pool", "flatten", "fc", "average"]
Window = tuple[int | None, int | None, int | None]  # kernel, stride, padding
NO_WINDOW: Window = (None, None, None)


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One line of the table, for one image. Batch norm, ReLU and dropout are remarks of the layer before them."""

    stage: str  # input, block 1 .. block 5, head
    layer: str  # the paper's name
    kind: Kind
    output: tuple[int, ...]  # (C, H, W); (C,) after flattening
    kernel: int | None = None  # cells of the layer's input, as are the next two; None where there is no window
    stride: int | None = None  # None also if the windows of an adaptive pool differ; `kernel` is then the largest
    padding: int | None = None
    remark: str = ""
    parameters: int = 0  # with those of its batch norm
    macs: int = 0  # multiply-adds of convolutions and fully connected layers; the additions of biases are not counted
    activation_bytes: int = 0  # of the output in float32; 0 for flatten, which copies nothing
    receptive_field: int  # pixels of the image that one output depends on, in each direction; padding counts

    @property
    def channels(self) -> int:
        """C."""
        return self.output[0]


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """A network and its rows, from the image to the scores."""

    model: str
    column: str  # of Table 1
    head: str
    width: float
    pruned: bool  # whether the convolutions have other channels than Table 1's times `width`
    num_classes: int
    size: int  # pixels, both sides of the image
    rows: tuple[LayerRow, ...]

    @property
    def parameters(self) -> int:
        """Of the whole network."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return sum(row.macs for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Of the image and all rows together, one image in float32."""
        return sum(row.activation_bytes for row in self.rows)

    @property
    def weights_bytes(self) -> int:
        """Of a file with all parameters in float32."""
        return FLOAT * self.parameters

    def row(self, layer: str) -> LayerRow:
        """By the paper's name."""
        return next(row for row in self.rows if row.layer == layer)


def layer_table(
    model: VGG | Path | str = "vgg16",
    *,
    size: int | None = None,
    head: str | None = None,
    width: float | None = None,
    num_classes: int | None = None,
) -> LayerTable:
    """List every layer of a network with its shape, parameters, multiply-adds, memory and receptive field.

    All numbers are computed from the network itself; no weight is made or read.

    Args:
        model: a VGG, a model's name (`vgg16`, `D`), a run folder, a `.safetensors` file, or a name of `vgg weights
            list`, which need not have been downloaded.
        size: pixels of both sides of the image; by default those of the weights' preprocessing, 32 for the heads
            `cifar` and `folded`, else 224.
        head: for a model's name alone, as in `vggnet.create_model`; by default "paper", and "cifar" for `vgg8_bn`,
            which is made for 32x32 images.
        width: for a model's name alone: multiplies the channels of the convolutions; by default 1.
        num_classes: for a model's name alone; by default 1000, and 10 for the heads `cifar` and `folded`.

    Raises:
        ConfigError: the name is unknown, the size is below 32, or an option does not apply.
        InputError: the head does not take images of this size.
        WeightsError: there is no such file.

    Example:
        >>> table = layer_table("vgg16")
        >>> table.parameters, round(table.macs / 1e9, 2)
        (138357544, 15.47)
        >>> table.row("conv5_3").output, table.row("conv5_3").receptive_field
        ((512, 14, 14), 196)
    """
    if isinstance(model, VGG):
        options, crop = {"head": head, "width": width, "num_classes": num_classes}, None
        _refuse(options, "a network that is built")
        built = model
    else:
        architecture, crop = _architecture(str(model), head, width, num_classes)
        built = empty(architecture)
    of = built.architecture
    if of.head in MAP_HEADS:
        raise ConfigError(f"the layers of the head {of.head} do not follow each other, so they make no table.")
    if size is None:
        size = crop or (TOTAL_STRIDE if of.head in ("cifar", "folded") else 224)
    if size < TOTAL_STRIDE:
        raise ConfigError(f"the input has {size} pixels a side, but five pools need at least {TOTAL_STRIDE}.")
    return LayerTable(
        model=of.name,
        column=resolve(of.name).column,
        head=of.head,
        width=of.width,
        pruned=of.channels is not None,
        num_classes=of.num_classes,
        size=size,
        rows=tuple(_rows(built, size)),
    )


def _architecture(
    name: str, head: str | None, width: float | None, num_classes: int | None
) -> tuple[Architecture, int | None]:
    """What a name or file stands for, and the pixels that its weights expect, if they say so."""
    options = {"head": head, "width": width, "num_classes": num_classes}
    is_here = find(name) is not None or Path(name).exists()
    if name in PUBLISHED and not is_here:
        _refuse(options, name)
        known = PUBLISHED[name]
        return Architecture(name=known.model, head=known.head), None
    if is_here or os.sep in name or name.endswith(".safetensors"):
        from vggnet.weights.checkpoint import Checkpoint  # imports torchvision, which takes a second

        _refuse(options, name)
        checkpoint = Checkpoint.open(name)
        return checkpoint.architecture, checkpoint.preprocess.crop if checkpoint.preprocess else None
    network = resolve(name)
    head = head or ("cifar" if network.column == "S" else "paper")
    classes = num_classes if num_classes is not None else 10 if head in ("cifar", "folded") else 1000
    return Architecture(name=network.name, head=head, width=1.0 if width is None else width, num_classes=classes), None


def _refuse(options: dict[str, Any], name: str) -> None:
    """Raises: ConfigError if an option is given beside a network that has its own."""
    for option, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} has its own {option}, so {option} {value} has no meaning; leave it out.")


def _rows(network: VGG, size: int) -> Iterator[LayerRow]:
    """Shape and receptive field are carried from layer to layer."""
    channels = network.architecture.in_channels
    colors = {1: "gray", 3: "RGB"}.get(channels, "")
    row = LayerRow(
        stage="input", layer="input", kind="input", output=(channels, size, size), remark=colors,
        activation_bytes=FLOAT * channels * size**2, receptive_field=1,
    )  # fmt: skip
    field = Field()
    for name, module in network.features.named_children():
        if _is_remark(module):
            row = _remarked(row, module)
        else:
            yield row
            row, field = _next(row, f"block {_block(name)}", name, module, field)
    whole = field.after(row.output[-1]).size  # of what sees the whole map
    for name, module in network.head.named_children():
        if _is_remark(module):
            row = _remarked(row, module)
        elif isinstance(module, AtLeastPooledSize):
            _ask(module, row)
        else:
            yield row
            row, field = _next(row, "head", name, module, field)
            if row.kind in ("flatten", "fc", "average"):
                row = replace(row, receptive_field=whole)
    outputs = {None: "class scores", "shared": "a box", "per_class": "a box for each class"}
    ends = "feature map" if network.architecture.head == "none" else outputs[network.architecture.boxes]
    yield replace(row, remark=_joined(row.remark, ends))


def _next(row: LayerRow, stage: str, name: str, module: nn.Module, field: Field) -> tuple[LayerRow, Field]:
    """The row of `module`, which follows `row`, and its receptive field."""
    kind, output, window, remark = _shape(module, row)
    kernel, stride, padding = window
    field = field.after(kernel or 1, stride or 1, padding or 0)
    following = LayerRow(
        stage=stage,
        layer=name,
        kind=kind,
        output=output,
        kernel=kernel,
        stride=stride,
        padding=padding,
        remark=remark,
        parameters=_num_parameters(module),
        macs=layer_macs(module, output),
        activation_bytes=0 if kind == "flatten" else FLOAT * _product(output),
        receptive_field=field.size,
    )
    return following, field


def _shape(module: nn.Module, row: LayerRow) -> tuple[Kind, tuple[int, ...], Window, str]:
    """Kind, output, window and remark of a layer on the output of `row`."""
    channels, before = row.output[0], row.output[-1]
    match module:
        case nn.Conv2d(kernel_size=(kernel, _), stride=(stride, _), padding=(int(padding), _)):
            side = (before + 2 * padding - kernel) // stride + 1
            return "conv", (module.out_channels, side, side), (kernel, stride, padding), ""
        case nn.MaxPool2d(kernel_size=int(kernel), stride=int(stride)):
            side = (before - kernel) // stride + 1
            return "pool", (channels, side, side), (kernel, stride, 0), "maximum"
        case nn.LocalResponseNorm():
            return "lrn", row.output, NO_WINDOW, f"over {module.size} channels"
        case nn.AdaptiveAvgPool2d(output_size=int(side)):
            return "pool", (channels, side, side), *_averaging(before, side)
        case nn.Flatten() | OneCellMap():
            _ask(module, row)
            return "flatten", (_product(row.output),), NO_WINDOW, " x ".join(map(str, row.output))
        case nn.Linear():
            return "fc", (module.out_features,), NO_WINDOW, ""
        case ScoreMap():
            return "average", (channels,), NO_WINDOW, "mean over the map"
    raise AssertionError(module)


def _averaging(before: int, side: int) -> tuple[Window, str]:
    """PyTorch's adaptive pool: cell i of n is the mean of rows floor(i h / n) to ceil((i + 1) h / n) - 1."""
    if before == side:
        return NO_WINDOW, f"the map has {side}x{side} already"
    if before == 1:
        return NO_WINDOW, f"repeats the one cell {side**2} times"
    if before % side == 0:
        return (before // side, before // side, 0), "mean"
    largest = max(-(-(cell + 1) * before // side) - cell * before // side for cell in range(side))
    return (largest, None, 0), f"mean of at most {largest}x{largest} cells"


def _is_remark(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d | nn.ReLU | nn.Dropout)


def _remarked(row: LayerRow, module: nn.Module) -> LayerRow:
    """`row` followed by a layer of no line of its own."""
    word = f"dropout {module.p:g}" if isinstance(module, nn.Dropout) else "ReLU"
    if isinstance(module, nn.BatchNorm2d):
        word = "batch norm"
    return replace(row, remark=_joined(row.remark, word), parameters=row.parameters + _num_parameters(module))


def _ask(module: nn.Module, row: LayerRow) -> None:
    """Raises: InputError if the layer refuses a map of this size."""
    module(torch.empty(1, *row.output, device="meta"))


def _block(name: str) -> str:
    """`3` of `conv3_2` and `pool3`."""
    return name.partition("_")[0][-1]


def _joined(remark: str, more: str) -> str:
    return f"{remark}, {more}" if remark else more


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _product(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
