"""The images of a request: files of a form, or base64 in JSON. They stay in memory."""

import base64
import binascii
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vggnet.serving.limits import Limits
from vggnet.serving.messages import Images, schema_of
from vggnet.serving.refusals import Refusal

FIELD = "image"
Parsed = TypeVar("Parsed", bound=BaseModel)
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    FIELD: {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                },
                "required": [FIELD],
                "additionalProperties": False,
            }
        },
        "application/json": {"schema": schema_of(Images)},
    },
}


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 62  # bytes of a file from which on it would go to the disk


async def read_images(request: Request, limits: Limits) -> list[bytes]:
    """The bytes of the image files in a request.

    Args:
        request: with a form that has them in the field `image`, or JSON as `Images`.
        limits: how many there may be.

    Raises:
        Refusal: there are none or too many, or the body is malformed or of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        images = await _of_form(request, limits)
    elif kind == "application/json":
        images = [_decoded(number, text) for number, text in enumerate(parse(Images, await request.body()).images, 1)]
    else:
        raise Refusal(415, f"the body is {kind or 'of no stated type'}; send multipart/form-data or application/json.")
    if len(images) > limits.max_images:
        raise Refusal(413, f"the request has {len(images)} images; at most {limits.max_images} are allowed.")
    return images


def parse(model: type[Parsed], text: bytes) -> Parsed:
    """The JSON of a request.  Raises: Refusal if it is malformed, or not as described."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise Refusal(422, describe(error.errors())) from None


def describe(errors: Any) -> str:
    """The first of pydantic's errors, in one line."""
    first = errors[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place or 'the body'}: {first['msg']}."


async def _of_form(request: Request, limits: Limits) -> list[bytes]:
    parser = _InMemory(
        request.headers, request.stream(), max_files=limits.max_images, max_fields=1, max_part_size=1 << 16
    )  # fmt: skip
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(422, f"the form cannot be read: {error.message}") from None
    except KeyError:
        raise Refusal(422, "the form has no boundary.") from None
    try:
        files = [await _file(name, value) for name, value in form.multi_items()]
    finally:
        await form.close()
    if not files:
        raise Refusal(422, f"the form has no file; expected one or more in the field {FIELD!r}.")
    return files


async def _file(name: str, value: UploadFile | str) -> bytes:
    if name != FIELD or not isinstance(value, UploadFile):
        raise Refusal(422, f"the form has {name[:40]!r}; expected files in the field {FIELD!r} alone.")
    return await value.read()


def _decoded(number: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, f"images.{number - 1}: not base64.") from None
