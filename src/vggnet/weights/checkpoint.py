"""Weights as data: safetensors files that carry architecture, class names and preprocessing."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vggnet.data.preprocess import (
    CIFAR10_GRAY_MEAN,
    CIFAR10_GRAY_STD,
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_GRAY_MEAN,
    IMAGENET_GRAY_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocess,
)
from vggnet.errors import ConfigError, VGGError, WeightsError
from vggnet.files import replacing
from vggnet.models.table1 import resolve
from vggnet.models.vgg import VGG, Architecture, empty
from vggnet.weights.adaptation import adapt
from vggnet.weights.named import find
from vggnet.weights.registry import KNOWN
from vggnet.weights.validation import check

FILE_NAME = "weights.safetensors"  # within a run folder
FORMAT = "vggnet 2"
OLD_FORMAT = "vggnet 1"  # without checksum
CHECKSUM = "crc32"  # of metadata and tensors, within the metadata

# (32-pixel images, input channels) -> mean and std
_STATISTICS: dict[tuple[bool, int], tuple[tuple[float, ...], tuple[float, ...]]] = {
    (True, 1): (CIFAR10_GRAY_MEAN, CIFAR10_GRAY_STD),
    (True, 3): (CIFAR10_MEAN, CIFAR10_STD),
    (False, 1): (IMAGENET_GRAY_MEAN, IMAGENET_GRAY_STD),
    (False, 3): (IMAGENET_MEAN, IMAGENET_STD),
}


def default_preprocess(architecture: Architecture) -> Preprocess | None:
    """CIFAR-10's 32 pixels for the heads of a 1x1 map, else ImageNet's 256 and 224; None for neither gray nor RGB."""
    small = architecture.head in ("cifar", "folded")
    statistics = _STATISTICS.get((small, architecture.in_channels))
    if statistics is None:
        return None
    resize, crop = (32, 32) if small else (256, 224)
    return Preprocess(resize=resize, crop=crop, mean=statistics[0], std=statistics[1])


def save(
    model: VGG,
    path: Path | str,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's weights with all that its users need to know.

    classes, preprocess: by default the model's own; preprocessing is else chosen by the head (`default_preprocess`).
    notes: more facts to keep (JSON values).
    Raises: ConfigError if the number of classes is not the model's, or it has no weights yet; StorageError if the disk
        refuses.
    """
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ConfigError("the model was built without weights (init=None); load some before it is saved.")
    classes = classes or model.classes
    if classes is not None and len(classes) != model.num_classes:
        raise ConfigError(f"{len(classes)} class names were given, but the model has {model.num_classes} outputs.")
    preprocess = preprocess or model.preprocess or default_preprocess(model.architecture)
    metadata = {
        "format": FORMAT,
        "architecture": json.dumps(model.architecture.as_dict()),
        "classes": json.dumps(classes),
        "preprocess": json.dumps(preprocess.as_dict() if preprocess else None),
        "notes": json.dumps(dict(notes or {})),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata[CHECKSUM] = _checksum(metadata, tensors)
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata)


def load(
    source: Path | str, *, num_classes: int | None = None, in_channels: int | None = None, width: float | None = None
) -> VGG:
    """The model of a run folder, a `.safetensors` file or a name of `vgg weights list`, ready to answer.

    It is in eval mode and has its `.classes` and `.preprocess`. The arguments change the network, as a start for
    fine-tuning, and keep of the weights what they can:
    num_classes: another number than the file's gives a new last layer (drawn from PyTorch's global generator) without
        class names; a network without a head gets the head "gap".
    in_channels: the first layer is summed over its channels for gray, else repeated and scaled (`to_channels`).
    width: the first channels of each layer are kept, as many as a network of this width has; it can only be smaller.

    Raises: WeightsError if there is no such file, or it is damaged, foreign, or does not fit its own description;
        ConfigError if an argument cannot work.
    """
    path = locate(source)
    architecture, classes, preprocess = describe(path)
    model = empty(architecture)
    tensors = _read(path)
    check(path, tensors, model.state_dict())
    metadata = _metadata(path)
    if metadata["format"] == FORMAT and metadata.get(CHECKSUM) != _checksum(metadata, tensors):
        raise WeightsError(f"{path}: damaged: its checksum is not that of what it holds. Fetch or train it again.")
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    model.classes, model.preprocess = classes, preprocess
    return adapt(model.eval(), num_classes=num_classes, in_channels=in_channels, width=width)


def describe(source: Path | str) -> tuple[Architecture, tuple[str, ...] | None, Preprocess | None]:
    """What the file of `load` says of itself: network, class names, preprocessing. No weight is read.

    Raises: WeightsError as `load`.
    """
    path = locate(source)
    metadata = _metadata(path)
    try:
        architecture = Architecture(**json.loads(metadata["architecture"]))
        classes, preprocess = json.loads(metadata["classes"]), json.loads(metadata["preprocess"])
        return (
            architecture,
            tuple(map(str, classes)) if classes else None,
            Preprocess.from_dict(preprocess) if preprocess else None,
        )
    except (KeyError, TypeError, ValueError, VGGError) as error:
        raise WeightsError(f"{path}: its description of the network cannot be read ({error}).") from error


def read_notes(source: Path | str) -> dict[str, Any]:
    """The notes that were saved with the weights.  Raises: WeightsError as `load`."""
    path = locate(source)
    try:
        return dict(json.loads(_metadata(path)["notes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its notes cannot be read ({error}).") from error


def locate(source: Path | str) -> Path:
    """A run folder, a file, or a name of `vgg weights list` -> the weights file.

    Raises: WeightsError if there is none.
    """
    shipped = find(source)
    if shipped is not None:
        return shipped
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise WeightsError(
                f"{path} is not a finished run folder: it has no {FILE_NAME}. Give a folder that `vgg train` made, "
                "or a .safetensors file."
            )
        return path / FILE_NAME
    if not path.is_file():
        known = KNOWN.get(str(source))
        if known is not None:
            raise WeightsError(
                f"{source}: these weights are not here yet. Fetch them ({known.megabytes:.0f} MB): "
                f"vgg weights fetch {source}"
            )
        hint = f" {_is_a_name(str(source))}" if not path.exists() else ""
        raise WeightsError(f"{path}: no such run folder or .safetensors file, and no name of `vgg weights list`.{hint}")
    return path


def _is_a_name(source: str) -> str:
    """What to say to somebody who gave a model's name."""
    try:
        name = resolve(source).name
    except ConfigError:
        return ""
    return f"It is a model's name, not that of weights: train one, or vggnet.build({name!r})."


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a sound safetensors file ({error}). It may be cut short; fetch or train it again."
        ) from error
    if metadata.get("format") not in (FORMAT, OLD_FORMAT):
        raise WeightsError(
            f'{path}: a safetensors file, but not one of vggnet\'s (its "format" is {metadata.get("format")!r}, '
            f"expected {FORMAT!r}). One of torchvision's or timm's is made ours by `vgg weights convert`."
        )
    return metadata


def _read(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of all that a file says and holds, in eight digits; safetensors itself notices no damaged number."""
    crc = 0
    for key in sorted(metadata.keys() - {CHECKSUM}):
        crc = zlib.crc32(f"{key}={metadata[key]}".encode(), crc)
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
