"""The application: all routes, the page, and every error as {"error": ...}."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from vggnet.errors import VGGError
from vggnet.report import PHOTOS
from vggnet.serving.gate import Gate
from vggnet.serving.image_routes import image_routes
from vggnet.serving.inference_protocol import protocol_routes
from vggnet.serving.messages import failures
from vggnet.serving.refusals import status_of
from vggnet.serving.service import Service
from vggnet.serving.uploads import describe

WEB = Path(__file__).parent / "web"
PAGE = {  # path -> file and type
    "/": (WEB / "index.html", "text/html"),
    "/page.css": (WEB / "page.css", "text/css"),
    "/page.js": (WEB / "page.js", "text/javascript"),
    "/photos.css": (PHOTOS / "photos.css", "text/css"),
    "/photos.js": (PHOTOS / "photos.js", "text/javascript"),
    "/favicon.svg": (PHOTOS / "favicon.svg", "image/svg+xml"),
}
DESCRIPTION = "Classes, features, explanations and similar images, by the VGGs that this server has."


def create_app(service: Service, *, hosts: Collection[str] | None = None) -> ASGIApp:
    """The application of a server.

    Args:
        service: see `vggnet.serving.service.open_service`.
        hosts: names that the header Host may have; None for any.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watcher = asyncio.create_task(service.catalog.watch())
        yield
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher

    app = FastAPI(
        title="vggnet",
        version=version("vggnet"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.include_router(image_routes(service))
    app.include_router(protocol_routes(service))

    for path, (file, kind) in PAGE.items():
        app.get(path, include_in_schema=False)(_constant(file.read_bytes(), kind))

    @app.get("/metrics", response_class=Response, responses={**failures(), 200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Show the metrics in the format of Prometheus."""
        return Response(service.telemetry.text(), media_type=service.telemetry.content_type)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": describe(error.errors())}, 422)

    @app.exception_handler(VGGError)
    async def failed(_: Request, error: VGGError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_of(error))

    @app.exception_handler(Exception)
    async def mistaken(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "a mistake of the server; its log says more."}, 500)

    return Gate(app, service, hosts)


def _constant(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer
