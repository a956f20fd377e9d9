"""From a decoded image to the tensor that a network was trained on; saved inside every weights file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from vggnet.errors import ConfigError, ImageError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_GRAY_MEAN, IMAGENET_GRAY_STD = (0.449,), (0.226,)  # of RGB averaged
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR10_GRAY_MEAN, CIFAR10_GRAY_STD = (0.481,), (0.239,)

MAX_RESIZED = 89_478_485  # pixels; as many as a decoded file may have


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Shorter side to `resize` (bilinear, antialiased), center crop of `crop`, scale to [0, 1], normalize.

    `mean` and `std` are in units of [0, 1], one value a channel: three for RGB, one for gray. With `bgr` the network is
    given the channels in Caffe's order, blue first; mean, std and the pixels before normalizing stay in RGB.
    Raises: ConfigError if the sizes or statistics cannot work.
    """

    resize: int = 256  # pixels, shorter side
    crop: int = 224  # pixels, both sides
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    bgr: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise ConfigError(
                f"preprocessing: the crop is {self.crop} pixels and the shorter side {self.resize}; "
                "the crop must lie between 1 and the shorter side."
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std) <= 0:
            raise ConfigError(
                f"preprocessing: mean {self.mean} and std {self.std} must have one (gray) or three (RGB) values each, "
                "and every std must be positive."
            )
        if self.bgr and len(self.mean) != 3:
            raise ConfigError("preprocessing: only images of three channels can be given as BGR.")

    @property
    def mode(self) -> str:
        """Pillow's mode of the images: "RGB" or "L"."""
        return "RGB" if len(self.mean) == 3 else "L"

    def pixels(self, image: Image.Image) -> Tensor:
        """Resize and crop. PIL image -> uint8 (C, crop, crop).  Raises: ImageError as `whole`."""
        pixels: Tensor = tv.pil_to_tensor(tv.center_crop(self._resized(image), [self.crop]))
        return pixels

    def whole(self, image: Image.Image) -> Tensor:
        """Resize alone. PIL image -> uint8 (C, h, w), the smaller of h and w is `resize`.

        Raises: ImageError for an image that would have over MAX_RESIZED pixels when resized.
        """
        pixels: Tensor = tv.pil_to_tensor(self._resized(image))
        return pixels

    def _resized(self, image: Image.Image) -> Image.Image:
        if self.resize**2 * max(image.size) / min(image.size) > MAX_RESIZED:
            raise ImageError(
                f"an image of {image.width} x {image.height} pixels is too elongated to resize its shorter side to "
                f"{self.resize}: that makes over {MAX_RESIZED:,} pixels. Crop it first, or resize to less."
            )
        image = image if image.mode == self.mode else image.convert(self.mode)
        return tv.resize(image, [self.resize]) if min(image.size) != self.resize else image

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (..., C, H, W) in 0..255, or float in [0, 1] -> float32 with the training set's mean and deviation."""
        mean, std = _per_channel((self.mean, self.std), pixels)
        if pixels.dtype == torch.uint8:
            normal = pixels.float().div_(255).sub_(mean).div_(std)
        else:
            normal = (pixels - mean).div_(std)
        return normal.flip(-3) if self.bgr else normal

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image of any size -> float32 (C, crop, crop)."""
        return self.normalize(self.pixels(image))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `as_dict`."""
        return cls(
            resize=values["resize"],
            crop=values["crop"],
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            bgr=bool(values.get("bgr", False)),
        )


def _per_channel(values: tuple[tuple[float, ...], ...], images: Tensor) -> Tensor:
    """Values, a tuple for each channel of images (..., C, H, W), each as (C, 1, 1).

    Where the channels of a pixel lie side by side in memory, as (C, 1, W) in the same order: loops then run along whole
    rows, several times as fast as along C.
    """
    per_channel = torch.tensor(values, device=images.device)  # (values, C)
    if images.stride(-3) != 1:
        return per_channel[:, :, None, None]
    width = images.shape[-1]
    return per_channel.repeat(1, width).view(len(values), 1, width, -1).permute(0, 3, 1, 2)
