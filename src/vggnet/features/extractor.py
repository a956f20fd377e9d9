"""The outputs of a VGG's layers by the paper's names, computed no deeper than they lie."""

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggnet.data.images import Named, Picture, named_pictures, read_pixels
from vggnet.errors import ConfigError, ImageError, InputError, check_at_least
from vggnet.features.pretrained import Source, answering, feature_network
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.models.vgg import VGG
from vggnet.weights.prepared import preprocess_of

OUTPUT_STRIDES = (8, 16, TOTAL_STRIDE)


class FeatureExtractor(nn.Module):
    """The outputs of layers of a VGG by the paper's names: conv1_1, bn2_2, relu4_3, lrn1_1, pool5.

    Shapes: images (N, in_channels, H, W), normalized -> {layer: (N, C, h, w)}, the shallowest first. What lies deeper
    than the deepest layer is left out, so smaller images than the whole network needs are taken. No layer works in
    place. The weights are the network's own, so training one trains the other; the network itself stays as it is.
    output_stride: 8 or 16 samples the deep layers more densely: the pools that would halve further stay at full size,
        and the convolutions after them are dilated (Chen et al., arXiv:1606.00915, section 3.1). At the places that
        the plain network has, the values are the same, if H and W are multiples of 32.
    `channels`: {layer: C}.
    It goes through `torch.export`, `torch.compile` and `torch.jit.script`; `vggnet.accelerate` makes it fast on CPUs.
    Raises: ConfigError for a layer or an output stride that there is not; WeightsError as `vggnet.load`; when called,
        InputError if the images are too small or have another number of channels.
    """

    def __init__(self, network: Source, layers: Sequence[str] | str, *, output_stride: int = TOTAL_STRIDE) -> None:
        super().__init__()
        network = feature_network(network)
        if output_stride not in OUTPUT_STRIDES:
            raise ConfigError(f"output_stride is {output_stride}; it must be one of 8, 16 and 32 (nothing dilated).")
        if next(network.parameters()).is_meta:
            raise ConfigError("the model was built without weights (init=None); load some before it is tapped.")
        wanted = _check_layers(network, [layers] if isinstance(layers, str) else layers)
        self.name, self.in_channels = network.architecture.name, network.architecture.in_channels
        self.channels: dict[str, int] = {}
        self.least = 1  # pixels, of the shorter side
        self.stages = nn.ModuleDict()
        stage, channels = nn.Sequential(), self.in_channels
        for name, layer in _dense_layers(network.features, output_stride):
            stage.add_module(name, layer)
            channels = getattr(layer, "out_channels", channels)
            self.least *= 2 if isinstance(layer, nn.MaxPool2d) else 1
            if name in wanted:
                self.stages[name], self.channels[name] = stage, channels
                stage = nn.Sequential()
            if len(self.stages) == len(wanted):
                break
        self.deepest = list(self.channels)[-1]
        self.train(network.training)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, in_channels, H, W) -> {layer: (N, C, h, w)}."""
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise InputError(
                f"the layers of {self.name} take images of shape (N, {self.in_channels}, H, W), but got "
                f"{list(images.shape)}. Convert the images; gray is RGB with the channel repeated."
            )
        if min(images.shape[2], images.shape[3]) < self.least:
            raise InputError(
                f"{self.deepest} needs images of at least {self.least}x{self.least} pixels, but got "
                f"{images.shape[2]}x{images.shape[3]}. Enlarge the images, or take a shallower layer."
            )
        taps: dict[str, Tensor] = {}
        for name, stage in self.stages.items():
            images = stage(images)
            taps[name] = images
        return taps


class DensePool(nn.Module):
    """2x2 max pool that keeps the size: every `rate`-th output is what a pool of stride 2 gives."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        padded = F.pad(x, (0, self.rate, 0, self.rate), value=float("-inf"))
        return F.max_pool2d(padded, 2, stride=1, dilation=self.rate)


