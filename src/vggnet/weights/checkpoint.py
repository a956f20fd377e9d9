"""The file format of trained networks, and the one way to open them.

A checkpoint is a safetensors file. Its metadata hold the architecture, the task, the class names, the preprocessing and
the provenance (what the weights were trained on or converted from), each as JSON, and a checksum of everything.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vggnet.accel import api as accel
from vggnet.data.preprocess import NO_PREPROCESS, Preprocess
from vggnet.devices import choose_device
from vggnet.errors import ConfigError, VGGError, WeightsError
from vggnet.files import replacing
from vggnet.models.architecture import Architecture
from vggnet.models.branches import BranchedVGG
from vggnet.models.vgg import VGG, empty
from vggnet.weights.adaptation import adapt
from vggnet.weights.file_format import CHECKSUM, FORMAT, check_format, check_tensors, checksum, open_file, read_tensors
from vggnet.weights.registry import FEATURES_FILE, is_timm_file, locate


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
            source: a run folder, a `.safetensors` file, or a name of `vgg weights list`; or a file of `vgg export`,
                whose weights can be read if it is a `.pt2` file or a folder for timm.

        Raises:
            WeightsError: there is no such file, or it is damaged, or not one of vggnet's.
        """
        path = locate(source)
        from vggnet.weights.exported_files import ExportedFile, is_exported  # which make checkpoints
        from vggnet.weights.timm_folder import read_folder

        if is_exported(path):
            return ExportedFile.open(path).checkpoint
        if is_timm_file(path):
            return read_folder(path)
        file, metadata = open_file(path)
        if "format" not in metadata and path.name == FEATURES_FILE:
            return _bare_features(path, file)
        check_format(path, metadata)
        try:
            architecture = Architecture(**json.loads(metadata["architecture"]))
            classes, preprocess = json.loads(metadata["classes"]), json.loads(metadata["preprocess"])
            return cls(
                architecture=architecture,
                task=metadata.get("task") or architecture.task,  # files of version 0.1 do not name it
                classes=tuple(map(str, classes)) if classes else None,
                preprocess=Preprocess.from_dict(preprocess) if preprocess else None,
                provenance=dict(json.loads(metadata.get("provenance") or metadata["notes"])),
                path=path,
                _read=lambda: read_tensors(path, file, metadata, empty(architecture).state_dict()),
            )
        except (KeyError, TypeError, ValueError, VGGError) as error:
            raise WeightsError(f"{path}: its description of the network cannot be read ({error}).") from error

    @classmethod
    def of(
        cls,
        model: VGG,
        *,
        classes: Sequence[str] | None = None,
        preprocess: Preprocess | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Checkpoint":
        """The checkpoint of a network in memory; both share the tensors.

        Args:
            model: a network with weights.
            classes: by default `model.classes`.
            preprocess: by default `model.preprocess`.
            provenance: see `Checkpoint`.

        Raises:
            ConfigError: the network has no weights, or it has branches, or the number of class names is not that of its
                classes.
        """
        if any(tensor.is_meta for tensor in model.state_dict().values()):
            raise ConfigError("the model was built without weights (init=None); load some before it is saved.")
        if isinstance(model, BranchedVGG):
            raise ConfigError("the model has branches, which are for training only; save model.folded().")
        classes = tuple(classes or model.classes or ()) or None
        if classes is not None and len(classes) != model.num_classes:
            raise ConfigError(f"{len(classes)} class names were given, but the model has {model.num_classes} classes.")
        return cls(
            architecture=model.architecture,
            task=model.task,
            classes=classes,
            preprocess=preprocess or model.preprocess,
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
        metadata[CHECKSUM] = checksum(metadata, tensors)
        with replacing(Path(path).expanduser()) as temporary:
            save_file(tensors, temporary, metadata)


def save(
    model: VGG,
    path: Path | str,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    provenance: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a network's weights with everything that its users need.

    Args:
        model: a network with weights.
        path: the `.safetensors` file to write; an older one is replaced only when the new one is whole.
        classes: the names of the classes in the order of the outputs; by default `model.classes`.
        preprocess: how images become inputs; by default `model.preprocess`. It is never guessed.
        provenance: JSON values to keep: what the weights were trained on or made from.
        notes: the name of `provenance` in version 0.1.

    Raises:
        ConfigError: there is no preprocessing, the number of class names is not that of the outputs, or the network
            has no weights, or has branches.
        StorageError: the disk refuses.

    Example:
        >>> import tempfile, vggnet
        >>> model = vggnet.create_model("vgg11", num_classes=2, head="gap", width=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(model, f"{folder}/mine.safetensors", classes=("cat", "dog"), preprocess=Preprocess.imagenet())
        ...     load(f"{folder}/mine.safetensors").classes
        ('cat', 'dog')
    """
    provenance = rename_notes(notes, provenance)
    checkpoint = Checkpoint.of(model, classes=classes, preprocess=preprocess, provenance=provenance)
    if checkpoint.preprocess is None:
        raise ConfigError(NO_PREPROCESS)
    checkpoint.save(path)


def rename_notes(notes: Mapping[str, Any] | None, provenance: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The provenance, which version 0.1 called notes."""
    if notes is None:
        return provenance
    warn("the argument notes is provenance now; the old name goes with version 0.3.", DeprecationWarning, stacklevel=3)
    return notes


def load(
    source: Path | str, *, num_classes: int | None = None, in_channels: int | None = None, width: float | None = None
) -> VGG:
    """Load a trained network, in eval mode and on the CPU, with its `classes` and `preprocess`.

    Args:
        source: a run folder, a `.safetensors` file, or a name of `vgg weights list`.
        num_classes: another number than the file's gives a new last layer, drawn from PyTorch's global generator, and
            no class names; a network without a head gets the head "gap". By default the file's.
        in_channels: for another number than the file's the first layer is summed over its channels (1, gray), or else
            its channels are repeated and scaled, see `vggnet.weights.adaptation.to_channels`. By default the file's.
        width: keep the first channels of each layer, as many as a network of this width has; at most the file's.

    Raises:
        WeightsError: there is no such file, or it is damaged, not one of vggnet's, or does not fit its description.
        ConfigError: an argument is out of range.

    Example:
        >>> model = load("vgg8_bn-cifar10-fast")
        >>> model(torch.zeros(1, 3, 32, 32)).shape, model.classes[0], model.preprocess.crop
        (torch.Size([1, 10]), 'airplane', 32)
        >>> load("vgg8_bn-cifar10-fast", num_classes=3, in_channels=1)(torch.zeros(1, 1, 32, 32)).shape
        torch.Size([1, 3])
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
        return Preprocess.of(self.network)

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
        source: a network, which is not changed, even for a moment: one that is in training mode or on another device
            gives a `frozen` copy; or a run folder, a `.safetensors` file, or a name of `vgg weights list`, which is
            loaded.
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
        unchanged = place == parameter.device and not any(module.training for module in source.modules())
        return OpenModel(source if unchanged else frozen(source).to(place), place)
    place = choose_device(device)
    network = Checkpoint.open(source).build().to(place)
    return OpenModel(accel.accelerate(network) if accelerate and place.type == "cpu" else network, place)


@contextmanager
def inference_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; afterwards every layer is in the mode it was found in."""
    with _eval_mode(network), torch.inference_mode():
        yield


def frozen(network: nn.Module) -> Any:
    """A copy in eval mode whose weights take no gradients.

    It shares the values of the network, and has its hooks. The network is not changed: several threads may each make a
    copy. A compiled network gives a copy of what was compiled.
    """
    return _frozen_copy(network, {}).train(False)


def _frozen_copy(module: Any, copies: dict[nn.Module | Tensor, Any]) -> nn.Module:
    """The copy of a module; `copies` keeps what is used twice the same object."""
    module = getattr(module, "_orig_mod", module)
    if module not in copies:
        copied = copies[module] = object.__new__(type(module))
        copied.__dict__.update(module.__dict__)
        for parameter in module._parameters.values():
            if parameter is not None and parameter not in copies:
                copies[parameter] = nn.Parameter(parameter.detach(), requires_grad=False)
        parameters = {name: p if p is None else copies[p] for name, p in module._parameters.items()}
        children = {name: m if m is None else _frozen_copy(m, copies) for name, m in module._modules.items()}
        hooks = {name: value.copy() for name, value in module.__dict__.items() if name.endswith("_hooks") and value}
        copied.__dict__.update(hooks)
        copied.__dict__.update(_parameters=parameters, _modules=children, _buffers=dict(module._buffers))
    found: nn.Module = copies[module]
    return found


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    if not any(training for _, training in modes):  # nothing is written then: others may be using the network
        yield
        return
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _bare_features(path: Path, file: Any) -> Checkpoint:
    """The checkpoint of a file of bare convolutions of VGG-16."""
    architecture = Architecture(name="vgg16", head="none")

    def read() -> dict[str, Tensor]:
        tensors = {f"features.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        check_tensors(path, tensors, empty(architecture).state_dict(), network="the convolutions of VGG-16")
        return tensors

    return Checkpoint(architecture=architecture, preprocess=Preprocess(), path=path, _read=read)
