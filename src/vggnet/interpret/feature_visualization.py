"""Feature visualization: images that maximize the activation of a channel, by gradient ascent from noise.

Erhan et al. (2009). The spectrum of photos as a prior, and random movements, are those of Olah, Mordvintsev & Schubert,
"Feature Visualization", Distill 2017, doi:10.23915/distill.00007.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import cos, radians, sin
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Adam

from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, NonFiniteError, check_at_least
from vggnet.interpret.layers import Channel, layer_names, outputs, read_channels, split_at
from vggnet.models.vgg import VGG
from vggnet.progress import Progress, report_progress
from vggnet.report.text import SKIP
from vggnet.weights.checkpoint import frozen, open_model

LEARNING_RATE = 0.05
NOISE = 0.01  # deviation of the spectrum at the start
CONTRAST = 1.0  # the largest root mean square of the logarithm of p / (1 - p) of the values p
# Before every step the image is moved at random by up to this much:
SHIFT = 0.06  # of its side
TURN = 5.0  # degrees
ZOOM = 0.1  # of its size
# Ohta, Kanade & Sakai (1980): lightness, red against blue, green against both; about the principal axes of the colors
# of photos, with decreasing deviation, as in photos.
OHTA = ((1.0, 1.0, 1.0), (0.5, 0.0, -0.5), (-0.25, 0.5, -0.25))


@dataclass(frozen=True, kw_only=True)
class Visualization:
    """An image made for a channel."""

    channel: str
    picture: NDArray[np.uint8] = field(metadata=SKIP)  # (H, W, 3), or (H, W) gray
    before: float  # mean activation over the places, of the noise at the start
    after: float


def visualize_channels(
    model: VGG | Path | str,
    channels: Sequence[str] | str,
    *,
    size: int | None = None,
    steps: int = 200,
    seed: int = 0,
    device: str | None = None,
    progress: Progress = False,
) -> list[Visualization]:
    """Optimize an image for each channel that maximizes the channel's mean over all places.

    The image is a Fourier series whose terms Adam changes the less the higher their frequency, because high frequencies
    are weaker in photos. Before every step it is moved, rotated and zoomed a little, so that nothing depends on single
    pixels, and its contrast is limited. For a ReLU the layer before it is maximized, because a gradient of 0 leads
    nowhere. One seed gives the same images, whichever other channels are asked for.

    Args:
        model: a VGG, which is not changed, a run folder, a `.safetensors` file or a name of `vgg weights
            list`.
        channels: a layer and a number from 0 each, such as "relu4_3:17".
        size: pixels of both sides; by default those of the model's own images.
        steps: optimizer steps.
        seed: of the noise at the start and of the movements.
        device: "cpu", "cuda", ...; by default a VGG stays where it is, and a file goes to the GPU if there is one.
        progress: False shows nothing, True a bar or lines on stderr; a callable gets (done, total), counted in steps.

    Raises:
        ConfigError: the network has no such channel, or an option is impossible.
        NonFiniteError: the activation is not finite.
        WeightsError: there is no such model, or it has no preprocessing.

    Source:
        Olah, Mordvintsev & Schubert, "Feature Visualization", Distill 2017, doi:10.23915/distill.00007.

    Example:
        >>> (found,) = visualize_channels("vgg8_bn-cifar10-fast", "relu1_1:5", steps=3)
        >>> found.picture.shape, found.after > found.before
        ((32, 32, 3), True)
    """
    check_at_least(1, steps=steps)
    check_at_least(0, seed=seed)
    opened = open_model(model, device=device, accelerate=False)
    network, preprocess = frozen(opened.network), opened.preprocess
    wanted = read_channels(network, channels)
    size = preprocess.crop if size is None else size
    for channel in wanted:
        _check_size(network, channel.layer, size)
    layers = list(dict.fromkeys(channel.layer for channel in wanted))
    found: dict[str, Visualization] = {}
    with torch.enable_grad(), report_progress(progress, "visualizing", unit="step") as report:
        for number, layer in enumerate(layers):
            tell = _shifted(report, number * steps, len(layers) * steps)
            here = [channel for channel in wanted if channel.layer == layer]
            for one in _maximize(network, preprocess, here, size, steps, seed, tell):
                found[one.channel] = one
    return [found[str(channel)] for channel in wanted]


def _maximize(
    network: VGG,
    preprocess: Preprocess,
    channels: Sequence[Channel],
    size: int,
    steps: int,
    seed: int,
    report: Callable[[int], None],
) -> list[Visualization]:
    """For channels of one layer, as one batch."""
    device = next(network.parameters()).device
    random = torch.Generator().manual_seed(seed)
    series = _Series(len(channels), preprocess.in_channels, size, random, device)
    optimizer = Adam([series.spectrum], lr=LEARNING_RATE)
    before = _activations(network, preprocess, series.images(), channels)
    target = _input_of(network, channels[0].layer)
    for step in range(steps):
        images = _moved(series.images(), random)
        maps = outputs(network, preprocess.normalize(images), [target])[target]
        score = torch.stack([maps[place, channel.number].mean() for place, channel in enumerate(channels)]).sum()
        if not score.isfinite():
            raise NonFiniteError(f"{channels[0].layer}: the activation became {score.item()} at step {step + 1}.")
        optimizer.zero_grad()
        (-score).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        report(step + 1)
    images = series.images().detach()
    after = _activations(network, preprocess, images, channels)
    arrays = (255 * images).round().to(torch.uint8).movedim(1, 3).squeeze(3).cpu().numpy()
    return [
        Visualization(channel=str(channel), picture=array, before=low, after=high)
        for channel, array, low, high in zip(channels, arrays, before, after, strict=True)
    ]


class _Series:
    """Images (K, C, size, size) in [0, 1] as Fourier series of colors."""

    def __init__(self, count: int, colors: int, size: int, random: torch.Generator, device: torch.device) -> None:
        self.size = size
        start = NOISE * torch.randn(1, colors, size, size // 2 + 1, 2, generator=random)
        self.spectrum = start.repeat(count, 1, 1, 1, 1).to(device).requires_grad_()
        down, across = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
        frequencies = (down.square() + across.square()).sqrt().clamp_min(1 / size)
        self.weights = (1 / frequencies)[..., None].to(device)
        axes = torch.tensor(OHTA) if colors == 3 else torch.ones(1, 1)
        self.axes = axes.to(device)

    def images(self) -> Tensor:
        """The images as they are now."""
        terms = torch.view_as_complex((self.spectrum * self.weights).contiguous())
        series = torch.fft.irfft2(terms, s=(self.size, self.size), norm="ortho")
        colors = torch.einsum("nahw,ac->nchw", series, self.axes)
        contrast = colors.square().mean((1, 2, 3), keepdim=True).sqrt()
        return (colors * (CONTRAST / contrast).clamp_max(1)).sigmoid()


def _moved(images: Tensor, random: torch.Generator) -> Tensor:
    """All of a batch shifted, turned and zoomed alike; what comes in at the borders is mirrored."""
    across, down, turn, zoom = (2 * torch.rand(4, generator=random) - 1).tolist()
    angle, scale = radians(TURN * turn), 1 + ZOOM * zoom
    rows = [
        [scale * cos(angle), -scale * sin(angle), 2 * SHIFT * across],
        [scale * sin(angle), scale * cos(angle), 2 * SHIFT * down],
    ]
    move = torch.tensor(rows, device=images.device).expand(len(images), 2, 3)
    places = F.affine_grid(move, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="reflection", align_corners=False)


@torch.no_grad()
def _activations(network: VGG, preprocess: Preprocess, images: Tensor, channels: Sequence[Channel]) -> list[float]:
    """The mean activation of each image's channel."""
    layer = channels[0].layer
    maps = outputs(network, preprocess.normalize(images), [layer])[layer]
    return [maps[place, channel.number].mean().item() for place, channel in enumerate(channels)]


def _input_of(network: VGG, layer: str) -> str:
    """The layer before a ReLU; any other layer itself."""
    names = layer_names(network)
    return names[names.index(layer) - 1] if layer.startswith("relu") else layer


def _shifted(report: Callable[[int, int], None], done: int, total: int) -> Callable[[int], None]:
    return lambda steps: report(done + steps, total)


def _check_size(network: VGG, layer: str, size: int) -> None:
    """Raises: ConfigError if the layer has no place on an image of `size` pixels, or the series no wave."""
    pools = sum(isinstance(module, nn.MaxPool2d) for module in split_at(network, layer)[0])
    least = max(2, 2**pools)
    if size < least:
        raise ConfigError(f"size is {size}; {layer} needs at least {least} pixels.")
