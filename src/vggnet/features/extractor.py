"""Outputs of a VGG's layers by the paper's names, computed no deeper than the deepest layer asked for."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar
from warnings import warn

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vggnet.data.images import Named, Pictures, named_pictures, read_pixels
from vggnet.data.preprocess import Preprocess
from vggnet.devices import usable_cores
from vggnet.errors import ConfigError, ImageError, InputError, check_at_least
from vggnet.models.table1 import TOTAL_STRIDE
from vggnet.models.vgg import VGG
from vggnet.progress import Progress, report_progress
from vggnet.weights.checkpoint import Checkpoint, open_model

DEFAULT_MODEL = "vgg16:features"  # the convolutions of VGG-16, trained on ImageNet
Pooling = Literal["mean", "max", "gem"]
OUTPUT_STRIDES = (8, 16, TOTAL_STRIDE)

P = ParamSpec("P")
R = TypeVar("R")


def accepts_weights(function: Callable[P, R]) -> Callable[P, R]:
    """Accept the keyword `weights`, which is the name of `model` in version 0.1, with a DeprecationWarning."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if "weights" in kwargs:
            warn("the argument weights is model now; the old name goes with version 0.3.", DeprecationWarning, 2)
            kwargs["model"] = kwargs.pop("weights")
        return function(*args, **kwargs)

    return wrapper


