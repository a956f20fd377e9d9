"""The file format of trained networks, and the one way to open them.

A checkpoint is a safetensors file. Its metadata hold the architecture, the task, the class names, the preprocessing and
the provenance (what the weights were trained on or converted from), each as JSON, and a checksum of everything.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import time
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vggnet.accel import api as accel
from vggnet.data.preprocess import Preprocess
from vggnet.devices import choose_device
from vggnet.errors import ConfigError, VGGError, WeightsError
from vggnet.files import replacing
from vggnet.models.table1 import resolve
from vggnet.models.vgg import VGG, Architecture, empty
from vggnet.weights.adaptation import adapt
from vggnet.weights.named import find
from vggnet.weights.prepared import preprocess_of
from vggnet.weights.registry import KNOWN
from vggnet.weights.validation import check

FILE_NAME = "weights.safetensors"  # within a run folder
FORMAT = "vggnet 3"
# "vggnet 1" has no checksum; 1 and 2 have no task, and call the provenance notes
OLD_FORMATS = ("vggnet 1", "vggnet 2")
CHECKSUM = "crc32"  # of metadata and tensors, within the metadata
# The convolutions of VGG-16 alone, without metadata, as shared tools write them: conv1_1.weight, conv1_1.bias, ...
FEATURES_FILE = "vgg16_features.safetensors"

_SETTLED = 2.0  # seconds after which a change of a file is sure to have changed its time


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained network as data: everything needed to build it and to use it, and where it comes from.

    Args:
        architecture: what fixes the network's shape.
        task: what it was trained for, such as "classify".
        classes: the names of its classes, in the order of its outputs; None if they are not known.
        preprocess: how images become its inputs; None if it is not known.
        provenance: JSON values: the data and configuration of a training, or the file and library of a conversion.
        path: the file it was read from; None for one that was made in memory.

    Example:
        >>> checkpoint = Checkpoint.open("vgg8_bn-cifar10-fast")
        >>> checkpoint.architecture.name, checkpoint.task, checkpoint.classes[:2], checkpoint.preprocess.crop
        ('vgg8_bn', 'classify', ('airplane', 'automobile'), 32)
        >>> checkpoint.build()(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    architecture: Architecture
    task: str = "classify"
    classes: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    _read: Callable[[], Mapping[str, Tensor]] = field(repr=False, compare=False)

    @classmethod
    def open(cls, source: Path | str) -> "Checkpoint":
        """Read the description in a checkpoint, and no weight.

        Args:
            source: a run folder, a `.safetensors` file, or a name of `vgg weights list`.

        Raises:
            WeightsError: there is no such file, or it is damaged, or not one of vggnet's.
        """
        path = locate(source)
        file, metadata = _open(path)
        if "format" not in metadata and path.name == FEATURES_FILE:
            return _bare_features(path, file)
        _check_format(path, metadata)
        try:
            architecture = Architecture(**json.loads(metadata["architecture"]))
            classes, preprocess = json.loads(metadata["classes"]), json.loads(metadata["preprocess"])
            return cls(
                architecture=architecture,
                task=metadata.get("task") or task_of(architecture),
                classes=tuple(map(str, classes)) if classes else None,
                preprocess=Preprocess.from_dict(preprocess) if preprocess else None,
                provenance=dict(json.loads(metadata.get("provenance") or metadata["notes"])),
                path=path,
                _read=lambda: _sound_tensors(path, file, metadata, architecture),
            )
        except (KeyError, TypeError, ValueError, VGGError) as error:
            raise WeightsError(f"{path}: its description of the network cannot be read ({error}).") from error

    @classmethod
    def of(cls, model: VGG, *, provenance: Mapping[str, Any] | None = None) -> "Checkpoint":
        """The checkpoint of a network in memory, which it shares its tensors with.

        Args:
            model: with weights; its `classes`, `preprocess` and `task` are the checkpoint's.
            provenance: see `Checkpoint`.

        Raises:
            ConfigError: the network has no weights, or other than one class name for each class.
        """
        if any(tensor.is_meta for tensor in model.state_dict().values()):
            raise ConfigError("the model was built without weights (init=None); load some before it is saved.")
        classes = tuple(model.classes) if model.classes else None
        if classes is not None and len(classes) != model.num_classes:
            raise ConfigError(f"{len(classes)} class names were given, but the model has {model.num_classes} outputs.")
        return cls(
            architecture=model.architecture,
            task=model.task,
            classes=classes,
            preprocess=model.preprocess,
            provenance=dict(provenance or {}),
            _read=model.state_dict,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The parameters and buffers by name, on the CPU, in the types in which they are stored.

        Raises:
            WeightsError: the file is damaged, or they are not those of the architecture.
        """
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self._read().items()}

    def build(self) -> VGG:
        """The network in eval mode, in float32, with its `classes`, `preprocess` and `task`.

        Raises:
            WeightsError: as `tensors`.
        """
        model = empty(self.architecture)
        model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in self._read().items()})
        model.classes, model.preprocess, model.task = self.classes, self.preprocess, self.task
        return model.eval()

    def save(self, path: Path | str) -> None:
        """Write the file. It replaces an older one only when it is whole.

        Raises:
            StorageError: the disk refuses.
        """
        metadata = {
            "format": FORMAT,
            "architecture": json.dumps(self.architecture.as_dict()),
            "task": self.task,
            "classes": json.dumps(self.classes),
            "preprocess": json.dumps(self.preprocess.as_dict() if self.preprocess else None),
            "provenance": json.dumps(dict(self.provenance)),
        }
        tensors = self.tensors()
        metadata[CHECKSUM] = _checksum(metadata, tensors)
        with replacing(Path(path).expanduser()) as temporary:
            save_file(tensors, temporary, metadata)


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
    checkpoint = Checkpoint.of(model, provenance=notes)
    if classes is not None and len(classes) != model.num_classes:
        raise ConfigError(f"{len(classes)} class names were given, but the model has {model.num_classes} outputs.")
    replace(
        checkpoint,
        classes=tuple(classes) if classes else checkpoint.classes,
        preprocess=preprocess or checkpoint.preprocess or default_preprocess(model.architecture),
    ).save(path)


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
    model = Checkpoint.open(source).build()
    return adapt(model, num_classes=num_classes, in_channels=in_channels, width=width)


