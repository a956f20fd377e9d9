"""The paper's test protocols (section 3.2): at which scales and in which views a network sees each image.

A protocol is a list of passes over the data, one for each scale and kind of view. The prediction of a pass is the mean
of the softmax outputs over its views; that of the protocol, and of several networks, is the mean over all passes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.data.loading import EvalBatches, Skip, WholeImages, default_workers, of_one_size
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.metrics import check_finite_logits, mean_softmax
from vggnet.models.dense import dense_logits, sliding
from vggnet.models.vgg import VGG
from vggnet.weights.checkpoint import OpenModel, inference_mode

GRID = 5  # crops along each side (paper, section 3.2)

Name = Literal["single", "multiscale", "dense", "multicrop", "dense+multicrop"]
Kind = Literal["center", "six", "whole", "grid"]

KINDS: dict[Name, tuple[Kind, ...]] = {
    "single": ("center",),
    "multiscale": ("center",),
    "dense": ("whole",),
    "multicrop": ("grid",),
    "dense+multicrop": ("whole", "grid"),
}
VIEWS: dict[Kind, int] = {"center": 1, "six": 6, "whole": 1, "grid": GRID**2}
SCALE_STEP = 32  # pixels between the scales of a network trained at one (paper, section 4.2)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How each image is tested.

    name: "single", the center crop; "multiscale", the center crop at each of several scales; "dense", the whole image,
        the head on every window of its last feature map; "multicrop", a 5x5 grid of crops and their mirror images;
        "dense+multicrop", both, each counting half.
    scales: pixels, to which the shorter side of the image is resized; by default the network's own, for "multiscale"
        with 32 less and 32 more.
    flip: the mirror image of every view as well; "multicrop" has them always.
    six_views: `SixViews` of the center crop instead, which are for small images.
    Raises: ConfigError for an unknown name, a scale below 1, or options that exclude each other.
    """

    name: Name = "single"
    scales: tuple[int, ...] = ()
    flip: bool = False
    six_views: bool = False

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise ConfigError(f"unknown protocol {self.name!r}. The protocols are {', '.join(get_args(Name))}.")
        if self.name == "single" and len(self.scales) > 1:
            raise ConfigError(
                f"the protocol single takes one scale, but {len(self.scales)} were given; take multiscale for more."
            )
        if any(scale < 1 for scale in self.scales):
            raise ConfigError(f"scale {min(self.scales)} cannot work; it is a number of pixels, at least the crop.")
        if self.six_views and (self.name != "single" or self.flip):
            raise ConfigError(
                "six views are mirrored already, and are views of the center crop: leave out protocol and flip."
            )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of views, each of which is a pass at every scale."""
        return ("six",) if self.six_views else KINDS[self.name]

    @property
    def views(self) -> int:
        """Of each image."""
        return len(self.scales) * sum(VIEWS[kind] * (2 if self.mirrors(kind) else 1) for kind in self.kinds)

    @property
    def passes(self) -> int:
        """Over the data."""
        return len(self.scales) * len(self.kinds)

    def mirrors(self, kind: Kind) -> bool:
        """Whether the views of this kind are seen mirrored as well."""
        return kind == "grid" or (self.flip and kind != "six")

    def at(self, preprocess: Preprocess) -> "Protocol":
        """With the scales that it has for a network of this preprocessing, where none were given.

        Raises: ConfigError if one is smaller than the crop.
        """
        own = preprocess.resize
        around = (own - SCALE_STEP, own, own + SCALE_STEP) if self.name == "multiscale" else (own,)
        scales = self.scales or around
        if min(scales) < preprocess.crop:
            given = "" if self.scales else f" ({', '.join(map(str, scales))} are the default of {self.name})"
            raise ConfigError(
                f"scale {min(scales)} is smaller than the crop of {preprocess.crop} pixels that the network takes"
                f"{given}; give scales of {preprocess.crop} and more."
            )
        return replace(self, scales=scales)


def default_batch_size(preprocess: Preprocess) -> int:
    """500 small images or 32 photos."""
    return 500 if preprocess.is_small else 32


def predict_split(
    opened: OpenModel,
    source: Source,
    protocol: Protocol,
    *,
    batch_size: int,
    workers: int | None,
    progress: Callable[[int], None] = lambda images: None,
    skip: Skip | None = None,
) -> Tensor:
    """Logits (N, K) of all images of the source, on the CPU, by a protocol whose scales are known (`Protocol.at`).

    batch_size: crops at once; whole images have as many pixels at once, in tiles if need be.
    progress: called after each batch of a pass with its number of images.
    skip: called, in each pass, with each image that cannot be read, whose logits are NaN; without it such an image
        raises ImageError.
    Raises: DataError if no image can be read;
        ConfigError if the protocol is dense and the network no VGG; ImageError; NonFiniteError.
    """
    window = 0
    if "whole" in protocol.kinds:
        network, window = sliding(check_is_vgg(opened.network), opened.preprocess.crop)
        opened = replace(opened, network=network)
    passes = []
    with inference_mode(opened.network):
        for scale in protocol.scales:
            preprocess = replace(opened.preprocess, resize=scale)
            max_pixels = batch_size * preprocess.crop**2
            for kind in protocol.kinds:
                logits_of = _viewer(kind, opened, window, batch_size, max_pixels)
                mirrors = protocol.mirrors(kind)
                parts, missing = [], set[int]()
                noted = skip and partial(_note, skip, missing)
                for images in _images(kind, source, preprocess, batch_size, workers, max_pixels, noted):
                    parts.append(_mean_over_views(logits_of, images.to(opened.device, non_blocking=True), mirrors))
                    progress(len(images))
                if not parts:
                    raise DataError(f"{source.name}, split {source.split}: none of its images can be read.")
                passes.append(_at_places(torch.cat(parts), len(source), missing))
    return mean_softmax(passes)


def _note(skip: Skip, missing: set[int], index: int, error: ImageError) -> None:
    missing.add(index)
    skip(index, error)


def _at_places(logits: Tensor, images: int, missing: set[int]) -> Tensor:
    """(n, K) -> (N, K): NaN for those that are missing."""
    if not missing:
        return logits
    spread = logits.new_full((images, logits.shape[1]), torch.nan)
    spread[[index for index in range(images) if index not in missing]] = logits
    return spread


def check_is_vgg(network: torch.nn.Module) -> VGG:
    """The network.  Raises: ConfigError if it is no VGG."""
    if not isinstance(network, VGG):
        raise ConfigError(f"the protocol dense is for a VGG, not for a {type(network).__name__}; choose another.")
    return network


def _images(
    kind: Kind,
    source: Source,
    preprocess: Preprocess,
    batch_size: int,
    workers: int | None,
    max_pixels: int,
    skip: Skip | None,
) -> Iterator[Tensor]:
    """All images once, in order: uint8 (n, C, h, w), center crops or whole ones of one size that follow each other."""
    workers = default_workers(preprocess) if workers is None else workers
    if kind in ("center", "six"):
        return (batch.images for batch in EvalBatches(source, preprocess, batch_size, workers, skip=skip))
    return of_one_size(WholeImages(source, preprocess, workers, skip), max_pixels)


def _viewer(
    kind: Kind, opened: OpenModel, window: int, batch_size: int, max_pixels: int
) -> Callable[[Tensor], list[Tensor]]:
    """A function of uint8 images (N, C, H, W): the logits (N, K) of each view."""
    network, normalize, crop = opened.network, opened.preprocess.normalize, opened.preprocess.crop
    if kind == "whole":
        assert isinstance(network, VGG)
        dense = partial(dense_logits, network, normalize=normalize, window=window, max_pixels=max_pixels)
        return lambda images: [dense(images)]
    if kind == "grid":

        def grid(images: Tensor) -> list[Tensor]:
            parts = grid_crops(images, crop).flatten(0, 1).split(batch_size)  # type: ignore[no-untyped-call]
            logits = torch.cat([network(normalize(part)) for part in parts])
            return list(logits.view(GRID**2, len(images), -1))

        return grid
    shown = SixViews(network) if kind == "six" else network
    return lambda images: [shown(normalize(images))]


def _mean_over_views(logits_of: Callable[[Tensor], list[Tensor]], images: Tensor, mirrors: bool) -> Tensor:
    """uint8 (N, C, H, W) -> logits (N, K) on the CPU.  Raises: NonFiniteError."""
    logits = [view.cpu() for view in logits_of(images) + (logits_of(images.flip(3)) if mirrors else [])]
    for view in logits:
        check_finite_logits(view)
    return mean_softmax(logits)


class SixViews(nn.Module):
    """A network that answers by the mean of its logits over six views, as airbench does (arXiv:2404.00498, 3.4).

    The image counts twice as much as each of its two shifts by one pixel, up left and down right, which reflect at the
    border; each of the three is seen as it is and mirrored.
    Shapes: images (N, C, H, W), normalized -> logits (N, num_classes).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_classes = network.num_classes

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> mean logits (N, num_classes)."""
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        shifted = self._both(padded[:, :, :-2, :-2]) + self._both(padded[:, :, 2:, 2:])
        return self._both(images) / 4 + shifted / 8

    def _both(self, images: Tensor) -> Tensor:
        """The logits of the images and of their mirror images, added."""
        logits: Tensor = self.network(images) + self.network(images.flip(3))
        return logits


def grid_crops(images: Tensor, crop: int) -> Tensor:
    """The regular 5x5 grid of square crops: (N, C, H, W) -> (25, N, C, crop, crop), row by row.

    The outer ones touch the borders; the others lie evenly between, to the nearest pixel.
    """
    tops, lefts = (
        [round(i * (size - crop) / (GRID - 1)) for i in range(GRID)] for size in (images.shape[2], images.shape[3])
    )
    return torch.stack([images[:, :, top : top + crop, left : left + crop] for top in tops for left in lefts])
