"""What files of `vgg export` say of themselves: architecture, task, class names and preprocessing.

The descriptions are read without the libraries that run the files, and without their weights. They are checked as those
of a checkpoint.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from defusedxml import ElementTree
from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.errors import VGGError, WeightsError, one_line
from vggnet.files import check_readable
from vggnet.models.architecture import Architecture
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.importers import exported_program

KEYS = ("architecture", "task", "classes", "preprocess", "from_pixels", "precision")
METADATA = 14  # the field of ONNX's ModelProto; each entry has its key in field 1, its value in field 2
MOST_BYTES = 2**20  # of one entry of the metadata


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """An exported file, and what it says of itself.

    Args:
        checkpoint: the description; it has weights if the format is one that holds them by name.
        from_pixels: whether the file takes uint8 pixels (N, H, W, C) and normalizes them itself.
        precision: of its products, "float32" or "int8".
    """

    checkpoint: Checkpoint
    from_pixels: bool
    precision: str

    @classmethod
    def open(cls, path: Path) -> "ExportedFile":
        """Read and check the description.

        Raises:
            WeightsError: there is no such file, it is damaged, or it was not written by `vgg export`.
        """
        check_readable(path)
        suffix = path.suffix.lower()
        try:
            found = _READERS[suffix](path)
        except Exception as error:  # whatever reading a damaged file runs into
            raise WeightsError(
                f"{path}: not a sound {suffix} file ({one_line(error)}). It may be truncated; export it again."
            ) from error
        missing = [key for key in KEYS if key not in found]
        if missing:
            raise WeightsError(
                f"{path}: has no description by vggnet ({', '.join(missing)} missing); expected a file of this "
                "version's `vgg export`. Export the network again, or give its run folder."
            )
        try:
            return cls._checked(path, {key: json.loads(found[key]) for key in KEYS})
        except (KeyError, TypeError, ValueError, VGGError) as error:
            raise WeightsError(
                f"{path}: its description of the network cannot be used ({one_line(error)}). Export it again."
            ) from error

    @classmethod
    def _checked(cls, path: Path, found: Mapping[str, Any]) -> "ExportedFile":
        architecture, classes = Architecture(**found["architecture"]), found["classes"]
        if classes is not None and (not isinstance(classes, list) or len(classes) != architecture.num_classes):
            raise ValueError(f"classes do not name the {architecture.num_classes} outputs")
        if not isinstance(found["task"], str) or not isinstance(found["from_pixels"], bool):
            raise TypeError("task or from_pixels has another type")
        if found["precision"] not in ("float32", "int8"):
            raise ValueError(f"precision is {found['precision']!r}")
        preprocess = Preprocess.from_dict(found["preprocess"])
        if preprocess.in_channels != architecture.in_channels:
            raise ValueError(f"preprocessing for {preprocess.in_channels} channels, not {architecture.in_channels}")
        checkpoint = Checkpoint(
            architecture=architecture,
            task=found["task"],
            classes=tuple(map(str, classes)) if classes else None,
            preprocess=preprocess,
            path=path,
            _read=lambda: _read_weights(path, architecture),
        )
        return cls(checkpoint=checkpoint, from_pixels=found["from_pixels"], precision=found["precision"])


def is_exported(path: Path) -> bool:
    """Whether the name is one that `vgg export` gives to a file with a graph."""
    return path.suffix.lower() in _READERS


def _read_weights(path: Path, architecture: Architecture) -> Mapping[str, Tensor]:
    if path.suffix.lower() == exported_program.SUFFIX:
        return exported_program.read_weights(path, architecture)
    raise WeightsError(
        f"{path}: an exported file, which `vgg predict` and `vgg test` run as a whole; this needs the layers of a "
        "checkpoint. Give the run folder or the .safetensors file that it was exported from."
    )


def _read_onnx(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file, without its graph."""
    found = {}
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        for field, length in _fields(file, end):
            if field == METADATA:
                entry, limit = {}, file.tell() + length
                for part, size in _fields(file, limit):
                    if size > MOST_BYTES:
                        raise ValueError(f"metadata of {size:,} bytes")
                    entry[part] = file.read(size).decode()
                found[entry[1]] = entry[2]
            else:
                file.seek(length, os.SEEK_CUR)
    return found


def _fields(file: BinaryIO, end: int) -> Any:
    """The number and the length of each field of a protobuf message; the caller reads it or skips it."""
    while file.tell() < end:
        tag = _varint(file)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            _varint(file)
        elif wire_type == 2:
            length = _varint(file)
            if file.tell() + length > end:
                raise ValueError("a field is longer than the file")
            yield field, length
        else:
            raise ValueError(f"wire type {wire_type}")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        (byte,) = file.read(1)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise ValueError("a number of more than 64 bits")


def _read_openvino(path: Path) -> dict[str, str]:
    entries = ElementTree.parse(path).getroot().find("rt_info/vggnet")
    return {} if entries is None else {entry.tag: entry.attrib["value"] for entry in entries}


def _read_ncnn(path: Path) -> dict[str, str]:
    description = path.with_suffix(".json")
    if not path.is_file() or not description.is_file():
        return {}
    values = json.loads(description.read_text(encoding="utf-8"))
    return {key: json.dumps(value) for key, value in values.items()}


_READERS: dict[str, Callable[[Path], dict[str, str]]] = {
    ".onnx": _read_onnx,
    ".xml": _read_openvino,
    ".param": _read_ncnn,
    exported_program.SUFFIX: exported_program.read_description,
}
