"""Exported programs of PyTorch (.pt2), read as data: their description and their weights.

`torch.export.load` is for files that one trusts: it unpickles what the archive marks so, evaluates expressions in the
graph, and loads compiled libraries. So the graph is not read at all. The weights are raw numbers in the archive; the
description says which network of vggnet they belong to.
"""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggnet.errors import WeightsError, one_line
from vggnet.models.architecture import Architecture
from vggnet.models.vgg import empty
from vggnet.weights.file_format import check_tensors

SUFFIX = ".pt2"
MOST_BYTES = 2**20  # of one entry of the description
TYPES = {5: torch.int64, 7: torch.float32}  # of torch._export.serde.schema.ScalarType
NETWORK = "_model."  # before the names of the network, which lies within the exported module


def read_description(path: Path) -> dict[str, str]:
    """The extra files of the archive by name.  Raises: OSError, ValueError, zipfile.BadZipFile for a damaged one."""
    with zipfile.ZipFile(path) as archive:
        extra = {info.filename.partition("/extra/")[2]: info for info in archive.infolist()}
        small = {name: info for name, info in extra.items() if name and info.file_size <= MOST_BYTES}
        return {name: archive.read(info).decode() for name, info in small.items()}


def read_weights(path: Path, architecture: Architecture) -> dict[str, Tensor]:
    """The tensors by our names.  Raises: WeightsError if they are damaged, pickled, or not those of the network."""
    try:
        with zipfile.ZipFile(path) as archive:
            tensors = _tensors(archive)
    except WeightsError:
        raise
    except Exception as error:  # whatever reading a damaged archive runs into
        raise WeightsError(f"{path}: its weights cannot be read ({one_line(error)}). Export it again.") from error
    check_tensors(path, tensors, empty(architecture).state_dict())
    return tensors


def _tensors(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    folder = archive.namelist()[0].partition("/")[0] + "/data/weights/"
    entries: Mapping[str, Mapping[str, Any]] = json.loads(archive.read(f"{folder}model_weights_config.json"))["config"]
    return {name.partition(NETWORK)[2]: _tensor(archive, folder, entry) for name, entry in entries.items()}


def _tensor(archive: zipfile.ZipFile, folder: str, entry: Mapping[str, Any]) -> Tensor:
    if entry["use_pickle"]:
        raise ValueError("a weight is pickled, and nothing is unpickled here")
    meta = entry["tensor_meta"]
    sizes = [size["as_int"] for size in meta["sizes"]]
    strides = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
    if [stride["as_int"] for stride in meta["strides"]] != strides or meta["storage_offset"]["as_int"]:
        raise ValueError("a weight is not contiguous")
    kind, info = TYPES[meta["dtype"]], archive.getinfo(folder + entry["path_name"])
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != math.prod(sizes) * kind.itemsize:
        raise ValueError(f"{info.file_size:,} bytes for a weight of shape {tuple(sizes)}")
    return torch.frombuffer(bytearray(archive.read(info)), dtype=kind).reshape(sizes)
