"""Top activations: the images of a data set that activate a channel most, and the part of them that it sees.

Source: Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901, section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.loading import Batch, EvalBatches
from vggnet.data.sources.opening import open_source
from vggnet.errors import check_at_least
from vggnet.interpret.layers import Channel, as_array, outputs, read_channels
from vggnet.interpret.receptive_field import Field, receptive_field
from vggnet.models.vgg import VGG
from vggnet.progress import Progress, report_progress
from vggnet.report.text import SKIP
from vggnet.weights.checkpoint import inference_mode, open_model

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are not included


@dataclass(frozen=True, kw_only=True)
class TopActivation:
    """An image, and the place where the channel has its largest activation."""

    image: str  # where it is stored
    label: str  # its class
    activation: float
    box: Box  # the receptive field of the place, as far as it is on the image
    picture: NDArray[np.uint8] = field(metadata=SKIP)  # as the network saw it: (H, W, 3), or (H, W) gray


def find_top_activations(
    model: VGG | Path | str,
    data: str | Path,
    channels: Sequence[str] | str,
    *,
    split: str = "test",
    top: int = 8,
    batch_size: int = 16,
    workers: int = 0,
    device: str | None = None,
    progress: Progress = False,
) -> dict[str, list[TopActivation]]:
    """Find the images of a data set that activate channels most.

    Args:
        model: a VGG, which is left as it was found, a run folder, a `.safetensors` file or a name of `vgg weights
            list`.
        data: "digits", "cifar10", a folder of class folders or of parquet files, ... as for `vggnet.train`.
        channels: a layer and a number from 0 each, such as "relu4_3:17".
        split: a split of the data, or "all".
        top: number of images for each channel.
        batch_size: images at a time through the network.
        workers: loader processes.
        device: "cpu", "cuda", ...; by default a VGG stays where it is, and a file goes to the GPU if there is one.
        progress: False shows nothing, True a bar or lines on stderr; a callable gets (done, total) after each batch.

    Returns:
        {channel: images}, the largest activation at any place first; of equal ones the image that comes first in the
        data.

    Raises:
        ConfigError: the network has no such channel, or an option is impossible.
        DataError: the data cannot be opened. ImageError: an image cannot be read.
        WeightsError: there is no such model, or it has no preprocessing.

    Example:
        >>> found = find_top_activations("vgg8_bn-cifar10-fast", "digits", "relu1_1:5", top=2, batch_size=500)
        >>> [round(one.activation, 1) for one in found["relu1_1:5"]] == sorted(
        ...     (round(one.activation, 1) for one in found["relu1_1:5"]), reverse=True
        ... )
        True
    """
    check_at_least(1, top=top, batch_size=batch_size)
    check_at_least(0, workers=workers)
    opened = open_model(model, device=device)
    network, preprocess = opened.network, opened.preprocess
    wanted = read_channels(network, channels)
    source = open_source(data, split)
    best: dict[Channel, list[_Peak]] = {channel: [] for channel in wanted}
    with inference_mode(network), report_progress(progress, "top activations") as report:
        done = 0
        for batch in EvalBatches(source, preprocess, batch_size, workers):
            images = preprocess.normalize(batch.images.to(opened.device))
            found = outputs(network, images, [channel.layer for channel in wanted])
            for channel, peaks in best.items():
                peaks += _peaks(found[channel.layer][:, channel.number], batch)
                peaks.sort(key=lambda peak: (-peak.activation, peak.image))
                del peaks[top:]
            done += len(batch.images)
            report(done, len(source))
    fields = {channel.layer: receptive_field(network, channel.layer) for channel in wanted}
    return {
        str(channel): [
            TopActivation(
                image=source.describe(peak.image),
                label=source.classes[source.labels[peak.image]],
                activation=peak.activation,
                box=_seen(fields[channel.layer], peak),
                picture=as_array(peak.pixels),
            )
            for peak in peaks
        ]
        for channel, peaks in best.items()
    }


class _Peak(NamedTuple):
    """The largest activation of an image."""

    activation: float
    image: int  # its index in the source
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
    """The field of the place, as far as it is on the image."""
    height, width = peak.pixels.shape[1:]
    left, top = (field.start + place * field.step for place in (peak.column, peak.row))
    return max(0, left), max(0, top), min(width, left + field.size), min(height, top + field.size)
