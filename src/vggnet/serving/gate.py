"""What every request passes: host, key, size and time limits, and the headers and metrics of its answer."""

import asyncio
import hmac
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vggnet.serving.limits import Limits
from vggnet.serving.refusals import Overloaded, Refusal
from vggnet.serving.service import Service

# Answered without a key: whether the server is alive and ready, and the page, which asks for the key.
OPEN_PATHS = (
    "/",
    "/page.css",
    "/page.js",
    "/photos.css",
    "/photos.js",
    "/favicon.svg",
    "/v2/health/live",
    "/v2/health/ready",
)
MAX_HEADERS = 16_384  # bytes
DISCARDED = 64_000_000  # bytes that are read of a body that is too large, so that its sender reads the answer
PORT = re.compile(r":\d+$")
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_POLICY,
    "Permissions-Policy": "camera=(self)",
}


class Gate:
    """Middleware that reads a request as a whole, and then lets the application answer it in limited time.

    Args:
        app: the application.
        service: its limits, key and metrics.
        hosts: names that the header Host may have; None for any. A server on the loopback interface allows its own
            alone, so that no page of a browser reaches it by a name of its own.
    """

    def __init__(self, app: ASGIApp, service: Service, hosts: Collection[str] | None) -> None:
        self._app, self._service, self._hosts = app, service, hosts
        self._held = 0  # bytes of the requests that are worked on
        self._working = 0  # requests that are worked on, without those that only ask how the server is

    def hold(self, size: int) -> None:
        """Keep so many bytes more, or less.  Raises: Overloaded if there is no room for more."""
        if size > 0 and self._held + size > self._service.limits.max_held:
            raise Overloaded("the requests that are worked on fill the memory")
        self._held += size
        self._service.telemetry.held.set(self._held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer, start, telemetry = _Answer(send), perf_counter(), self._service.telemetry
        try:
            with telemetry.active.track_inprogress():
                await self._pass(scope, receive, answer)
        finally:
            endpoint = getattr(scope.get("route"), "path", "other")
            telemetry.requests.labels(endpoint, answer.status).inc()
            telemetry.request_seconds.labels(endpoint).observe(perf_counter() - start)

    async def _pass(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        body = _Body(self, self._service.limits, receive)
        try:
            self._check(scope)
            await body.read()
            with self._room(scope["method"]):
                await self._answer_in_time(scope, body, answer)
        except Refusal as refusal:
            headers = {"Connection": "close", **(refusal.headers or {})} if body.is_unread else refusal.headers
            response = JSONResponse({"error": refusal.detail}, refusal.status_code, headers)
            await response(scope, receive, answer)
        finally:
            body.drop()

    def _check(self, scope: Scope) -> None:
        headers, key = Headers(scope=scope), self._service.api_key
        host = PORT.sub("", headers.get("host", ""))
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADERS:
            raise Refusal(431, f"the headers have more than {MAX_HEADERS:,} bytes.")
        if self._hosts is not None and host not in self._hosts:
            raise Refusal(400, f"host {host!r} is not served here; use one of {', '.join(self._hosts)}.")
        if "content-encoding" in headers:
            raise Refusal(415, "the body is compressed; send it as it is.")
        if key is not None and scope["path"] not in OPEN_PATHS:
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            # Both are compared whole, in a time that does not tell how much of the key is right.
            if not hmac.compare_digest(given, f"Bearer {key}".encode()):
                raise Refusal(401, "send the header Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"})

    @contextmanager
    def _room(self, method: str) -> Iterator[None]:
        """Raises: Overloaded if too many requests are worked on; it costs less here than once their images are read."""
        count = method == "POST"
        if count and self._working >= self._service.limits.max_requests:
            raise Overloaded(f"the server works on {self._working} requests")
        self._working += count
        try:
            yield
        finally:
            self._working -= count

    async def _answer_in_time(self, scope: Scope, body: "_Body", answer: "_Answer") -> None:
        """Cancel the work on a request that takes too long, or whose sender is gone."""
        seconds = self._service.limits.timeout
        task = asyncio.create_task(_as_coroutine(self._app(scope, body.replay, answer)))
        gone = asyncio.create_task(_as_coroutine(body.gone()))
        try:
            await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done() or answer.status != "none":
                await task
                return
            task.cancel()
            await asyncio.wait({task})
            if not gone.done():
                raise Refusal(504, f"the answer took longer than {seconds:g} s.")
        finally:
            gone.cancel()
            task.cancel()


class _Body:
    """The body of a request, read as a whole."""

    def __init__(self, gate: Gate, limits: Limits, receive: Receive) -> None:
        self._gate, self._limits, self._receive = gate, limits, receive
        self._chunks: list[bytes] = []
        self._is_replayed = False
        self._ended = asyncio.Event()
        self._size = 0  # bytes that are kept
        self.is_unread = True

    async def read(self) -> None:
        """Raises: Refusal if it is too large, comes too slowly, or does not fit beside the others."""
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                await self._read()
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {self._limits.body_timeout:g} s.") from None

    async def _read(self) -> None:
        total, limit, more = 0, self._limits.max_body, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Refusal(400, "the sender is gone.")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            total += len(chunk)
            if total > limit:
                self.drop()
                if total > limit + DISCARDED:
                    break
            else:
                self._gate.hold(len(chunk))
                self._size += len(chunk)
                self._chunks.append(chunk)
        self.is_unread = more
        if total > limit:
            raise Refusal(413, f"the body has more than {limit:,} bytes, the limit of this server.")

    def drop(self) -> None:
        """Give back the memory."""
        self._gate.hold(-self._size)
        self._size = 0
        self._chunks.clear()

    async def replay(self) -> Message:
        """`receive` for the application."""
        if not self._is_replayed:
            self._is_replayed = True
            return {"type": "http.request", "body": b"".join(self._chunks), "more_body": False}
        await self._ended.wait()
        return {"type": "http.disconnect"}

    async def gone(self) -> None:
        """Return once the sender is gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._ended.set()


class _Answer:
    """`send` that adds the headers of every response and notes the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = "none"  # the sender is gone, or nothing was sent yet

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = str(message["status"])
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


async def _as_coroutine(awaitable: Any) -> None:
    await awaitable
