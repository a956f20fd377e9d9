"""The network that is tapped, from wherever its weights lie, and the small files beside it."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vggnet.accel.api import accelerate
from vggnet.devices import choose_device
from vggnet.errors import WeightsError, one_line
from vggnet.models.vgg import VGG, Architecture, empty
from vggnet.weights.checkpoint import default_preprocess, load, locate

FEATURES_FILE = "vgg16_features.safetensors"  # the convolutions of VGG-16 alone: conv1_1.weight, conv1_1.bias, ...
HEADS_FILE = "lpips_vgg_heads.safetensors"  # lin0 to lin4, beside it
DEFAULT = "vgg16:features"

Source = VGG | Path | str


def feature_network(source: Source) -> VGG:
    """A network whose features can be tapped, in eval mode and on the CPU; a VGG is taken as it is.

    source: a name of `vgg weights list`, a run folder, a `.safetensors` file of vggnet, or FEATURES_FILE or its folder.
    Raises: WeightsError if there is no such file or it is damaged.
    """
    if isinstance(source, VGG):
        return source
    bare = _bare_file(Path(source).expanduser())
    return load(source) if bare is None else _from_bare_file(bare)


def answering(source: Source, device: str | None = None) -> VGG:
    """The same where it is to answer: by default on a GPU if there is one, else on the fast convolutions of a CPU.

    A VGG is taken as it is, and stays where it is unless there is a `device`.
    Raises: ConfigError if there is no such device; WeightsError as `feature_network`.
    """
    if isinstance(source, VGG):
        return source if device is None else source.to(choose_device(device))
    place = choose_device(device)
    network = feature_network(source)
    return accelerate(network) if place.type == "cpu" else network.to(place)


def read_tensors(path: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Exactly these tensors, float32, of a safetensors file.  Raises: WeightsError with the first differences."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a sound safetensors file ({error}). Make it again.") from error
    wrong = [f"{name} is missing" for name in shapes if name not in found]
    wrong += [f"{name} does not belong" for name in found if name not in shapes]
    for name in shapes.keys() & found.keys():
        tensor = found[name]
        if tensor.shape != shapes[name]:
            wrong.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(shapes[name])}")
        elif not tensor.is_floating_point() or not tensor.isfinite().all():
            wrong.append(f"{name} is of type {tensor.dtype} or not finite, expected finite floats")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise WeightsError(f"{path}: not what was expected: {'; '.join(sorted(wrong)[:5])}{more}.")
    return {name: tensor.float() for name, tensor in found.items()}


def beside(source: Path | str, name: str) -> Path:
    """Where a file of this name would lie in the folder of the weights.  Raises: WeightsError if they are not there."""
    path = Path(source).expanduser()
    return (path if path.is_dir() else (_bare_file(path) or locate(source)).parent) / name


def installed_tensors(package: str, member: str) -> dict[str, Tensor] | None:
    """The tensors in a file of an installed package, which is not imported; None if it is not installed.

    Raises: WeightsError if the file is not what it should be.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / member
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, UnpicklingError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({one_line(error)}). Install {package} again.") from error


def _bare_file(path: Path) -> Path | None:
    file = path / FEATURES_FILE if path.is_dir() else path
    return file if file.name == FEATURES_FILE and file.is_file() else None


def _from_bare_file(path: Path) -> VGG:
    """VGG-16 without a head."""
    network = empty(Architecture(name="vgg16", head="gap", num_classes=1))
    network.preprocess = default_preprocess(network.architecture)
    network.head = nn.Sequential()
    shapes = {name: tensor.shape for name, tensor in network.features.state_dict().items()}
    network.features.load_state_dict(read_tensors(path, shapes), assign=True)
    return network.eval()