def extract_features(
    network: Source,
    images: Tensor | Sequence[Picture] | Picture,
    layers: Sequence[str] | str,
    *,
    output_stride: int = TOTAL_STRIDE,
    batch_size: int = 16,
    device: str | None = None,
) -> dict[str, Tensor]:
    """The outputs of `layers` for each image, {layer: (N, C, h, w)}, in eval mode and without gradients.

    network: a name of `vgg weights list`, a file, a run folder or a VGG; see FeatureExtractor, which is also the way
        to gradients and to many calls.
    images: what the network itself takes, (N, C, H, W) normalized; or files, folders, bytes, PIL images, which are
        prepared by the network's own preprocessing and worked through `batch_size` at a time.
    Raises: ConfigError, InputError, WeightsError as FeatureExtractor; ImageError for a picture that cannot be read;
        DataError for no pictures.
    """
    network = answering(network, device)
    extractor = FeatureExtractor(network, layers, output_stride=output_stride).eval()
    with torch.no_grad():
        if isinstance(images, Tensor):
            return extractor(images)  # type: ignore[no-any-return]
        found: dict[str, list[Tensor]] = {name: [] for name in extractor.channels}
        for batch in prepared(network, list(named_pictures(images)), batch_size):
            readable = [_raised(pixels) for pixels in batch]
            for name, values in extractor(on_device(network, readable)).items():
                found[name].append(values)
    if not all(found.values()):
        raise InputError("no pictures were given.")
    return {name: torch.cat(values) for name, values in found.items()}


def prepared(network: VGG, pictures: Sequence[Named], batch_size: int) -> Iterator[list[Tensor | ImageError]]:
    """The pixels of each picture, uint8 (C, H, W), or why there are none, in batches.

    Raises: ConfigError for a batch size below 1; WeightsError if the network does not say how images are prepared.
    """
    check_at_least(1, batch_size=batch_size)
    preprocess = preprocess_of(network)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(pictures), batch_size):
            yield list(pool.map(read_pixels, pictures[start : start + batch_size], repeat(preprocess)))


def on_device(network: VGG, pixels: Sequence[Tensor]) -> Tensor:
    """uint8 images (C, H, W) of one size -> a normalized batch where the network is."""
    batch = torch.stack(list(pixels)).to(next(network.parameters()).device)
    return preprocess_of(network).normalize(batch)


def last_relu(network: VGG, block: int) -> str:
    """The deepest ReLU of a block: relu4_3 for the fourth of VGG-16, relu4_2 for that of VGG-11."""
    names = [name for name, _ in network.features.named_children() if name.startswith(f"relu{block}_")]
    return names[-1] if names else f"relu{block}_1"


def _raised(pixels: Tensor | ImageError) -> Tensor:
    if isinstance(pixels, ImageError):
        raise pixels
    return pixels


def _check_layers(network: VGG, layers: Iterable[str]) -> set[str]:
    names = [name for name, _ in network.features.named_children()]
    wanted = set(layers)
    unknown = sorted(map(str, wanted - set(names)))
    if unknown or not wanted:
        found = f"has no layer {', '.join(unknown)}" if unknown else "was asked for no layer"
        raise ConfigError(f"{network.architecture.name} {found}. Its layers are {', '.join(names)}.")
    return wanted


def _dense_layers(layers: nn.Sequential, output_stride: int) -> Iterator[tuple[str, nn.Module]]:
    """Each layer as one that shares its weights, but may be in another mode; dilated where the stride is reached."""
    stride, rate = 1, 1
    for name, layer in layers.named_children():
        if isinstance(layer, nn.MaxPool2d) and stride == output_stride:
            yield name, DensePool(rate)
            rate *= 2
        elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and rate > 1:
            yield name, _dilated(layer, rate)
        else:
            stride *= 2 if isinstance(layer, nn.MaxPool2d) else 1
            yield name, copy.copy(layer)


def _dilated(conv: nn.Conv2d, rate: int) -> nn.Conv2d:
    """The same weights, `rate` pixels apart."""
    dilated = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=rate, dilation=rate, device="meta")
    dilated.weight, dilated.bias = conv.weight, conv.bias
    return dilated
