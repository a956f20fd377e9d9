"""VGG16 and VGG19 of Keras Applications, alone or inside a model with global average pooling and one dense layer; HED.

Read are `.h5` of Keras 2 and 3, and `.weights.h5` and `.keras` of Keras 3.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vggnet.errors import WeightsError, one_line, require
from vggnet.models.architecture import Architecture
from vggnet.models.table1 import POOLED_SIZE, layers, resolve
from vggnet.models.vgg import empty
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.file_format import check_tensors
from vggnet.weights.importers.caffe import caffe_input, network_of
from vggnet.weights.importers.foreign import check_features_apart, refuse_head
from vggnet.weights.importers.hed import is_hed, read_hed

MAX_BYTES = 4 << 30  # of the weights in a .keras file
FULLY_CONNECTED = ("head.fc6", "head.fc7", "head.fc8")


class _Layer(NamedTuple):
    """HDF5 data sets that are not read yet."""

    kernel: Any  # (h, w, in, out) of a convolution, (in, out) of a dense layer
    bias: Any  # (out,)


def read(path: Path, *, keep_bgr: bool = False, features_only: bool = False) -> Checkpoint:
    """A file of `model.save`, `model.save_weights` or of Keras Applications itself, whose layers are in order.

    Preprocessing is Keras Applications' (that of Caffe); keep_bgr: see `caffe_input`. `features_only` leaves any head
    out.
    Raises: WeightsError if the file is damaged or of another network; MissingDependencyError without h5py.
    """
    h5py = require("h5py", "import")
    try:
        with h5py.File(_weights_file(path), "r") as file:
            if is_hed(file):
                return read_hed(path, file, shape_of=_shape_of, values_of=_values_of, keep_bgr=keep_bgr)
            return _checkpoint(path, _layers(path, file, features_only), keep_bgr)
    except WeightsError:
        raise
    except Exception as error:  # whatever reading damaged HDF5 runs into
        raise WeightsError(
            f"{path}: cannot be read as HDF5 ({one_line(error)}). It may be truncated; fetch it again."
        ) from error


def _checkpoint(path: Path, found: Sequence[_Layer], keep_bgr: bool) -> Checkpoint:
    convs = [layer for layer in found if len(layer.kernel.shape) == 4]
    dense = [layer for layer in found if len(layer.kernel.shape) != 4]
    name = network_of(path, [layer.kernel.shape[0] for layer in convs])
    pooled = len(dense) == 1 and dense[0].kernel.shape[0] == convs[-1].kernel.shape[3]
    if dense and not pooled and len(dense) != len(FULLY_CONNECTED):
        raise refuse_head(path, {f"dense layer {i}": _shape_of(d.kernel) for i, d in enumerate(dense, start=1)})
    architecture = Architecture(
        name=name,
        head="gap" if pooled else "paper" if dense else "none",
        num_classes=dense[-1].kernel.shape[-1] if dense else 0,
        in_channels=convs[0].kernel.shape[2],
    )
    places = [f"features.conv{x.block}_{x.number}" for x in layers(resolve(name).column) if x.kind == "conv"]
    heads = ("head.fc",) if pooled else FULLY_CONNECTED
    named = dict(zip((*places, *heads), (*convs, *dense), strict=False))
    expected = empty(architecture).state_dict()
    shapes = _state(named, _shape_of)
    check_features_apart(
        path, shapes, expected, "the network that the file describes"
    )  # before reading: a small file may claim a large shape
    state = _state(named, _values_of)
    check_tensors(path, state, expected)
    state["features.conv1_1.weight"], preprocess = caffe_input(state["features.conv1_1.weight"], keep_bgr)
    return Checkpoint(
        architecture=architecture, preprocess=preprocess, provenance={"library": "keras"}, _read=lambda: state
    )


def _state(named: dict[str, _Layer], get: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    state = {}
    for place, layer in named.items():
        state[f"{place}.weight"] = _arranged(place, get(layer.kernel))
        state[f"{place}.bias"] = get(layer.bias)
    return state


def _arranged(place: str, kernel: Tensor) -> Tensor:
    """A kernel in our layout: outputs first. fc6 reads the flattened map with its channels last there, first here."""
    if kernel.ndim == 4:
        return kernel.permute(3, 2, 0, 1)
    weight = kernel.T
    if place == "head.fc6" and weight.shape[1] % POOLED_SIZE**2 == 0:
        return weight.reshape(len(weight), POOLED_SIZE, POOLED_SIZE, -1).permute(0, 3, 1, 2).flatten(1)
    return weight


def _shape_of(data: Any) -> Tensor:
    return torch.empty(data.shape, dtype=torch.float32 if data.dtype.kind == "f" else torch.int64, device="meta")


def _values_of(data: Any) -> Tensor:
    return torch.from_numpy(data[()].astype("float32"))


def _weights_file(path: Path) -> Any:
    """What h5py opens: the file, or the weights inside a .keras archive."""
    if path.suffix.lower() != ".keras":
        return path
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("model.weights.h5").file_size
        if size > MAX_BYTES:
            raise WeightsError(f"{path}: claims {size:,} bytes of weights; no VGG has so many.")
        return io.BytesIO(archive.read("model.weights.h5"))


def _layers(path: Path, file: Any, features_only: bool) -> list[_Layer]:
    """The layers that have weights, in the order of the network; of a network inside another one in its place."""
    if "layers" in file:
        found = dict(_nested(file, ""))
        named = list(found)
    else:
        root = file.get("model_weights", file)
        named = [_text(name) for name in root.attrs.get("layer_names", ())]
        groups = {name: _inside(root, name) for name in named}
        found = {
            name: [_inside(group, _text(weight)) for weight in group.attrs["weight_names"]]
            for name, group in groups.items()
        }
        named = [name for name in named if found[name]]
    found = {f"{name} {i}" if i else name: found[name][i : i + 2] for name in named for i in _starts(found[name])}
    if features_only:
        found = {name: data for name, data in found.items() if len(data[0].shape) == 4}
    named = list(found)
    if not named:
        raise WeightsError(f"{path}: holds no weights of Keras; expected those of VGG16 or VGG19.")
    odd = [name for name in named if [len(data.shape) for data in found[name]] not in ([4, 1], [2, 1])]
    if odd:
        raise WeightsError(
            f"{path}: {', '.join(odd[:8])}: expected a kernel and a bias each, as in VGG16 and VGG19 of Keras "
            "Applications. If these layers are a head, --features-only (features_only=True) takes the convolutions."
        )
    return [_Layer(*found[name]) for name in named]


def _nested(group: Any, prefix: str) -> Iterator[tuple[str, list[Any]]]:
    """Keras 3's layers with weights: the name of each, and its variables; of models inside the model as well."""
    for name in sorted(group["layers"], key=_rank):
        layer = _inside(group, f"layers/{name}")
        if "layers" in layer:
            yield from _nested(layer, f"{prefix}{name}/")
        elif "vars" in layer:
            variables = _inside(layer, "vars")
            data = [_inside(variables, key) for key in sorted(variables)]
            if data:
                yield f"{prefix}{name}", data


def _starts(data: Sequence[Any]) -> range:
    """Where the layers of a network that Keras 2 stored as one begin among its variables: two belong to each."""
    kinds = [len(one.shape) for one in data]
    return range(0, len(data), 2 if kinds[1::2] == [1] * (len(data) // 2) and kinds[0] > 1 else len(data))


def _rank(name: str) -> tuple[str, int]:
    """Keras 3 numbers the layers of a class: conv2d, conv2d_1, ..., conv2d_10; dense, ..."""
    kind, _, number = name.rpartition("_")
    return (kind, int(number)) if number.isdecimal() else (name, 0)


def _inside(group: Any, name: str) -> Any:
    """What lies at a path below the group, in this file itself: HDF5 can also point into others.

    Raises: ValueError if it is a link, or data that lie outside the file.
    """
    h5py = require("h5py", "import")
    for part in name.strip("/").split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is missing, or a link")
        group = group[part]
    if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual):
        raise ValueError(f"the data of {name} are outside the file")
    return group


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
