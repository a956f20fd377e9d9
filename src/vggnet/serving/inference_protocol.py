"""The Open Inference Protocol, version 2, over HTTP, as KServe and Triton define it, with binary tensors.

Source: github.com/kserve/open-inference-protocol and Triton's extension for binary tensor data.
"""

import asyncio
from importlib.metadata import version
from typing import Annotated

import torch
from fastapi import APIRouter, Header
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from vggnet.errors import NonFiniteError
from vggnet.serving.messages import failures, schema_of
from vggnet.serving.refusals import Refusal
from vggnet.serving.service import Service
from vggnet.serving.tensors import (
    DATATYPE,
    INPUT,
    LENGTH,
    OUTPUT,
    InferRequest,
    InferResponse,
    infer_response,
    read_input,
    read_request,
)


class Live(BaseModel):
    """Whether the server runs."""

    live: bool


class Ready(BaseModel):
    """Whether all models answer."""

    ready: bool


class ModelReady(BaseModel):
    """Whether a model answers."""

    name: str
    ready: bool


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """A tensor of a model; -1 is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


INFER = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": schema_of(InferRequest)},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def protocol_routes(service: Service) -> APIRouter:
    """The routes of a server."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    catalog, limits = service.catalog, service.limits

    @router.get("", responses=failures())
    async def server_metadata() -> ServerMetadata:
        """Say what the server is."""
        return ServerMetadata(name="vggnet", version=version("vggnet"), extensions=["binary_tensor_data"])

    @router.get("/health/live", responses=failures())
    async def live() -> Live:
        """Say that the server runs."""
        return Live(live=True)

    @router.get("/health/ready", responses=failures())
    async def ready() -> Ready:
        """Say that all models answer: the server listens only once they are warm."""
        return Ready(ready=True)

    @router.get("/models/{model}", responses=failures(404, 422))
    async def model_metadata(model: str) -> ModelMetadata:
        """Say what a model takes and gives. Only classifiers take tensors."""
        chosen = catalog.get(model)
        inputs = [TensorMetadata(name=INPUT, datatype=DATATYPE, shape=[-1, *chosen.input_shape])]
        outputs = [TensorMetadata(name=OUTPUT, datatype=DATATYPE, shape=[-1, chosen.opened.num_classes])]
        takes = chosen.ranks_classes
        return ModelMetadata(
            name=chosen.name,
            versions=["1"],
            platform="pytorch",
            inputs=inputs if takes else [],
            outputs=outputs if takes else [],
        )

    @router.get("/models/{model}/ready", responses=failures(404, 422))
    async def model_ready(model: str) -> ModelReady:
        """Say that a model answers."""
        return ModelReady(name=catalog.get(model).name, ready=True)

    @router.post(
        "/models/{model}/infer",
        responses={
            **failures(404, 422),
            200: {"model": InferResponse, "content": {"application/octet-stream": {}}, "description": "probabilities"},
        },
        openapi_extra=INFER,
    )
    async def infer(
        request: Request,
        model: str,
        header_length: Annotated[str | None, Header(alias=LENGTH, description="bytes of the JSON")] = None,
    ) -> Response:
        """Compute probabilities for images that are preprocessed already."""
        parsed, binary = await asyncio.to_thread(read_request, await request.body(), header_length)
        chosen = catalog.get(model)
        chosen.check_ranks_classes()
        inputs: Tensor = await asyncio.to_thread(read_input, parsed, binary, chosen.input_shape)
        if len(inputs) > limits.max_images:
            raise Refusal(413, f"the request has {len(inputs)} images; at most {limits.max_images} are allowed.")
        with chosen.batcher.admit(len(inputs)) as admission:
            try:
                found = await admission.compute(chosen.infer, list(inputs))
            except NonFiniteError:
                raise Refusal(400, "the output is NaN or infinite: the values of the input are too large.") from None
        body, headers = infer_response(chosen.name, parsed, torch.stack(found))
        return Response(body, headers=dict(headers))

    return router
