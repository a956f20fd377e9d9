"""Connections: headers arrive in time and are of limited size, and there are no more connections than allowed.

A connection stays open after its answer: closing one while the next request is being sent loses that request. Where
there are too many, a new connection replaces the one that has had no request for the longest time.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from vggnet.serving.gate import MAX_HEADERS
from vggnet.serving.limits import Limits

LINGER = 10.0  # seconds that a refused connection stays open, so that a slow sender comes to read why
UNUSED = 2.0  # seconds without a request after which a connection may be replaced; in an overload few wait so long
LINGERING = 4096  # refused connections that stay open; of more the oldest is closed


def limited_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol of a server with these limits."""

    refused: dict[Any, None] = {}  # the connections that linger, the oldest first
    unused: dict[Any, float] = {}  # those without a request, and the time of their last answer, the oldest first

    class LimitedProtocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _is_refused = False
        _header_bytes: int | None = None  # of a request whose headers have not ended

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) - len(refused) > limits.max_connections and not self._take_place():
                self._refuse(503, "the server has too many connections; try again in 1 s.", b"retry-after: 1\r\n")
            else:
                self._start_timer()

        def data_received(self, data: bytes) -> None:
            if self._is_refused:
                return
            unused.pop(self, None)
            super().data_received(data)
            if self._is_refused or self.transport.is_closing():
                return
            if self._header_bytes is not None:
                self._header_bytes += len(data)
                if self._header_bytes > MAX_HEADERS:
                    self._refuse(431, f"the headers have more than {MAX_HEADERS:,} bytes.")
                    return
            if not self._waits():
                self._stop_timer()
            elif self._timer is None:
                self._start_timer()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._header_bytes = 0

        def on_headers_complete(self) -> None:
            self._header_bytes = None
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing() and self._waits() and self._header_bytes is None:
                unused[self] = self.loop.time()

        def connection_lost(self, exc: Exception | None) -> None:
            refused.pop(self, None)
            unused.pop(self, None)
            self._stop_timer()
            super().connection_lost(exc)

        def eof_received(self) -> None:
            if self._is_refused:
                self.transport.close()
            super().eof_received()

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "this is not HTTP.")

        def _take_place(self) -> bool:
            """Close the connection that has had no request for the longest time, if that is at least `UNUSED`."""
            if not unused or self.loop.time() - next(iter(unused.values())) < UNUSED:
                return False
            _pop_oldest(unused).transport.close()
            return True

        def _waits(self) -> bool:
            """Whether the headers of a request are to come."""
            return self.cycle is None or self.cycle.response_complete or self._header_bytes is not None

        def _start_timer(self) -> None:
            self._timer = self.loop.call_later(limits.header_timeout, self._too_late)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_late(self) -> None:
            self._timer = None
            if self._header_bytes is None:
                self.transport.close()  # nothing was asked
            else:
                self._refuse(408, f"the headers did not arrive within {limits.header_timeout:g} s.")

        def _refuse(self, status: int, message: str, more: bytes = b"") -> None:
            """Answer, and close the connection once the sender does.

            If it were closed at once, what the sender still sends would make its system drop the answer.
            """
            self._is_refused = True
            refused[self] = None
            if len(refused) > LINGERING:
                _pop_oldest(refused).transport.close()
            body = json.dumps({"error": message}).encode()
            head = (
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            )
            with suppress(OSError, RuntimeError):  # the sender is gone
                self.transport.write(STATUS_LINE[status] + more + head + body)
                self.transport.write_eof()
            self._stop_timer()
            self._timer = self.loop.call_later(LINGER, self.transport.close)

    return LimitedProtocol


def _pop_oldest(connections: dict[Any, Any]) -> Any:
    """The connection that has been there for the longest time, no longer among them."""
    oldest = next(iter(connections))
    del connections[oldest]
    return oldest
