"""The images of a request: files of a form, or base64 in JSON. They stay in memory."""

import base64
import binascii
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
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


async def read_images(request: Request, limits: Limits) -> list[bytes]:
    """The bytes of the image files in a request.

    Args:
        request: with a form that has them in the field `image`, or JSON as `Images`.
        limits: how many there may be.

    Raises:
        Refusal: there are none or too many, or the body is malformed or of another type.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        images = _of_form(await request.body(), content_type)
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


def _of_form(body: bytes, content_type: str) -> list[bytes]:
    """The files of a form. It is in memory as a whole, so that splitting it takes a fraction of the time of a parser
    that reads it byte by byte."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Refusal(422, "the form has no boundary.")
    first, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if first or not parts or not parts[-1].startswith(b"--"):
        raise Refusal(422, "the form cannot be read: it does not begin and end with its boundary.")
    if len(parts) == 1:
        raise Refusal(422, f"the form has no file; expected one or more in the field {FIELD!r}.")
    return [_file(part) for part in parts[:-1]]


def _file(part: bytes) -> bytes:
    """The content of a part.  Raises: Refusal if it is no file of the field."""
    start, separator, content = part.partition(b"\r\n\r\n")
    lines = start.split(b"\r\n")
    if lines[0].strip(b" \t") or not separator:
        raise Refusal(422, "the form cannot be read: a part has no headers.")
    headers = {name.strip().lower(): value for name, _, value in (line.partition(b":") for line in lines[1:])}
    _, options = parse_options_header(headers.get(b"content-disposition", b""))
    name = options.get(b"name", b"").decode("utf-8", "replace")
    if name != FIELD or b"filename" not in options:
        raise Refusal(422, f"the form has {name[:40]!r}; expected files in the field {FIELD!r} alone.")
    return content


def _decoded(number: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, f"images.{number - 1}: not base64.") from None
