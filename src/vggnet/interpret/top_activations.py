"""The pictures of a data set that excite a channel most (Zeiler & Fergus, arXiv:1311.2901), and the part it sees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vggnet.data.loading import Batch, EvalBatches
from vggnet.data.sources.opening import open_source
from vggnet.errors import check_at_least
from vggnet.interpret.borrowing import Model, borrowed, opened
from vggnet.interpret.explain import as_array
from vggnet.interpret.layers import Channel, outputs, read_channels, split_at
from vggnet.models.vgg import VGG
from vggnet.report.explanation_figures import Excitement, draw_exciting
from vggnet.weights.prepared import preprocess_of

Progress = Callable[[int, int], None]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are not included


@dataclass(frozen=True, kw_only=True)
class Exciting:
    """A picture, and the place where the channel answers most to it."""

    image: str  # where it lies
    label: str  # its class
    activation: float
    box: Box  # what the place sees of the picture, without what lies beyond its borders
    picture: NDArray[np.uint8]  # as the network saw it: (H, W, 3), or (H, W) gray

    def as_dict(self) -> dict[str, Any]:
        """All but the picture, for JSON."""
        return {name: value for name, value in vars(self).items() if name != "picture"}


class Field(NamedTuple):
    """The receptive field of a layer's places: that of place i is [start + i step, start + i step + size)."""

    start: int  # pixels; negative by what padding adds
    step: int
    size: int


def find_exciting(
    model: Model,
    data: str | Path,
    channels: Sequence[str] | str,
    *,
    split: str = "test",
    top: int = 8,
    batch_size: int = 16,
    workers: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> dict[str, list[Exciting]]:
    """For each channel, such as relu4_3:17, the `top` pictures with the largest activation at any place, largest first.

    model: a run folder, a `.safetensors` file, a name of `vgg weights list`, or a VGG, which is left as it was found.
    data, split: whatever `open_source` takes.  progress: called with the pictures done and to do.
    Of equal ones the picture that comes first in the data is the first.
    Raises: ConfigError for a channel or an option that cannot work; DataError, ImageError for data that cannot be read;
        WeightsError.
    """
    check_at_least(1, top=top, batch_size=batch_size)
    check_at_least(0, workers=workers)
    network = opened(model, device, fast=True)
    wanted = list(dict.fromkeys(read_channels(network, channels)))
    preprocess = preprocess_of(network)
    source = open_source(data, split)
    best: dict[Channel, list[_Peak]] = {channel: [] for channel in wanted}
    with borrowed(network), torch.no_grad():
        done = 0
        for batch in EvalBatches(source, preprocess, batch_size, workers):
            images = preprocess.normalize(batch.images.to(next(network.parameters()).device))
            found = outputs(network, images, [channel.layer for channel in wanted])
            for channel, peaks in best.items():
                peaks += _peaks(found[channel.layer][:, channel.number], batch)
                peaks.sort(key=lambda peak: (-peak.activation, peak.picture))
                del peaks[top:]
            done += len(batch.images)
            if progress:
                progress(done, len(source))
    fields = {channel.layer: receptive_field(network, channel.layer) for channel in wanted}
    return {
        str(channel): [
            Exciting(
                image=source.describe(peak.picture),
                label=source.classes[source.labels[peak.picture]],
                activation=peak.activation,
                box=_seen(fields[channel.layer], peak),
                picture=as_array(peak.pixels),
            )
            for peak in peaks
        ]
        for channel, peaks in best.items()
    }


def draw_exciting_pictures(found: dict[str, list[Exciting]], path: Path, *, title: str = "") -> None:
    """A row for each channel: the pictures with the field framed, the field below.  Raises: StorageError."""
    rows = [
        (name, [Excitement(one.picture, one.box, f"{one.activation:.3g}, {one.label}") for one in pictures])
        for name, pictures in found.items()
    ]
    draw_exciting(rows, path, title=title)


def receptive_field(network: VGG, layer: str) -> Field:
    """Of the places of a layer, by its kernels, strides and paddings."""
    start, step, size = 0, 1, 1
    for module in split_at(network, layer)[0]:
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            kernel, stride, padding = (_number(value) for value in (module.kernel_size, module.stride, module.padding))
            start -= padding * step
            size += (kernel - 1) * step
            step *= stride
    return Field(start, step, size)


class _Peak(NamedTuple):
    """The largest activation of a picture."""

    activation: float
    picture: int  # its index in the source
    row: int  # of the place in the layer
    column: int
    pixels: Tensor  # uint8 (C, H, W)


def _peaks(maps: Tensor, batch: Batch) -> list[_Peak]:
    """Of one channel's maps (N, h, w)."""
    values, places = maps.flatten(1).max(1)
    width = maps.shape[2]
    return [
        _Peak(value, index, place // width, place % width, pixels)
        for value, index, place, pixels in zip(
            values.tolist(), batch.indices.tolist(), places.tolist(), batch.images, strict=True
        )
    ]


def _seen(field: Field, peak: _Peak) -> Box:
    """The field of the place, as far as it lies on the picture."""
    height, width = peak.pixels.shape[1:]
    left, top = (field.start + place * field.step for place in (peak.column, peak.row))
    return max(0, left), max(0, top), min(width, left + field.size), min(height, top + field.size)


def _number(value: int | str | tuple[int, ...]) -> int:
    assert not isinstance(value, str)
    return value if isinstance(value, int) else value[0]