def model_first(*old: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accept the form of version 0.1, whose model is the keyword `model`, with a DeprecationWarning.

    Args:
        old: the parameters that were positional there, without the model.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                signature.bind(*args, **kwargs)
            except TypeError:
                given: dict[str, Any] = {"model": DEFAULT_MODEL, **dict(zip(old, args, strict=False)), **kwargs}
                try:
                    bound = signature.bind(**given)
                except TypeError:
                    pass  # the call fits neither form: let Python say so
                else:
                    warn(
                        "the model is the first argument now; the old form goes with version 0.3.",
                        DeprecationWarning,
                        2,
                    )
                    return function(*bound.args, **bound.kwargs)
            return function(*args, **kwargs)

        return wrapper

    return decorate


class FeatureExtractor(nn.Module):
    """Module that returns the outputs of chosen layers of a VGG: conv1_1, bn2_2, relu4_3, lrn1_1, pool5, fc6, relu7.

    It shares its weights with the network, so training one trains the other; the network itself is not changed. Layers
    deeper than the deepest one asked for are left out, so smaller images than the network needs are accepted. No layer
    works in place. `torch.export`, `torch.compile` and `torch.jit.script` work; `vggnet.accelerate` makes it fast on
    CPUs.

    Args:
        model: a VGG, or a run folder, a `.safetensors` file or a name of `vgg weights list`, which is loaded on the
            CPU.
        layers: one name or several.
        output_stride: 32, or 8 or 16 to sample the deep layers more densely: layers that would halve further keep their
            size, and the convolutions after them are dilated (Chen et al., arXiv:1606.00915, section 3.1). At the
            places that the plain network has, the values are the same if H and W are multiples of 32.

    Attributes:
        channels: the number of channels, or of units, of each layer, {layer: C}, the shallowest first.

    Raises:
        ConfigError: the network has no such layer or no weights, or the output stride is not supported.
        WeightsError: there is no such file, or it is damaged.

    Example:
        >>> extractor = FeatureExtractor("vgg8_bn-cifar10-fast", ["relu2_2", "pool4"])
        >>> maps = extractor(torch.zeros(2, 3, 32, 32))
        >>> {layer: tuple(values.shape) for layer, values in maps.items()}
        {'relu2_2': (2, 384, 16, 16), 'pool4': (2, 384, 2, 2)}
    """

    def __init__(
        self, model: VGG | Path | str, layers: Sequence[str] | str, *, output_stride: int = TOTAL_STRIDE
    ) -> None:
        super().__init__()
        network = model if isinstance(model, VGG) else Checkpoint.open(model).build()
        if output_stride not in OUTPUT_STRIDES:
            raise ConfigError(f"output_stride is {output_stride}; expected 8, 16 or 32 (nothing dilated).")
        if next(network.parameters()).is_meta:
            raise ConfigError("the model was built without weights (init=None); load some before features are taken.")
        wanted = _check_layers(network, [layers] if isinstance(layers, str) else layers)
        if output_stride != TOTAL_STRIDE and any(name in wanted for name in _units(network)):
            raise ConfigError(f"output_stride is {output_stride}, but fully connected layers need the map at 32.")
        self.name, self.in_channels = network.architecture.name, network.architecture.in_channels
        self.channels: dict[str, int] = {}
        self.least = 1  # pixels, of the shorter side
        self.stages = nn.ModuleDict()
        stage, channels = nn.Sequential(), self.in_channels
        layers_in_order = chain(_dense_layers(network.features, output_stride), _shared_layers(network.head))
        for name, layer in layers_in_order:
            stage.add_module(name, layer)
            channels = getattr(layer, "out_channels", getattr(layer, "out_features", channels))
            self.least *= 2 if isinstance(layer, nn.MaxPool2d) else 1
            if name in wanted:
                self.stages[name], self.channels[name] = stage, channels
                stage = nn.Sequential()
            if len(self.stages) == len(wanted):
                break
        self.deepest = list(self.channels)[-1]
        self.train(network.training)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the layers.

        Args:
            images: (N, in_channels, H, W), normalized by the network's own preprocessing.

        Returns:
            {layer: (N, C, h, w)}, the shallowest first; (N, C) for fully connected layers.

        Raises:
            InputError: the images are too small or have another number of channels.
        """
        self.check(images)
        maps: dict[str, Tensor] = {}
        for name, stage in self.stages.items():
            images = stage(images)
            maps[name] = images
        return maps

    def check(self, images: Tensor) -> None:
        """Raises: InputError, as `forward`."""
        _check_images(images, self.name, self.in_channels, self.deepest, self.least)


@torch.fx.wrap
def _check_images(images: Tensor, name: str, in_channels: int, deepest: str, least: int) -> None:
    """Raises: InputError. A traced extractor calls it as one operator."""
    if images.ndim != 4 or images.shape[1] != in_channels:
        raise InputError(
            f"the layers of {name} take images of shape (N, {in_channels}, H, W), but got "
            f"{list(images.shape)}. Convert the images; gray is RGB with the channel repeated."
        )
    if min(images.shape[2], images.shape[3]) < least:
        raise InputError(
            f"{deepest} needs images of at least {least}x{least} pixels, but got "
            f"{images.shape[2]}x{images.shape[3]}. Enlarge the images, or take a shallower layer."
        )


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
    model: VGG | Path | str,
    images: Pictures,
    layers: Sequence[str] | str,
    *,
    pooling: Pooling | None = None,
    output_stride: int = TOTAL_STRIDE,
    batch_size: int = 16,
    device: str | None = None,
    progress: Progress = False,
) -> dict[str, Tensor]:
    """Compute the outputs of layers for images, in eval mode and without gradients, and keep them in memory.

    `FeatureExtractor` gives gradients and is faster for many calls; `vggnet.features.store.extract_to_file` writes the
    features of a large folder to a file.

    Args:
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`.
        images: a float batch (N, in_channels, H, W) that is normalized already; or images that the model's own
            preprocessing prepares: files, folders, the bytes of files, open files, PIL images, uint8 arrays (H, W, 3)
            or uint8 tensors (3, H, W).
        layers: one name or several, such as "relu4_3".
        pooling: None keeps maps (C, h, w); "mean", "max" or "gem" (cubic root of the mean of cubes) leaves (C,).
        output_stride: see `FeatureExtractor`.
        batch_size: images at a time through the network.
        device: "cpu", "cuda", ...; by default a VGG stays where it is, and a file goes to the GPU if there is one.
        progress: False shows nothing, True a bar or lines on stderr; a callable gets (done, total) after each batch.

    Returns:
        {layer: (N, C, h, w)}, the shallowest first; (N, C) for fully connected layers and with `pooling`.

    Raises:
        ConfigError: a layer or an option is unknown or impossible.
        InputError: the images have a wrong shape, or there are none.
        ImageError: an image cannot be read.
        WeightsError: there is no such file, or the model has no preprocessing.

    Example:
        >>> from PIL import Image
        >>> maps = extract_features("vgg8_bn-cifar10-fast", Image.new("RGB", (40, 32)), "relu3_1")
        >>> maps["relu3_1"].shape
        torch.Size([1, 384, 8, 8])
    """
    opened = open_model(model, device=device)
    extractor = FeatureExtractor(opened.network, layers, output_stride=output_stride).eval()
    if isinstance(images, Tensor) and images.is_floating_point():
        check_at_least(1, batch_size=batch_size)
        with torch.no_grad():
            return _pooled_maps(extractor(images.to(opened.device)), checked_pooling(pooling))
    return features_of_pictures(
        extractor, images, opened.preprocess, opened.device, pooling=pooling, batch_size=batch_size, progress=progress
    )


@torch.no_grad()
def features_of_pictures(
    extractor: FeatureExtractor,
    images: Pictures,
    preprocess: Preprocess,
    device: torch.device,
    *,
    pooling: str | None = None,
    batch_size: int = 16,
    progress: Progress = False,
) -> dict[str, Tensor]:
    """As `extract_features`, of images that are not prepared yet, by an extractor in eval mode on the device."""
    check_at_least(1, batch_size=batch_size)
    pooling = checked_pooling(pooling)
    found: dict[str, list[Tensor]] = {name: [] for name in extractor.channels}
    pictures, done = list(named_pictures(images)), 0
    with report_progress(progress, "features") as report:
        for batch in read_batches(pictures, preprocess, batch_size):
            readable = [raised(pixels) for pixels in batch]
            for name, values in _pooled_maps(extractor(normalized(readable, preprocess, device)), pooling).items():
                found[name].append(values)
            done += len(batch)
            report(done, len(pictures))
    if not all(found.values()):
        raise InputError("no images were given.")
    return {name: torch.cat(values) for name, values in found.items()}


def _pooled_maps(maps: dict[str, Tensor], pooling: str | None) -> dict[str, Tensor]:
    return {name: pooled(values, pooling) if pooling else values for name, values in maps.items()}


def checked_pooling(pooling: str | None) -> str | None:
    """Raises: ConfigError for an unknown one."""
    if pooling is not None and pooling not in POOLINGS:
        raise ConfigError(f"unknown pooling {pooling!r}; expected one of {', '.join(POOLINGS)}.")
    return pooling


def read_batches(
    pictures: Sequence[Named], preprocess: Preprocess, batch_size: int
) -> Iterator[list[Tensor | ImageError]]:
    """The pixels of each image, uint8 (C, H, W), or the error if it cannot be read; decoded in threads."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(pictures), batch_size):
            yield list(pool.map(read_pixels, pictures[start : start + batch_size], repeat(preprocess)))


def raised(pixels: Tensor | ImageError) -> Tensor:
    """The pixels.  Raises: ImageError if there are none."""
    if isinstance(pixels, ImageError):
        raise pixels
    return pixels


def normalized(pixels: Sequence[Tensor], preprocess: Preprocess, device: torch.device) -> Tensor:
    """uint8 images (C, H, W) of one size -> a normalized batch (N, C, H, W) on the device."""
    return preprocess.normalize(torch.stack(list(pixels)).to(device))


def last_relu(network: VGG, block: int) -> str:
    """The deepest ReLU of a block: relu4_3 for the fourth of VGG-16, relu4_2 for that of VGG-11."""
    names = [name for name, _ in network.features.named_children() if name.startswith(f"relu{block}_")]
    return names[-1] if names else f"relu{block}_1"


def generalized_mean(maps: Tensor, power: float = 3) -> Tensor:
    """Root of the mean of powers: between mean (1) and maximum (infinity) (Radenovic et al., arXiv:1711.02512).

    Negative values count as 0. (N, C, h, w) -> (N, C).
    """
    return maps.clamp_min(0).pow(power).mean((2, 3)).pow(1 / power)


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {  # (N, C, h, w) -> (N, C)
    "mean": lambda maps: maps.mean((2, 3)),
    "max": lambda maps: maps.amax((2, 3)),
    "gem": generalized_mean,
}


def pooled(maps: Tensor, pooling: str) -> Tensor:
    """(N, C, h, w) -> (N, C); what has no places, (N, C), stays as it is."""
    return maps if maps.ndim == 2 else POOLINGS[pooling](maps)


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, D), each row divided by its length; a row of zeros stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    normal: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return normal


def _check_layers(network: VGG, layers: Iterable[str]) -> set[str]:
    names = [name for name, _ in network.features.named_children()] + _units(network)
    wanted = set(layers)
    unknown = sorted(map(str, wanted - set(names)))
    if unknown or not wanted:
        found = f"has no layer {', '.join(unknown)}" if unknown else "was asked for no layer"
        raise ConfigError(f"{network.architecture.name} {found}. Its layers are {', '.join(names)}.")
    return wanted


def _units(network: VGG) -> list[str]:
    """The fully connected layers that the head has, and their ReLUs, by the paper's names."""
    names = [name for name, _ in network.head.named_children()]
    return [name for name in names if name in ("fc6", "relu6", "fc7", "relu7", "fc8")]


def _shared_layers(layers: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in layers.named_children():
        yield name, copy.copy(layer)


def _dense_layers(layers: nn.Sequential, output_stride: int) -> Iterator[tuple[str, nn.Module]]:
    """Each layer as one that shares its weights, but may be in another mode; dilated where the stride is reached."""
    stride, rate = 1, 1
    for name, layer in layers.named_children():
        halves = isinstance(layer, nn.MaxPool2d) or (isinstance(layer, nn.Conv2d) and layer.stride != (1, 1))
        is_replaced = halves and stride == output_stride
        if isinstance(layer, nn.MaxPool2d) and is_replaced:
            yield name, DensePool(rate)
        elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and (rate > 1 or is_replaced):
            yield name, _dilated(layer, rate)
        else:
            stride *= 2 if halves else 1
            yield name, copy.copy(layer)
        rate *= 2 if is_replaced else 1


def _dilated(conv: nn.Conv2d, rate: int) -> nn.Conv2d:
    """The same weights, `rate` pixels apart."""
    dilated = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=rate, dilation=rate, device="meta")
    dilated.weight, dilated.bias = conv.weight, conv.bias
    return dilated
