"""Caffe's `.caffemodel`, Oxford's original release, read by protobuf.

Messages and field numbers: caffe.proto of BVLC Caffe, of which only what carries weights is declared here.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.errors import WeightsError, one_line, require
from vggnet.models.architecture import Architecture
from vggnet.models.table1 import COLUMN_OF_NAME, layers
from vggnet.models.vgg import empty
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.file_format import check_tensors

_DOUBLE, _FLOAT, _INT64, _INT32, _STRING, _MESSAGE = 1, 2, 3, 5, 9, 11  # FieldDescriptorProto.Type
# message -> its fields: name, number, type or message, whether there are several
_MESSAGES: dict[str, tuple[tuple[str, int, int | str, bool], ...]] = {
    "BlobShape": (("dim", 1, _INT64, True),),
    "BlobProto": (
        ("num", 1, _INT32, False), ("channels", 2, _INT32, False), ("height", 3, _INT32, False),
        ("width", 4, _INT32, False), ("data", 5, _FLOAT, True), ("shape", 7, "BlobShape", False),
        ("double_data", 8, _DOUBLE, True),
    ),
    "V1LayerParameter": (("name", 4, _STRING, False), ("blobs", 6, "BlobProto", True)),
    "LayerParameter": (("name", 1, _STRING, False), ("blobs", 7, "BlobProto", True)),
    "NetParameter": (("layers", 2, "V1LayerParameter", True), ("layer", 100, "LayerParameter", True)),
}  # fmt: skip


def read(path: Path, *, keep_bgr: bool = False, features_only: bool = False) -> Checkpoint:
    """Weights by Caffe's layer names, which are the paper's: conv1_1 to fc8, or without the fully connected layers.

    Preprocessing is Oxford's: BGR, 0..255 minus the mean pixel; keep_bgr: see `caffe_input`.
    `features_only` leaves the fully connected layers out.
    Raises: WeightsError if the file is damaged or of another network; MissingDependencyError without protobuf.
    """
    message = require("google.protobuf.message", "import")
    try:
        state = _state(_blobs(_network_class().FromString(path.read_bytes())))
    except (message.DecodeError, ValueError, OSError) as error:
        raise WeightsError(
            f"{path}: cannot be read as a caffemodel ({one_line(error)}). It may be truncated; fetch it again."
        ) from error
    if features_only:
        state = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    kernels = [state[name].shape[-1] for name in sorted(state) if re.fullmatch(r"features\..*\.weight", name)]
    first, last = state.get("features.conv1_1.weight"), state.get("head.fc8.weight")
    architecture = Architecture(
        name=network_of(path, kernels),
        head="paper" if any(name.startswith("head.") for name in state) else "none",
        num_classes=1000 if last is None else len(last),
        in_channels=3 if first is None else first.shape[1],
    )
    check_tensors(path, state, empty(architecture).state_dict())
    state["features.conv1_1.weight"], preprocess = caffe_input(state["features.conv1_1.weight"], keep_bgr)
    return Checkpoint(
        architecture=architecture, preprocess=preprocess, provenance={"library": "caffe"}, _read=lambda: state
    )


def network_of(path: Path, kernels: Sequence[int]) -> str:
    """The model name for the kernel sizes of all convolutions in order; there is no batch norm.

    Raises: WeightsError if no column of Table 1 has them.
    """
    for name, column in COLUMN_OF_NAME.items():
        if [layer.kernel for layer in layers(column) if layer.kind == "conv"] == list(kernels):
            return name
    raise WeightsError(
        f"{path}: no network of Table 1 has its {len(kernels)} convolutions (of sizes {', '.join(map(str, kernels))})."
    )


def caffe_input(conv1_1: Tensor, keep_bgr: bool) -> tuple[Tensor, Preprocess | None]:
    """The first kernel, (64, 3, 3, 3), of a network for BGR in 0..255 minus the mean pixel, and its preprocessing.

    With `keep_bgr` the kernel stays as it is. Otherwise order and scale are folded into it: for RGB images that are
    divided by ImageNet's deviation s it is W[:, ::-1] * 255 s, with the same outputs at every pixel. The mean stays in
    the preprocessing: the layer pads with zeros, which stand for the mean color, so that a bias could replace it only
    inside the image. A first layer of other than three channels is not changed, and has no preprocessing.
    """
    if conv1_1.ndim != 4 or conv1_1.shape[1] != 3:
        return conv1_1, None
    theirs, ours = Preprocess.caffe(), Preprocess.caffe(bgr=False)
    return (conv1_1, theirs) if keep_bgr else (theirs.convert_kernel(conv1_1, ours), ours)


def _state(blobs: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    state = {}
    for name, (weight, bias) in _pairs(blobs):
        if name.startswith("conv") and weight.ndim == 4:
            place = f"features.{name}"
        else:
            place = f"head.{name}"
            weight = weight.flatten(0, -2) if weight.shape[:2] == (1, 1) else weight.flatten(1)
        state[f"{place}.weight"], state[f"{place}.bias"] = weight, bias.flatten()
    return state


def _pairs(blobs: dict[str, list[Tensor]]) -> Iterator[tuple[str, list[Tensor]]]:
    if not blobs:
        raise ValueError("no layer has weights")
    for name, found in blobs.items():
        if len(found) != 2 or found[0].ndim < 2:
            raise ValueError(f"layer {name} does not have weights and a bias")
        yield name, found


def _blobs(network: Any) -> dict[str, list[Tensor]]:
    """The tensors of each layer that has some."""
    return {
        layer.name: [_tensor(blob) for blob in layer.blobs]
        for layer in (*network.layers, *network.layer)
        if layer.blobs
    }


def _tensor(blob: Any) -> Tensor:
    """float32 in the shape of a BlobProto; older files call its sizes num, channels, height, width."""
    values = np.array(blob.double_data if len(blob.double_data) else blob.data, dtype=np.float32)
    old_sizes = [getattr(blob, size) if blob.HasField(size) else 1 for size in ("num", "channels", "height", "width")]
    sizes = list(blob.shape.dim) or old_sizes
    if math.prod(sizes) != len(values) or min(sizes) < 0:
        raise ValueError(f"weights of shape {tuple(sizes)} have {len(values)} numbers")
    return torch.from_numpy(values).reshape(sizes)


@cache
def _network_class() -> Any:
    """protobuf's class for NetParameter."""
    descriptors = require("google.protobuf.descriptor_pb2", "import")
    file = descriptors.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, is_repeated in fields:
            added = message.field.add(name=field, number=number, label=3 if is_repeated else 1)
            added.type = _MESSAGE if isinstance(kind, str) else kind
            if isinstance(kind, str):
                added.type_name = f".caffe.{kind}"
    pool = require("google.protobuf.descriptor_pool", "import").DescriptorPool()
    pool.Add(file)
    factory = require("google.protobuf.message_factory", "import")
    return factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))
