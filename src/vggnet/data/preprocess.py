"""Preprocessing: from an image to the tensor that a network was trained on. Saved inside every weights file.

`Preprocess` is the only code that knows size, crop, interpolation, channel order, mean and standard deviation; the
other modules call its methods and do not read `mean`, `std` or `bgr`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vggnet.data.decoding import MAX_PIXELS, as_viewed
from vggnet.data.pixels import to_tensor
from vggnet.errors import ConfigError, ImageError, InputError, WeightsError

SMALL = 64  # pixels; images up to this size are small: kept decoded in memory, and loaded without worker processes
NO_PREPROCESS = (
    "the model has no preprocessing (model.preprocess is None), which is never guessed. Set model.preprocess, such as "
    "vggnet.Preprocess.imagenet(), or pass preprocess= to vggnet.save."
)
LEAST_STD = 1e-4  # of measured statistics: images of a single color must not divide by zero

Interpolation = Literal["bilinear", "bicubic"]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation, one value per channel

_IMAGENET: dict[int, Statistics] = {  # by number of channels; gray is RGB averaged
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    1: ((0.449,), (0.226,)),
}
_CIFAR10: dict[int, Statistics] = {
    3: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    1: ((0.481,), (0.239,)),
}
_CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # RGB; of Oxford's release and of Keras Applications


def is_small(pixels: int) -> bool:
    """Whether images with a side of `pixels` are small (at most `SMALL` pixels)."""
    return pixels <= SMALL


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize the shorter side, crop the center, scale to [0, 1], normalize. Also a transform for a `DataLoader`.

    Args:
        resize: length of the shorter side after resizing, in pixels. Resizing is antialiased.
        crop: side of the square that is cropped from the center, in pixels; at most `resize`.
        mean: mean of each channel in units of [0, 1]: three values (RGB) or one (gray).
        std: standard deviation of each channel in units of [0, 1]: as many values as `mean`.
        bgr: whether the network takes its channels in the order blue, green, red, as Caffe's networks do. `mean`,
            `std` and pixels that are not normalized yet are in the order red, green, blue in any case.
        interpolation: "bilinear" or "bicubic". Files of version 0.1 do not store it; it is then "bilinear".
        stretch: whether images are resized to squares of `crop` pixels instead, whatever their ratio of sides, and
            nothing is cropped; `resize` is then the same as `crop`.

    Raises:
        ConfigError: if the sizes or the statistics are impossible.

    Example:
        >>> preprocess = Preprocess.imagenet()
        >>> preprocess(Image.new("RGB", (500, 375))).shape
        torch.Size([3, 224, 224])
        >>> preprocess(np.zeros((32, 48, 3), np.uint8)).dtype
        torch.float32
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, ...] = _IMAGENET[3][0]
    std: tuple[float, ...] = _IMAGENET[3][1]
    bgr: bool = False
    interpolation: Interpolation = "bilinear"
    stretch: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise ConfigError(
                f"preprocessing: the crop is {self.crop} pixels and the shorter side {self.resize}; "
                "the crop must be between 1 and the shorter side."
            )
        if self.stretch and self.crop != self.resize:
            raise ConfigError(
                f"preprocessing: images are stretched to {self.crop} x {self.crop} pixels, so resize must be "
                f"{self.crop}, not {self.resize}."
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std) <= 0:
            raise ConfigError(
                f"preprocessing: mean {self.mean} and std {self.std} must have one (gray) or three (RGB) values each, "
                "and every std must be positive."
            )
        if self.bgr and len(self.mean) != 3:
            raise ConfigError("preprocessing: only images with three channels can have the channel order BGR.")
        if self.interpolation not in get_args(Interpolation):
            known = " or ".join(get_args(Interpolation))
            raise ConfigError(f"preprocessing: interpolation is {self.interpolation!r}; choose {known}.")

    @classmethod
    def imagenet(cls, in_channels: int = 3, *, resize: int = 256, crop: int = 224) -> "Preprocess":
        """Preprocessing with the statistics of ImageNet.

        Args:
            in_channels: 3 for RGB, 1 for gray.
            resize: shorter side in pixels.
            crop: side of the crop in pixels.

        Raises:
            ConfigError: for another number of channels, or sizes that are impossible.

        Example:
            >>> Preprocess.imagenet(1).mean
            (0.449,)
        """
        return cls(resize=resize, crop=crop, **_named_statistics(_IMAGENET, in_channels))

    @classmethod
    def cifar10(cls, in_channels: int = 3, *, resize: int = 32, crop: int = 32) -> "Preprocess":
        """Preprocessing with the statistics of CIFAR-10's training images; arguments as `imagenet`.

        Example:
            >>> Preprocess.cifar10().crop
            32
        """
        return cls(resize=resize, crop=crop, **_named_statistics(_CIFAR10, in_channels))

    @classmethod
    def caffe(cls, *, bgr: bool = True) -> "Preprocess":
        """Preprocessing of Oxford's release (Caffe) and of Keras Applications: only the mean pixel is subtracted.

        Args:
            bgr: True for their own input, BGR in 0..255. False for RGB divided by ImageNet's deviation, with the same
                mean pixel; `convert_kernel` adapts the first layer.

        Example:
            >>> Preprocess.caffe().bgr
            True
        """
        std = (1 / 255,) * 3 if bgr else _IMAGENET[3][1]
        return cls(mean=_CAFFE_MEAN, std=std, bgr=bgr)

    @classmethod
    def measured(cls, pixels: Tensor, *, resize: int, crop: int) -> "Preprocess":
        """Preprocessing with the mean and the standard deviation of all pixels, rounded to four digits.

        Args:
            pixels: uint8 (N, C, H, W), C 1 or 3.
            resize: shorter side in pixels.
            crop: side of the crop in pixels.

        Raises:
            ConfigError: for another number of channels, or sizes that are impossible.

        Example:
            >>> white = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
            >>> Preprocess.measured(white, resize=4, crop=4).mean
            (1.0,)
        """
        values = np.arange(256) / 255
        counts = [torch.bincount(pixels[:, c].flatten(), minlength=256).numpy() for c in range(pixels.shape[1])]
        means = [float(np.average(values, weights=count)) for count in counts]
        variances = [np.average((values - mean) ** 2, weights=count) for mean, count in zip(means, counts, strict=True)]
        mean = tuple(round(mean, 4) for mean in means)
        std = tuple(max(round(float(variance**0.5), 4), LEAST_STD) for variance in variances)
        return cls(resize=resize, crop=crop, mean=mean, std=std)

    @classmethod
    def of(cls, model: nn.Module) -> "Preprocess":
        """The preprocessing of a model, `model.preprocess`.

        Raises:
            WeightsError: if the model has none.

        Example:
            >>> import vggnet
            >>> Preprocess.of(vggnet.load("vgg8_bn-cifar10-fast")).crop
            32
        """
        preprocess = getattr(model, "preprocess", None)
        if preprocess is None:
            raise WeightsError(NO_PREPROCESS)
        return preprocess  # type: ignore[no-any-return]

    @property
    def in_channels(self) -> int:
        """Number of channels: 3 for RGB, 1 for gray."""
        return len(self.mean)

    @property
    def mode(self) -> str:
        """Pillow's mode of the images: "RGB" or "L"."""
        return "RGB" if self.in_channels == 3 else "L"

    @property
    def is_small(self) -> bool:
        """Whether its images are small: at most `SMALL` pixels wide."""
        return is_small(self.crop)

    @property
    def fill(self) -> tuple[float, ...]:
        """The mean color in [0, 1], RGB or gray: what to paint over parts of an image; 0 after normalizing."""
        return self.mean

    def __call__(self, image: Image.Image | NDArray[np.uint8] | Tensor) -> Tensor:
        """Preprocess one image, as a transform does.

        Args:
            image: PIL image of any mode (EXIF orientation is applied, transparency becomes white), uint8 array
                (H, W, 3) or (H, W), or uint8 tensor (3, H, W) or (1, H, W). Any size.

        Returns:
            float32 (C, crop, crop), normalized.

        Raises:
            InputError: for an array or a tensor of another shape or type.
            ImageError: for an image that is too elongated to resize.
        """
        return self.normalize(self.pixels(as_viewed(image)))

    def pixels(self, image: Image.Image, *, nearest: bool = False) -> Tensor:
        """Resize and crop. PIL image -> uint8 (C, crop, crop).  Raises: ImageError as `whole`; arguments: too."""
        resized = self._resized(image, nearest)
        left, top = (round((size - self.crop) / 2) for size in resized.size)
        return to_tensor(resized.crop((left, top, left + self.crop, top + self.crop)))

    def whole(self, image: Image.Image, *, nearest: bool = False) -> Tensor:
        """Resize without cropping. PIL image -> uint8 (C, h, w); the smaller of h and w is `resize`.

        nearest: for a mask, mode L, each pixel of which stays the index of a class; it has one channel.

        Raises:
            ImageError: for an image that would have more than `MAX_PIXELS` pixels after resizing.
        """
        return to_tensor(self._resized(image, nearest))

    def _resized(self, image: Image.Image, nearest: bool) -> Image.Image:
        if not self.stretch and self.resize**2 * max(image.size) / min(image.size) > MAX_PIXELS:
            raise ImageError(
                f"an image of {image.width} x {image.height} pixels is too elongated to resize its shorter side to "
                f"{self.resize}: that makes over {MAX_PIXELS:,} pixels. Crop it first, or resize to less."
            )
        image = image if nearest or image.mode == self.mode else image.convert(self.mode)
        width, height = image.size
        shorter = min(width, height)
        scaled = self.resize * width // shorter, self.resize * height // shorter
        size = (self.resize, self.resize) if self.stretch else scaled
        if image.size == size:
            return image
        return image.resize(size, Image.Resampling["NEAREST" if nearest else self.interpolation.upper()])

    def normalize(self, pixels: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation.

        Args:
            pixels: (..., C, H, W), uint8 in 0..255 or float in [0, 1], RGB or gray. It is not changed.

        Returns:
            float32 of the same shape, in the channel order that the network takes.

        Example:
            >>> gray = Preprocess(mean=(0.5,), std=(0.25,))
            >>> gray.normalize(torch.full((1, 1, 1), 255, dtype=torch.uint8)).item()
            2.0
        """
        if pixels.dtype != torch.uint8:
            return self.from_unit_range(pixels)
        mean, std = _per_channel((self.mean, self.std), pixels)
        return self._ordered(pixels.float().div_(255).sub_(mean).div_(std))

    def from_unit_range(self, images: Tensor) -> Tensor:
        """What the network takes, from images in [0, 1]. Differentiable.

        Args:
            images: float (..., C, H, W), RGB or gray.

        Raises:
            InputError: if the images are not of a float type.

        Example:
            >>> Preprocess(mean=(0.5,), std=(0.25,)).from_unit_range(torch.zeros(1, 1, 1)).item()
            -2.0
        """
        _check_float(images, "[0, 1]")
        mean, std = _per_channel((self.mean, self.std), images)
        return self._ordered((images - mean).div_(std))

    def from_minus_one_one(self, images: Tensor) -> Tensor:
        """What the network takes, from images in [-1, 1]. Differentiable.

        Args:
            images: float (..., C, H, W), RGB or gray.

        Raises:
            InputError: if the images are not of a float type.

        Example:
            >>> Preprocess(mean=(0.5,), std=(0.25,)).from_minus_one_one(torch.ones(1, 1, 1)).item()
            2.0
        """
        _check_float(images, "[-1, 1]")
        statistics = tuple(2 * mean - 1 for mean in self.mean), tuple(2 * std for std in self.std)
        mean, std = _per_channel(statistics, images)
        return self._ordered((images - mean) / std)

    def to_pixels(self, images: Tensor) -> Tensor:
        """The inverse of `normalize`.

        Args:
            images: float32 (..., C, H, W), normalized, in the channel order that the network takes.

        Returns:
            uint8 of the same shape, RGB or gray, rounded.

        Example:
            >>> gray = Preprocess(mean=(0.5,), std=(0.25,))
            >>> gray.to_pixels(torch.full((1, 1, 1), 2.0)).item()
            255
        """
        mean, std = _per_channel((self.mean, self.std), images)
        pixels: Tensor = ((self._ordered(images) * std + mean) * 255).round().clamp(0, 255)
        return pixels.to(torch.uint8)

    def in_rgb_order(self, tensor: Tensor, dim: int = 1) -> Tensor:
        """A tensor whose dimension `dim` has the network's input channels, such as the first kernel, in RGB order."""
        return tensor.flip(dim) if self.bgr else tensor

    def convert_kernel(self, kernel: Tensor, to: "Preprocess") -> Tensor:
        """The first kernel for another preprocessing with the same mean: each image gives the same output.

        Args:
            kernel: weights (K, C, h, w) for images that are prepared by this preprocessing.
            to: the other preprocessing.

        Raises:
            ConfigError: if the means differ. Where a layer pads with zeros, these stand for the mean color, so that no
                bias can replace a mean.

        Example:
            >>> kernel = torch.ones(1, 1, 1, 1)
            >>> Preprocess(mean=(0.5,), std=(0.1,)).convert_kernel(kernel, Preprocess(mean=(0.5,), std=(0.2,))).item()
            2.0
        """
        if self.mean != to.mean:
            raise ConfigError(f"the first layer cannot be converted from mean {self.mean} to {to.mean}.")
        scale = torch.tensor([new / old for new, old in zip(to.std, self.std, strict=True)], dtype=torch.float64)
        return to._ordered(self.in_rgb_order(kernel) * scale.view(-1, 1, 1)).to(kernel.dtype)

    def gray_kernel(self, kernel: Tensor, to: "Preprocess") -> tuple[Tensor, Tensor]:
        """The first kernel for gray images: each gives the output of its three copies as RGB.

        Where the layer pads, this holds if the means of all channels are equal: zeros stand for the mean color.

        Args:
            kernel: weights (K, 3, h, w) for RGB images that are prepared by this preprocessing.
            to: the preprocessing of the gray images.

        Returns:
            The weights (K, 1, h, w), and what to add to the bias (K,).

        Example:
            >>> rgb, gray = Preprocess(mean=(0.5,) * 3, std=(0.1, 0.2, 0.4)), Preprocess(mean=(0.5,), std=(0.2,))
            >>> kernel, bias = rgb.gray_kernel(torch.ones(1, 3, 1, 1), gray)
            >>> kernel.item(), bias.item()
            (3.5, 0.0)
        """
        mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (self.mean, self.std))
        scaled = self.in_rgb_order(kernel).cpu().double() / std
        bias = (scaled * (to.mean[0] - mean)).sum((1, 2, 3))
        return (scaled.sum(1, keepdim=True) * to.std[0]).to(kernel), bias.to(kernel)

    def adapted(self, in_channels: int) -> "Preprocess | None":
        """The same for images with another number of channels, None if that is neither 1 nor 3.

        Gray gets the averages of the mean and of the deviation of RGB; RGB gets those of gray three times.

        Example:
            >>> Preprocess.imagenet().adapted(1).mean
            (0.449,)
        """
        if in_channels == self.in_channels:
            return self
        if in_channels not in (1, 3):
            return None
        mean, std = ((round(sum(values) / len(values), 6),) * in_channels for values in (self.mean, self.std))
        return replace(self, mean=mean, std=std, bgr=False)

    def statistics(self) -> dict[str, Any]:
        """`mean` and `std` by these names, for the options of a training that continues from a network's weights."""
        return {"mean": self.mean, "std": self.std}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `stretch` only where it is so, as files of older versions have none."""
        return {name: value for name, value in asdict(self).items() if name != "stretch" or value}

    def as_timm(self) -> dict[str, Any]:
        """What timm's configuration calls it.

        Raises:
            ConfigError: the network takes BGR, which timm does not.

        Example:
            >>> Preprocess.imagenet().as_timm()["crop_pct"]
            0.875
        """
        if self.bgr:
            raise ConfigError("timm has no preprocessing to BGR; convert the weights without --keep-bgr first.")
        share = self.crop / self.resize  # timm resizes the shorter side to the whole part of crop / share
        return {
            "input_size": [self.in_channels, self.crop, self.crop],
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "crop_pct": share if int(self.crop / share) == self.resize else self.crop / (self.resize + 0.5),
            "crop_mode": "squash" if self.stretch else "center",
        }

    @classmethod
    def from_timm(cls, values: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `as_timm`.

        Raises:
            ConfigError: the images are not square, or are cropped elsewhere than in the center; or as the class.

        Example:
            >>> Preprocess.from_timm(Preprocess.imagenet().as_timm()) == Preprocess.imagenet()
            True
        """
        channels, height, width = values["input_size"]
        mode = values.get("crop_mode", "center")
        if height != width or mode not in ("center", "squash") or len(values["mean"]) != channels:
            raise ConfigError(f"preprocessing: input_size {values['input_size']}, mean {values['mean']}, crop {mode}.")
        return cls(
            resize=int(width / values["crop_pct"]),
            crop=width,
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            interpolation=values["interpolation"],
            stretch=mode == "squash",
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `as_dict`; also reads the values that version 0.1 stored."""
        return cls(
            resize=values["resize"],
            crop=values["crop"],
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            bgr=bool(values.get("bgr", False)),
            interpolation=values.get("interpolation", "bilinear"),
            stretch=bool(values.get("stretch", False)),
        )

    def _ordered(self, images: Tensor) -> Tensor:
        """RGB (..., 3, H, W) in the order that the network takes."""
        return images.flip(-3) if self.bgr else images


def _named_statistics(of: Mapping[int, Statistics], in_channels: int) -> dict[str, Any]:
    if in_channels not in of:
        raise ConfigError(
            f"preprocessing: {in_channels} channels have no standard statistics; give 3 (RGB) or 1 (gray)."
        )
    mean, std = of[in_channels]
    return {"mean": mean, "std": std}


def _check_float(images: Tensor, expected: str) -> None:
    if not images.is_floating_point():
        raise InputError(f"expected floats in {expected}, but got {images.dtype}.")


def _per_channel(values: tuple[tuple[float, ...], ...], images: Tensor) -> Tensor:
    """Values, a tuple for each channel of images (..., C, H, W), each as (C, 1, 1).

    Where the channels of a pixel lie side by side in memory, as (C, 1, W) in the same order: loops then run along whole
    rows, several times as fast as along C.
    """
    per_channel = torch.tensor(values, dtype=torch.float32, device=images.device)  # (values, C)
    if images.stride(-3) != 1:
        return per_channel[:, :, None, None]
    width = images.shape[-1]
    return per_channel.repeat(1, width).view(len(values), 1, width, -1).permute(0, 3, 1, 2)