@dataclass(frozen=True)
class OpenModel:
    """A network that is ready for inference, and what its users need to know of it."""

    network: VGG
    device: torch.device

    @property
    def preprocess(self) -> Preprocess:
        """How images become inputs.  Raises: WeightsError if the network has none."""
        return preprocess_of(self.network)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The class names, None if they are not known."""
        return getattr(self.network, "classes", None)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without a head."""
        return self.network.num_classes

    @property
    def task(self) -> str:
        """What the network was trained for."""
        return getattr(self.network, "task", "classify")

    def class_name(self, index: int) -> str:
        """The name of a class, or "class 3" if there are no names."""
        return self.classes[index] if self.classes else f"class {index}"


def open_model(source: VGG | Path | str, *, device: str | None = None, accelerate: bool = True) -> OpenModel:
    """Open what a command or function was given as its model.

    Args:
        source: a network, which is taken as it is; or a run folder, a `.safetensors` file, or a name of `vgg weights
            list`, which is loaded.
        device: "cpu", "cuda", ...; by default a network stays where it is, and a file goes to the GPU if there is one.
        accelerate: on a CPU let a network that is loaded use the fast convolutions of `vggnet.accelerate`. Gradients
            are more reliable without: the last bit of an activation, which differs, can decide a ReLU or a pool.

    Raises:
        ConfigError: there is no such device, or the network has no weights.
        WeightsError: as `Checkpoint.open`.

    Example:
        >>> model = open_model("vgg8_bn-cifar10-fast", device="cpu")
        >>> model.class_name(3), model.num_classes, model.task, model.device
        ('cat', 10, 'classify', device(type='cpu'))
    """
    if isinstance(source, nn.Module):
        parameter = next(source.parameters(), torch.empty(0))
        if parameter.is_meta:
            raise ConfigError("the model was built without weights (init=None); load some before it is used.")
        place = choose_device(device or str(parameter.device))
        return OpenModel(source.to(place), place)
    place = choose_device(device)
    network = Checkpoint.open(source).build().to(place)
    return OpenModel(accel.accelerate(network) if accelerate and place.type == "cpu" else network, place)


@contextmanager
def inference_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; afterwards every layer is in the mode it was found in."""
    with _eval_mode(network), torch.inference_mode():
        yield


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Eval mode, gradients for inputs and none for weights; afterwards modes and `requires_grad` are as before."""
    required = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        network.requires_grad_(False)
        with _eval_mode(network), torch.enable_grad():
            yield
    finally:
        for parameter, value in required:
            parameter.requires_grad_(value)


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    if any(training for _, training in modes):
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def task_of(architecture: Architecture) -> str:
    """The task of a file that does not name it, as those of version 0.1."""
    return "classify" if architecture.boxes is None else "localize"


