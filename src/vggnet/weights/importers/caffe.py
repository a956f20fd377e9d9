"""Caffe's `.caffemodel`, Oxford's original release: the few protobuf messages of it that carry weights.

Message and field numbers: caffe.proto of BVLC Caffe. Wire format: https://protobuf.dev/programming-guides/encoding
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vggnet.errors import WeightsError, one_line
from vggnet.models.vgg import Architecture, empty
from vggnet.weights.foreign import Foreign, caffe_input, network_of
from vggnet.weights.validation import check

Value = int | memoryview  # a number, or the bytes of a string, of packed numbers or of a message

_VARINT, _EIGHT_BYTES, _LENGTH_DELIMITED, _FOUR_BYTES = 0, 1, 2, 5
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


class _Kind(NamedTuple):
    """One of the two messages that describe a layer, by field numbers: in the network, of its name, of its weights."""

    layers: int
    name: int
    blobs: int


_KINDS = (_Kind(layers=2, name=4, blobs=6), _Kind(layers=100, name=1, blobs=7))  # V1LayerParameter, LayerParameter
_FLOATS, _DOUBLES, _SHAPE, _OLD_SHAPE = 5, 8, 7, (1, 2, 3, 4)  # of BlobProto; the old shape is num, channels, h, w
_DIMENSIONS = 1  # of BlobShape


def read(path: Path, *, keep_bgr: bool = False) -> Foreign:
    """Weights by Caffe's layer names, which are the paper's: conv1_1 to fc8, or without the fully connected layers.

    Preprocessing is Oxford's: BGR, 0..255 less the mean pixel; keep_bgr: see `caffe_input`.
    Raises: WeightsError if the file is damaged or of another network.
    """
    try:
        state = _state(_layers(memoryview(path.read_bytes())))
    except (ValueError, IndexError, OSError) as error:
        raise WeightsError(
            f"{path}: cannot be read as a caffemodel ({one_line(error)}). It may be cut short; fetch it again."
        ) from error
    kernels = [state[name].shape[-1] for name in sorted(state) if re.fullmatch(r"features\..*\.weight", name)]
    first, last = state.get("features.conv1_1.weight"), state.get("head.fc8.weight")
    architecture = Architecture(
        name=network_of(path, kernels),
        head="paper" if any(name.startswith("head.") for name in state) else "none",
        num_classes=1000 if last is None else len(last),
        in_channels=3 if first is None else first.shape[1],
    )
    check(path, state, empty(architecture).state_dict())
    state["features.conv1_1.weight"], preprocess = caffe_input(state["features.conv1_1.weight"], keep_bgr)
    return Foreign("caffe", architecture, state, preprocess)


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


def _layers(network: memoryview) -> dict[str, list[Tensor]]:
    """The blobs of each layer that has some, of a NetParameter."""
    found = {}
    for number, value in _fields(network):
        for kind in _KINDS:
            if number == kind.layers:
                fields = list(_fields(_bytes(value)))
                blobs = [_blob(_bytes(blob)) for number, blob in fields if number == kind.blobs]
                if blobs:
                    name = b"".join(bytes(_bytes(text)) for number, text in fields if number == kind.name)
                    found[name.decode()] = blobs
    return found


def _blob(message: memoryview) -> Tensor:
    """The float32 tensor of a BlobProto."""
    numbers, doubles, shape, old_shape = bytearray(), bytearray(), list[int](), dict[int, int]()
    for number, value in _fields(message):
        if number == _FLOATS:  # packed, or one by one
            numbers += _bytes(value)
        elif number == _DOUBLES:
            doubles += _bytes(value)
        elif number == _SHAPE:
            shape = [size for field, sizes in _fields(_bytes(value)) if field == _DIMENSIONS for size in _packed(sizes)]
        elif number in _OLD_SHAPE and isinstance(value, int):
            old_shape[number] = value
    values = np.frombuffer(doubles, "<f8").astype(np.float32) if doubles else np.frombuffer(numbers, "<f4")
    sizes = shape or [old_shape.get(number, 1) for number in _OLD_SHAPE]
    if math.prod(sizes) != len(values):
        raise ValueError(f"weights of shape {tuple(sizes)} have {len(values)} numbers")
    return torch.from_numpy(values).reshape(sizes)


def _packed(value: Value) -> Iterator[int]:
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield number


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """The number and the value of each field.  Raises: ValueError, IndexError if the bytes are no message."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            number, position = _varint(message, position)
            yield tag >> 3, number
            continue
        if wire_type == _LENGTH_DELIMITED:
            length, position = _varint(message, position)
        elif wire_type in _FIXED:
            length = _FIXED[wire_type]
        else:
            raise ValueError(f"unknown wire type {wire_type}")
        if position + length > len(message):
            raise ValueError(f"a field of {length} bytes where {len(message) - position} are left")
        yield tag >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the position behind it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise ValueError("a number of more than ten bytes")


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message was expected")
    return value
