"""Why a request is refused, as exceptions with a status of HTTP."""

from collections.abc import Mapping
from math import ceil

from starlette.exceptions import HTTPException

from vggnet.errors import ConfigError, ImageError, InputError, VGGError


class Refusal(HTTPException):
    """A request that is not answered.

    Args:
        status: of HTTP, 4xx or 5xx.
        message: what was found, and what was expected.
        headers: of the response.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, dict(headers or {}))


class Overloaded(Refusal):
    """There is no room for the request now.

    Args:
        what: has no room.
        seconds: after which there may be some.
    """

    def __init__(self, what: str, seconds: float = 1.0) -> None:
        wait = max(1, ceil(seconds))
        super().__init__(503, f"{what}; try again in {wait} s.", {"Retry-After": str(wait)})


def status_of(error: VGGError) -> int:
    """The status of HTTP for an error of the package: 4xx where the request is the reason.

    Example:
        >>> status_of(ImageError("the file is empty.")), status_of(ConfigError("unknown layer"))
        (422, 400)
    """
    if isinstance(error, ImageError):
        return 422
    return 400 if isinstance(error, ConfigError | InputError) else 500
