"""The picture that a channel answers to most, painted by gradient ascent from noise.

Erhan et al. (2009); the spectrum of natural pictures as a prior and jitter after Olah, Mordvintsev & Schubert,
"Feature Visualization", Distill 2017, doi:10.23915/distill.00007.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, radians, sin
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam

from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, NonFiniteError, check_at_least
from vggnet.interpret.borrowing import Model, borrowed, opened
from vggnet.interpret.layers import Channel, layer_names, outputs, read_channels, split_at
from vggnet.models.vgg import VGG
from vggnet.report.figures import draw_gallery
from vggnet.weights.prepared import preprocess_of

LEARNING_RATE = 0.05
NOISE = 0.01  # deviation of the spectrum at the start
CONTRAST = 1.0  # the largest root mean square of the logarithm of p / (1 - p) of the values p
# Before every step the picture is moved at random by up to so much:
SHIFT = 0.06  # of its side
TURN = 5.0  # degrees
ZOOM = 0.1  # of its size
# Ohta, Kanade & Sakai (1980): lightness, red against blue, green against both; about the principal axes of the colors
# of pictures, and of falling deviation, as in these.
OHTA = ((1.0, 1.0, 1.0), (0.5, 0.0, -0.5), (-0.25, 0.5, -0.25))

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Maximized:
    """A picture made for a channel."""

    channel: str
    picture: NDArray[np.uint8]  # (H, W, 3), or (H, W) gray
    before: float  # mean activation over the places, of the noise at the start
    after: float

    def as_dict(self) -> dict[str, Any]:
        """All but the picture, for JSON."""
        return {name: value for name, value in vars(self).items() if name != "picture"}


def maximize(
    model: Model,
    channels: Sequence[str] | str,
    *,
    size: int | None = None,
    steps: int = 200,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> list[Maximized]:
    """For each channel, such as relu4_3:17, a picture of `size` pixels a side that raises its mean over all places.

    model: a run folder, a `.safetensors` file, a name of `vgg weights list`, or a VGG, which is left as it was found.
    The picture is a Fourier series, whose terms Adam changes the less the higher their frequency, as they are the
    weaker in natural pictures; before every step it is moved, turned and
    zoomed a little, so that nothing depends on single pixels, and its contrast is limited. Of a
    ReLU what enters it is raised, as a gradient of 0 leads nowhere.
    size: by default that of the model's own images.  progress: called with the steps done and to do.
    The same seed gives the same pictures, whichever channels are asked for besides.
    Raises: ConfigError for a channel or an option that cannot work; WeightsError; NonFiniteError.
    """
    check_at_least(1, steps=steps)
    check_at_least(0, seed=seed)
    network = opened(model, device)
    wanted = list(dict.fromkeys(read_channels(network, channels)))
    preprocess = preprocess_of(network)
    size = preprocess.crop if size is None else size
    for channel in wanted:
        _check_size(network, channel.layer, size)
    layers = list(dict.fromkeys(channel.layer for channel in wanted))
    found: dict[str, Maximized] = {}
    with borrowed(network):
        for number, layer in enumerate(layers):
            tell = None if progress is None else _shifted(progress, number * steps, len(layers) * steps)
            here = [channel for channel in wanted if channel.layer == layer]
            for one in _maximize(network, preprocess, here, size, steps, seed, tell):
                found[one.channel] = one
    return [found[str(channel)] for channel in wanted]


def draw_maximized(found: Sequence[Maximized], path: Path) -> None:
    """Six pictures a row, each under its channel and its activation.  Raises: StorageError."""
    cells = [(Image.fromarray(one.picture), f"{one.channel}\n{one.before:.3g} → {one.after:.3g}") for one in found]
    draw_gallery([cells[start : start + 6] for start in range(0, len(cells), 6)], path)


def _maximize(
    network: VGG,
    preprocess: Preprocess,
    channels: Sequence[Channel],
    size: int,
    steps: int,
    seed: int,
    progress: Callable[[int], None] | None,
) -> list[Maximized]:
    """Of channels of one layer, a batch."""
    device = next(network.parameters()).device
    random = torch.Generator().manual_seed(seed)
    series = _Series(len(channels), preprocess.in_channels, size, random, device)
    optimizer = Adam([series.spectrum], lr=LEARNING_RATE)
    before = _answers(network, preprocess, series.pictures(), channels)
    target = _entering(network, channels[0].layer)
    for step in range(steps):
        pictures = _moved(series.pictures(), random)
        maps = outputs(network, preprocess.normalize(pictures), [target])[target]
        score = sum(maps[place, channel.number].mean() for place, channel in enumerate(channels))
        assert isinstance(score, Tensor)
        if not score.isfinite():
            raise NonFiniteError(f"{channels[0].layer}: the activation became {score.item()} at step {step + 1}.")
        optimizer.zero_grad()
        (-score).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress:
            progress(step + 1)
    pictures = series.pictures().detach()
    after = _answers(network, preprocess, pictures, channels)
    arrays = (255 * pictures).round().to(torch.uint8).movedim(1, 3).squeeze(3).cpu().numpy()
    return [
        Maximized(channel=str(channel), picture=array, before=low, after=high)
        for channel, array, low, high in zip(channels, arrays, before, after, strict=True)
    ]


class _Series:
    """Pictures (K, C, size, size) in [0, 1] as Fourier series of colors."""

    def __init__(self, count: int, colors: int, size: int, random: torch.Generator, device: torch.device) -> None:
        self.size = size
        start = NOISE * torch.randn(1, colors, size, size // 2 + 1, 2, generator=random)
        self.spectrum = start.repeat(count, 1, 1, 1, 1).to(device).requires_grad_()
        down, across = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
        frequencies = (down.square() + across.square()).sqrt().clamp_min(1 / size)
        self.weights = (1 / frequencies)[..., None].to(device)
        axes = torch.tensor(OHTA) if colors == 3 else torch.ones(1, 1)
        self.axes = axes.to(device)

    def pictures(self) -> Tensor:
        """As they are now."""
        terms = torch.view_as_complex((self.spectrum * self.weights).contiguous())
        series = torch.fft.irfft2(terms, s=(self.size, self.size), norm="ortho")
        colors = torch.einsum("nahw,ac->nchw", series, self.axes)
        contrast = colors.square().mean((1, 2, 3), keepdim=True).sqrt()
        return (colors * (CONTRAST / contrast).clamp_max(1)).sigmoid()


def _moved(pictures: Tensor, random: torch.Generator) -> Tensor:
    """All of a batch shifted, turned and zoomed alike; what comes in at the borders is mirrored."""
    across, down, turn, zoom = (2 * torch.rand(4, generator=random) - 1).tolist()
    angle, scale = radians(TURN * turn), 1 + ZOOM * zoom
    rows = [
        [scale * cos(angle), -scale * sin(angle), 2 * SHIFT * across],
        [scale * sin(angle), scale * cos(angle), 2 * SHIFT * down],
    ]
    move = torch.tensor(rows, device=pictures.device).expand(len(pictures), 2, 3)
    places = F.affine_grid(move, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, places, padding_mode="reflection", align_corners=False)


@torch.no_grad()
def _answers(network: VGG, preprocess: Preprocess, pictures: Tensor, channels: Sequence[Channel]) -> list[float]:
    """The mean activation of each picture's channel."""
    layer = channels[0].layer
    maps = outputs(network, preprocess.normalize(pictures), [layer])[layer]
    return [maps[place, channel.number].mean().item() for place, channel in enumerate(channels)]


def _entering(network: VGG, layer: str) -> str:
    """The layer before a ReLU; any other layer is itself."""
    names = layer_names(network)
    return names[names.index(layer) - 1] if layer.startswith("relu") else layer


def _shifted(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    return lambda steps: progress(done + steps, total)


def _check_size(network: VGG, layer: str, size: int) -> None:
    """Raises: ConfigError if the layer has no place on an image of `size` pixels, or the series no wave."""
    pools = sum(isinstance(module, nn.MaxPool2d) for module in split_at(network, layer)[0])
    least = max(2, 2**pools)
    if size < least:
        raise ConfigError(f"size is {size}; {layer} needs at least {least} pixels.")