def default_preprocess(architecture: Architecture) -> Preprocess | None:
    """CIFAR-10's 32 pixels for the heads of a 1x1 map, else ImageNet's 256 and 224; None for neither gray nor RGB."""
    if architecture.in_channels not in (1, 3):
        return None
    known = Preprocess.cifar10 if architecture.head in ("cifar", "folded") else Preprocess.imagenet
    return known(architecture.in_channels)


def describe(source: Path | str) -> tuple[Architecture, tuple[str, ...] | None, Preprocess | None]:
    """Use `Checkpoint.open` instead."""
    checkpoint = Checkpoint.open(source)
    return checkpoint.architecture, checkpoint.classes, checkpoint.preprocess


def read_notes(source: Path | str) -> dict[str, Any]:
    """Use `Checkpoint.open(source).provenance` instead."""
    return dict(Checkpoint.open(source).provenance)


def locate(source: Path | str) -> Path:
    """A run folder, a file, or a name of `vgg weights list` -> the weights file.

    Raises: WeightsError if there is none.
    """
    shipped = find(source)
    if shipped is not None:
        return shipped
    path = Path(source).expanduser()
    if path.is_dir():
        for name in (FILE_NAME, FEATURES_FILE):
            if (path / name).is_file():
                return path / name
        raise WeightsError(
            f"{path} is not a finished run folder: it has no {FILE_NAME}. Give a folder that `vgg train` made, "
            "or a .safetensors file."
        )
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
    return f"It is a model's name, not that of weights: train one, or vggnet.create_model({name!r})."


def _open(path: Path) -> tuple[Any, dict[str, str]]:
    """The open file and its metadata."""
    try:
        file: Any = safe_open(path, framework="pt")
        return file, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a sound safetensors file ({error}). It may be cut short; fetch or train it again."
        ) from error


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") not in (FORMAT, *OLD_FORMATS):
        raise WeightsError(
            f'{path}: a safetensors file, but not one of vggnet\'s (its "format" is {metadata.get("format")!r}, '
            f"expected {FORMAT!r}). One of torchvision's or timm's is made ours by `vgg weights convert`."
        )


def _sound_tensors(path: Path, file: Any, metadata: Mapping[str, str], architecture: Architecture) -> dict[str, Tensor]:
    """The tensors in a file.  Raises: WeightsError if they are not the architecture's, or the checksum is wrong."""
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    check(path, tensors, empty(architecture).state_dict())
    if metadata["format"] != OLD_FORMATS[0]:
        found = _once(path, CHECKSUM, lambda: _checksum(metadata, tensors))
        if metadata.get(CHECKSUM) != found:
            raise WeightsError(f"{path}: damaged: its checksum is not that of what it holds. Fetch or train it again.")
    return tensors


def _bare_features(path: Path, file: Any) -> Checkpoint:
    """The checkpoint of a file of bare convolutions of VGG-16."""
    architecture = Architecture(name="vgg16", head="none")

    def read() -> dict[str, Tensor]:
        tensors = {f"features.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        check(path, tensors, empty(architecture).state_dict(), network="the convolutions of VGG-16")
        return tensors

    return Checkpoint(architecture=architecture, preprocess=Preprocess(), path=path, _read=read)


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of all that a file says and holds, in eight digits; safetensors itself notices no damaged number."""
    crc = 0
    for key in sorted(metadata.keys() - {CHECKSUM}):
        crc = zlib.crc32(f"{key}={metadata[key]}".encode(), crc)
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""

    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return _once(path, "sha256", compute)


_digests: dict[tuple[Path, str], tuple[int, int, str]] = {}  # file, kind -> size, time of change, digest


def _once(path: Path, kind: str, compute: Callable[[], str]) -> str:
    """`compute()`, or the digest that it gave before for a file with the same size and time of change."""
    status, key = path.stat(), (path.resolve(), kind)
    size, changed, digest = _digests.get(key, (-1, -1, ""))
    if (size, changed) == (status.st_size, status.st_mtime_ns):
        return digest
    digest = compute()
    if time() - status.st_mtime > _SETTLED:
        _digests[key] = (status.st_size, status.st_mtime_ns, digest)
    return digest
