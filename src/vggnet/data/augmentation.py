"""Augmentation of a whole batch of small images as one tensor, on the device where the batch lies.

Crop, flip and rotation only move pixels, so the three are composed into one map from each pixel of the result to a
pixel of the image, and one gather follows it. Colors change afterwards, in float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.counter_random import uniform
from vggnet.errors import ConfigError, InputError

Flip = Literal["none", "random", "alternating"]
Padding = Literal["zero", "reflect"]

LUMA = (0.2989, 0.587, 0.114)  # gray from R, G, B: ITU-R BT.601, with torchvision's digits

CACHED_PIXELS = 128 * 32 * 32  # worked on at a time on a CPU: as float numbers they stay in its second-level cache
CACHED_IMAGES = 4  # at least: photos leave it then, which costs less than many small steps

# One stream of random numbers for each quantity.
SHIFT_Y, SHIFT_X, FLIP, ANGLE, BRIGHTNESS, CONTRAST, SATURATION, CUTOUT_Y, CUTOUT_X = range(9)
COLOR = (9, 10, 11)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What happens to each of N images; every field has shape (N,), but `color`."""

    shift_y: Tensor  # int64, pixels: row y of the crop is row y + shift_y of the image
    shift_x: Tensor  # int64, pixels
    flipped: Tensor  # bool
    angle: Tensor  # float32, degrees, counter-clockwise
    brightness: Tensor  # float32, factor
    contrast: Tensor  # float32, factor
    saturation: Tensor  # float32, factor
    color: Tensor  # float32 (N, C), added to each pixel, in units of [0, 1]
    cutout_y: Tensor  # int64, first row of the square
    cutout_x: Tensor  # int64, first column of the square

    def __getitem__(self, images: slice) -> "Draws":
        """Those of some of the images."""
        return Draws(**{field.name: getattr(self, field.name)[images] for field in fields(self)})

    def to(self, device: torch.device) -> "Draws":
        """The same draws on another device."""
        return Draws(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class BatchAugment:
    """Random shift, flip, rotation, color jitter, color shift and cutout, in this order. The defaults change nothing.

    Shift and flip: crop at random after padding by `shift` pixels, mirror left to right with probability 1/2. An
    "alternating" flip mirrors a fixed random half of the images in even epochs and the other half in odd ones
    (Jordan, arXiv:2404.00498). Rotation: about the center, nearest neighbor. Jitter: brightness, contrast, saturation
    as torchvision defines them for float images, always in this order (its ColorJitter shuffles them).
    Color shift (Krizhevsky et al. 2012, section 4.1): P (a * lambda) is added to every pixel of an image, with P and
    lambda the eigenvectors and eigenvalues of the training pixels' covariance, a ~ N(0, sd `color_shift`) for each
    component; the result may leave [0, 1].
    Cutout (arXiv:1708.04552): a square that lies wholly inside the image.

    `padding` says what lies beyond the border. "zero": black, also in the corners that a rotation lays bare, as in
    torchvision's RandomCrop and RandomRotation. "reflect": the image goes on as its own mirror image in all
    directions, so that neither shift nor rotation shows an edge.
    Raises: ConfigError if a value cannot work.
    """

    shift: int = 0  # pixels, largest on each axis
    flip: Flip = "none"
    rotation: float = 0.0  # degrees, largest to either side
    jitter: float = 0.0  # each factor is uniform in [1 - jitter, 1 + jitter]
    color_shift: float = 0.0  # standard deviation of each component's factor
    color_axes: tuple[float, ...] = (0.0,)  # P diag(lambda), C x C, row by row
    cutout: int = 0  # pixels, side of the square
    fill: tuple[float, ...] = (0.0,)  # color of the square in [0, 1]: one value, or one for each channel
    padding: Padding = "reflect"

    def __post_init__(self) -> None:
        for name, choice, choices in (("flip", self.flip, Flip), ("padding", self.padding, Padding)):
            if choice not in get_args(choices):
                raise ConfigError(f"augmentation: {name} is {choice!r}; choose one of {', '.join(get_args(choices))}.")
        for name, pixels in (("shift", self.shift), ("cutout", self.cutout)):
            if pixels < 0:
                raise ConfigError(f"augmentation: {name} is {pixels} pixels; give 0 (off) or more.")
        ranges = (("rotation", self.rotation, 180), ("jitter", self.jitter, 1), ("color_shift", self.color_shift, 1))
        for name, value, largest in ranges:
            if not 0 <= value <= largest:
                raise ConfigError(f"augmentation: {name} is {value}; give a number from 0 (off) to {largest}.")
        if len(self.color_axes) not in (1, 9):
            raise ConfigError(
                f"augmentation: color_axes has {len(self.color_axes)} numbers; give 9 for RGB, or 1 for gray."
            )
        if len(self.fill) not in (1, 3) or not all(0 <= value <= 1 for value in self.fill):
            raise ConfigError(f"augmentation: fill is {self.fill}; give one or three values from 0 to 1.")

    def __call__(self, pixels: Tensor, indices: Tensor, *, seed: int, epoch: int) -> Tensor:
        """Augment a batch: uint8 (N, C, H, W), C 1 or 3 -> float32 (N, C, H, W) in [0, 1], on the same device.

        `indices` (N,) int64 are the places of the images in the data set. An image's result depends on its pixels and
        on (seed, epoch, its index) alone, not on the batch around it.
        Raises: InputError if the tensors' shapes or types are others, or shift, cutout or fill do not fit the images.
        """
        pieces = self.pieces(pixels, indices, seed=seed, epoch=epoch)
        return torch.cat([piece.float().div_(255) if piece.dtype == torch.uint8 else piece for piece in pieces])

    def pieces(self, pixels: Tensor, indices: Tensor, *, seed: int, epoch: int) -> Iterator[Tensor]:
        """The result of a call, a few images at a time that fit a CPU's cache; still uint8 if colors do not change.

        What is done next with each piece finds it there.
        """
        self._check(pixels, indices)
        height, width = pixels.shape[2:]
        draws = self.draw(indices, seed=seed, epoch=epoch, height=height, width=width).to(pixels.device)
        first = 0
        for images in _cached_pieces(pixels):
            yield self._augment(images, draws[first : first + len(images)])
            first += len(images)

    def move(self, pixels: Tensor, draws: Draws, *, beyond: int = 0) -> Tensor:
        """Shift, flip and rotate, which only move pixels: uint8 (N, C, H, W) -> the same.

        beyond: what lies beyond the border, unless padding reflects it.
        """
        if self.shift or self.rotation:
            return self._gathered(pixels, draws, beyond)
        if self.flip != "none":
            unchanged, pixels = pixels, pixels.clone()
            for image in draws.flipped.nonzero().flatten().tolist():  # ten times as fast as a mask, channels-last
                pixels[image] = unchanged[image].flip(2)
        return pixels

    def _augment(self, pixels: Tensor, draws: Draws) -> Tensor:
        pixels = self.move(pixels, draws)
        if not (self.jitter or self.color_shift or self.cutout):
            return pixels
        images = pixels.float().div_(255)
        if self.jitter:
            _jitter(images, draws)
        if self.color_shift:
            images.add_(draws.color[:, :, None, None])
        return self._cut(images, draws) if self.cutout else images

    def draw(self, indices: Tensor, *, seed: int, epoch: int, height: int, width: int) -> Draws:
        """What will happen to the images `indices` (N,) of height x width pixels; tensors on the CPU."""
        numbers = indices.cpu().numpy()

        def chances(stream: int) -> NDArray[np.float32]:
            return uniform(seed, epoch, numbers, stream)

        def between(low: float, high: float, stream: int) -> Tensor:
            if low == high:
                return torch.full(indices.shape, low, dtype=torch.float32)
            return torch.from_numpy(low + (high - low) * chances(stream))

        def integer(low: int, high: int, stream: int) -> Tensor:
            if low == high:
                return torch.full(indices.shape, low)
            steps = chances(stream).astype(np.float64) * (high - low + 1)
            return torch.from_numpy(low + steps.astype(np.int64))

        return Draws(
            shift_y=integer(-self.shift, self.shift, SHIFT_Y),
            shift_x=integer(-self.shift, self.shift, SHIFT_X),
            flipped=torch.from_numpy(self._flipped(numbers, seed, epoch)),
            angle=between(-self.rotation, self.rotation, ANGLE),
            brightness=between(1 - self.jitter, 1 + self.jitter, BRIGHTNESS),
            contrast=between(1 - self.jitter, 1 + self.jitter, CONTRAST),
            saturation=between(1 - self.jitter, 1 + self.jitter, SATURATION),
            color=self._color(numbers, seed, epoch),
            cutout_y=integer(0, height - self.cutout if self.cutout else 0, CUTOUT_Y),
            cutout_x=integer(0, width - self.cutout if self.cutout else 0, CUTOUT_X),
        )

    def _color(self, indices: NDArray[np.int64], seed: int, epoch: int) -> Tensor:
        axes = torch.tensor(self.color_axes, dtype=torch.float64).view(int(len(self.color_axes) ** 0.5), -1)
        if not self.color_shift:
            return torch.zeros(len(indices), len(axes))
        chances = np.stack([uniform(seed, epoch, indices, stream) for stream in COLOR[: len(axes)]], 1)
        normal = torch.special.ndtri(torch.from_numpy(chances).double() + 2**-25)  # never 0 or 1
        colors: Tensor = self.color_shift * normal @ axes.T
        return colors.float()

    def _flipped(self, indices: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.bool_]:
        if self.flip == "none":
            return np.zeros(indices.shape, dtype=np.bool_)
        if self.flip == "random":
            return uniform(seed, epoch, indices, FLIP) < 0.5
        first_half = uniform(seed, 0, indices, FLIP) < 0.5
        return first_half if epoch % 2 == 0 else ~first_half

    def _check(self, pixels: Tensor, indices: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
            raise InputError(
                f"augmentation: the batch is {pixels.dtype} {tuple(pixels.shape)}; give uint8 (N, C, H, W), C 1 or 3."
            )
        channels, height, width = pixels.shape[1:]
        if indices.dtype != torch.int64 or indices.shape != pixels.shape[:1]:
            raise InputError(
                f"augmentation: the indices are {indices.dtype} {tuple(indices.shape)}; give int64 ({len(pixels)},)."
            )
        if self.shift >= min(height, width) or self.cutout > min(height, width):
            raise InputError(
                f"augmentation: shift {self.shift} or cutout {self.cutout} is too large for images of {height}x{width} "
                f"pixels; a shift must be smaller than {min(height, width)}, a cutout at most as large."
            )
        if len(self.fill) not in (1, channels):
            raise InputError(f"augmentation: fill {self.fill} is for RGB, the images are gray; give one value.")
        if self.color_shift and len(self.color_axes) != channels**2:
            raise InputError(
                f"augmentation: color_axes has {len(self.color_axes)} numbers; images of {channels} channels need "
                f"{channels**2}."
            )

    def _gathered(self, pixels: Tensor, draws: Draws, beyond: int) -> Tensor:
        """Shift, flip and rotate in one gather. uint8 (N, C, H, W) -> the same."""
        height, width = pixels.shape[2:]
        rows, columns = self._sources(draws, height, width)
        if self.padding == "reflect":
            return _gather(pixels, _reflected(rows, height), _reflected(columns, width))
        seen_rows = _clamped(rows, draws.shift_y, height)
        seen_columns = _clamped(columns, draws.shift_x, width)
        seen = (rows == seen_rows) & (columns == seen_columns)  # (N, H, W); all else lies beyond
        moved = _gather(pixels, seen_rows, seen_columns) * seen.unsqueeze(1)
        return moved + beyond * ~seen.unsqueeze(1) if beyond else moved

    def _sources(self, draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Row and column of the image that each pixel of the result shows; they may lie outside of it.

        Whole numbers in float32. Shapes (N, H, W), or without rotation (N, H, 1) and (N, 1, W).
        """
        shift_y, shift_x = draws.shift_y.view(-1, 1, 1), draws.shift_x.view(-1, 1, 1)
        angle = torch.deg2rad(draws.angle).view(-1, 1, 1)
        mirror = 1 - 2 * draws.flipped.float().view(-1, 1, 1)  # -1 where flipped
        y = torch.arange(height, device=angle.device).view(1, -1, 1) - (height - 1) / 2  # from the center, downwards
        x = torch.arange(width, device=angle.device).view(1, 1, -1) - (width - 1) / 2
        rows = angle.cos() * y + (shift_y + (height - 1) / 2)
        columns = mirror * angle.cos() * x + (shift_x + (width - 1) / 2)
        if self.rotation:
            rows = rows + angle.sin() * x
            columns = columns - mirror * angle.sin() * y
        return rows.round_(), columns.round_()

    def _cut(self, images: Tensor, draws: Draws) -> Tensor:
        """Paint the squares. float32 (N, C, H, W) -> the same."""
        y = torch.arange(images.shape[2], device=images.device) - draws.cutout_y.view(-1, 1)
        x = torch.arange(images.shape[3], device=images.device) - draws.cutout_x.view(-1, 1)
        in_rows, in_columns = ((place >= 0) & (place < self.cutout) for place in (y, x))
        square = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # (N, 1, H, W)
        return torch.where(square, torch.tensor(self.fill, device=images.device).view(1, -1, 1, 1), images)


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """How a batch was augmented, for targets that follow its images.

    Args:
        augment: what was done.
        indices: int64 (N,), places of the images in the data set.
        seed: of the run.
        epoch: of the run.
        height: pixels of the images.
        width: pixels of the images.
    """

    augment: BatchAugment
    indices: Tensor
    seed: int
    epoch: int
    height: int
    width: int

    @cached_property
    def draws(self) -> Draws:
        """What happened to each image."""
        size = {"height": self.height, "width": self.width}
        return self.augment.draw(self.indices, seed=self.seed, epoch=self.epoch, **size)

    def move(self, masks: Tensor, *, beyond: int) -> Tensor:
        """Masks (N, H, W), uint8 on the CPU, moved as the images were; `beyond` as `BatchAugment.move`."""
        return self.augment.move(masks[:, None], self.draws, beyond=beyond)[:, 0]


def _cached_pieces(images: Tensor) -> tuple[Tensor, ...]:
    """Images (N, C, H, W) in pieces that fit a CPU's cache; all at once on other devices."""
    piece = CACHED_PIXELS // images.shape[2:].numel() if images.device.type == "cpu" else len(images)
    return torch.split(images, max(CACHED_IMAGES, piece))


def _reflected(places: Tensor, size: int) -> Tensor:
    """Fold whole numbers into 0 .. size - 1 as ... 2 1 0 1 2 ...: the border pixel is not repeated."""
    last = size - 1
    return ((places + last).remainder(max(2 * last, 1)) - last).abs()


def _clamped(places: Tensor, shift: Tensor, size: int) -> Tensor:
    """Limit to what lies in the image, 0 .. size - 1, and also in its crop, shift .. shift + size - 1."""
    first, last = shift.clamp(min=0), (shift + size - 1).clamp(max=size - 1)
    return places.clamp(first.to(places).view(-1, 1, 1), last.to(places).view(-1, 1, 1))


def _gather(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels at these rows and columns, the same places in every channel. uint8 (N, C, H, W) -> the same."""
    channels, height, width = pixels.shape[1:]
    source = torch.add(columns.long(), rows.long(), alpha=width)  # (N, H, W), place in the flat image
    source = source.view(-1, 1, height * width).expand(-1, channels, -1)
    return pixels.flatten(2).gather(2, source).view(pixels.shape)


def _jitter(images: Tensor, draws: Draws) -> None:
    """Brightness, contrast, saturation of float images in [0, 1], in place; each step ends by clamping to [0, 1]."""
    brightness, contrast, saturation = (
        factor.view(-1, 1, 1, 1) for factor in (draws.brightness, draws.contrast, draws.saturation)
    )
    images.mul_(brightness).clamp_(0, 1)
    mean_gray = _gray(images.mean(dim=(2, 3), keepdim=True))
    images.mul_(contrast).add_((1 - contrast) * mean_gray).clamp_(0, 1)
    if images.shape[1] == 3:
        gray = _gray(images)
        images.mul_(saturation).add_((1 - saturation) * gray).clamp_(0, 1)


def _gray(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    return LUMA[0] * images[:, 0:1] + LUMA[1] * images[:, 1:2] + LUMA[2] * images[:, 2:3]
