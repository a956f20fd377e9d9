"""The JSON bodies of requests and responses, as the OpenAPI description has them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Failure(BaseModel):
    """Why a request was refused."""

    error: str


class Body(BaseModel):
    """A request. Fields that it does not know are refused."""

    model_config = ConfigDict(extra="forbid")


class Images(Body):
    """Images as text."""

    images: Annotated[list[str], Field(min_length=1, description="the bytes of image files, in base64")]


class ModelFacts(BaseModel):
    """A model of the server."""

    name: str
    architecture: str
    task: str
    ranks_classes: bool  # whether /predict gives classes, and /explain works
    classes: list[str] | None
    num_classes: int
    input_shape: list[int]  # C, H, W
    layers: list[str]  # of /features


class Models(BaseModel):
    """All models of the server, the default one first."""

    models: list[ModelFacts]
    similar: str | None  # the model that searches the index, if there is one
    limits: dict[str, int]


class ClassesOfImage(BaseModel):
    """What an image shows."""

    classes: list[str]  # the most probable first
    probabilities: list[float]  # 0..1, descending


class Predictions(BaseModel):
    """An answer for each image. Of a model with another task than classes, `found` is what its task gives."""

    model: str
    predictions: list[ClassesOfImage] | None = None
    found: list[dict[str, Any]] | None = None


class Features(BaseModel):
    """A vector for each image."""

    model: str
    layer: str
    pooling: str
    features: list[list[float]]


class ExplainedImage(BaseModel):
    """Why a class. Both pictures are PNG in base64, of the size that the model sees."""

    name: str  # of the class
    index: int
    probability: float
    method: str
    layer: str
    note: str | None
    picture: str
    heatmap: str  # transparent where nothing supports the class


class Explanations(BaseModel):
    """An explanation for each image."""

    model: str
    explanations: list[ExplainedImage]


class MatchFacts(BaseModel):
    """An image of the index."""

    name: str  # its path below the folder that all have in common
    position: int  # its thumbnail is /similar/{position}
    similarity: float  # cosine, at most 1


class Matches(BaseModel):
    """The most similar images for each image, the most similar first."""

    model: str
    matches: list[list[MatchFacts]]


MEANINGS = {
    400: "an argument cannot work, or the host is unknown",
    401: "the key is missing or wrong",
    404: "there is no such model or image",
    408: "the request did not arrive in time",
    413: "the request is too large",
    415: "the type of the body is not supported",
    422: "an argument or an image cannot be read",
    431: "the headers are too large",
    500: "a mistake of the server",
    503: "the server is overloaded; try again after the seconds of Retry-After",
    504: "the answer took too long",
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of an operation that are errors, for its description."""
    always = (400, 401, 408, 413, 415, 431, 500, 503, 504)
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": Failure, "description": MEANINGS[status]} for status in sorted({*always, *statuses})
    }
    found[503]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return found


def schema_of(model: type[BaseModel]) -> Any:
    """The schema of a body, with all that it refers to in place."""
    schema = model.model_json_schema()
    return _in_place(schema, schema.pop("$defs", {}))


def _in_place(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_in_place(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _in_place(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _in_place(value, definitions) for name, value in schema.items()}
