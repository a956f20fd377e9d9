"""The bodies of the Open Inference Protocol: JSON, and JSON with binary tensors behind it."""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor

from vggnet.serving.refusals import Refusal
from vggnet.serving.uploads import parse

LENGTH = "Inference-Header-Content-Length"  # bytes of the JSON before the binary tensors
INPUT, OUTPUT, DATATYPE = "input", "probabilities", "FP32"


class InferInput(BaseModel):
    """A tensor that is sent."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None  # nested or flat; not with binary data


class InferOutput(BaseModel):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """The JSON of a request."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: Annotated[list[InferInput], Field(min_length=1)]
    outputs: list[InferOutput] | None = None

    @property
    def wants_binary(self) -> bool:
        """Whether the output is to be binary."""
        of_all = (self.parameters or {}).get("binary_data_output", False)
        wanted = (self.outputs[0].parameters or {}) if self.outputs else {}
        return bool(wanted.get("binary_data", of_all))


class OutputTensor(BaseModel):
    """A tensor that is returned."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[float] | None = None


class InferResponse(BaseModel):
    """The JSON of a response."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


def read_request(body: bytes, header_length: str | None) -> tuple[InferRequest, bytes]:
    """The JSON of a request and the bytes behind it.

    Args:
        body: of the request.
        header_length: the header `LENGTH`; None if there are no binary tensors.

    Raises:
        Refusal: the header or the JSON is malformed.
    """
    if header_length is None:
        return parse(InferRequest, body), b""
    if not header_length.isdecimal() or not len(header_length) < 12 or int(header_length) > len(body):
        raise Refusal(400, f"{LENGTH} is {header_length!r:.40}; expected at most the {len(body)} bytes of the body.")
    length = int(header_length)
    return parse(InferRequest, body[:length]), body[length:]


def read_input(request: InferRequest, binary: bytes, shape: tuple[int, int, int]) -> Tensor:
    """The input of a request.

    Args:
        request: see `read_request`.
        binary: the same.
        shape: (C, H, W) that the model takes.

    Returns:
        float32 (N, C, H, W), finite.

    Raises:
        Refusal: it is not such a tensor, or the request asks for what there is not.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        raise Refusal(400, f"the inputs are {[one.name for one in request.inputs]}; expected {INPUT!r} alone.")
    if request.outputs is not None and [one.name for one in request.outputs] != [OUTPUT]:
        raise Refusal(400, f"the outputs are {[one.name for one in request.outputs]}; there is {OUTPUT!r} alone.")
    if any("classification" in (one.parameters or {}) for one in request.outputs or ()):
        raise Refusal(400, "the extension classification is not supported; /predict gives the names of classes.")
    given = request.inputs[0]
    if given.datatype != DATATYPE or len(given.shape) != 4 or tuple(given.shape[1:]) != shape or given.shape[0] < 1:
        raise Refusal(400, f"the input is {given.datatype} {given.shape}; expected {DATATYPE} {[-1, *shape]}.")
    count = math.prod(given.shape)
    size = (given.parameters or {}).get("binary_data_size")
    values = _numbers(given.data, count) if size is None else _binary(binary, size, count)
    if given.data is not None and size is not None:
        raise Refusal(400, "the input has data in JSON and in binary form; send one of them.")
    if size is None and binary:
        raise Refusal(400, f"{len(binary)} bytes follow the JSON, but the input has no binary_data_size.")
    if not np.isfinite(values).all():
        raise Refusal(400, "the input has values that are NaN or infinite.")
    return torch.from_numpy(values.reshape(given.shape))


def infer_response(model: str, request: InferRequest, probabilities: Tensor) -> tuple[bytes, Mapping[str, str]]:
    """The body of a response, and its headers.

    Args:
        model: its name.
        request: says whether the output is binary.
        probabilities: (N, K).
    """
    values = probabilities.float().numpy()
    output: dict[str, Any] = {"name": OUTPUT, "shape": list(values.shape), "datatype": DATATYPE}
    answer: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": [output]}
    if request.id is not None:
        answer["id"] = request.id
    if not request.wants_binary:
        output["data"] = values.ravel().tolist()
        return json.dumps(answer).encode(), {"Content-Type": "application/json"}
    binary = values.astype("<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(binary)}
    text = json.dumps(answer).encode()
    return text + binary, {"Content-Type": "application/octet-stream", LENGTH: str(len(text))}


def _binary(binary: bytes, size: Any, count: int) -> NDArray[np.float32]:
    if size != len(binary) or size != 4 * count:
        raise Refusal(
            400,
            f"binary_data_size is {size!r:.40} and {len(binary)} bytes follow the JSON; expected {4 * count} bytes.",
        )
    return np.frombuffer(binary, "<f4").astype(np.float32)


def _numbers(data: list[Any] | None, count: int) -> NDArray[np.float32]:
    try:
        values = np.array([] if data is None else data)
    except (ValueError, OverflowError, TypeError):
        values = np.array(["ragged"])
    if values.dtype.kind not in "iuf" or values.size != count:
        raise Refusal(400, f"the data of the input are no {count} numbers.")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
