"""Listen: uvicorn with limits on connections, and an end that answers what was accepted."""

import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from time import perf_counter
from typing import Any

import uvicorn

from vggnet.accel.precision import PrecisionChoice
from vggnet.errors import ConfigError
from vggnet.serving.app import create_app
from vggnet.serving.connections import limited_protocol
from vggnet.serving.limits import Limits
from vggnet.serving.service import Service, open_service

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")  # names by which a server on the loopback interface is reached
KEEP_ALIVE = 75  # seconds that a connection stays open without a request: longer than load balancers use it (60)
BACKLOG = 2048  # connections that the system accepts before the server does


def run_server(
    sources: Sequence[Path | str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    index: Path | str | None = None,
    device: str | None = None,
    precision: PrecisionChoice = "float32",
    limits: Limits | None = None,
    api_key: str | None = None,
    access_log: bool = False,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve models until SIGTERM or Ctrl-C. Requests that were accepted are answered first.

    Args:
        sources, index, device, precision, limits, api_key: as for `vggnet.serving.service.open_service`.
        host: name or address to listen at; by default this machine alone can connect.
        port: 0 takes a free one.
        access_log: write a line for each request to stderr.
        announce: gets a line with the URL once requests are answered.

    Raises:
        ConfigError: the address cannot be used, or as `open_service`.
        WeightsError, DataError: as `open_service`.
    """
    start = perf_counter()
    _allow_connections()
    logging.basicConfig(level=logging.INFO, format="vgg: %(message)s", stream=sys.stderr)
    options: dict[str, Any] = {
        "index": index, "device": device, "precision": precision, "limits": limits, "api_key": api_key
    }  # fmt: skip
    with bound(host, port) as listener, open_service(sources, **options) as service:
        url, names = url_of(host, listener.getsockname()[1]), ", ".join(model.name for model in service.catalog.all())
        line = f"serving {names} at {url} (ready after {perf_counter() - start:.1f} s; Ctrl-C stops)"
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        # uvicorn raises the signal once more at the end, for whoever started it; here the end is a normal one.
        signal.signal(signal.SIGTERM, lambda *_: None)
        server = make_server(service, host, access_log=access_log, started=lambda: announce(line))
        server.run(sockets=[listener])


def make_server(
    service: Service, host: str, *, access_log: bool = False, started: Callable[[], None] = lambda: None
) -> uvicorn.Server:
    """The server of an open service, to be run with a socket.

    Args:
        service: what it serves, and its limits.
        host: where the socket is bound.
        access_log: see `run_server`.
        started: called once it listens.
    """
    limits = service.limits
    config = uvicorn.Config(
        create_app(service, hosts=hosts_of(host)),
        http=limited_protocol(limits),
        ws="none",
        loop="auto",  # uvloop, which takes half of the time, where there is one
        backlog=BACKLOG,
        access_log=access_log,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here asks who has sent a request
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(limits.drain_timeout)),
    )
    return _Server(config, started)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    Example:
        >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("example.org")
        (True, True, False, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allow_connections() -> None:
    """As many open files as the system allows: many connections may be refused at a time."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def hosts_of(host: str) -> tuple[str, ...] | None:
    """The names that requests may call a server by which listens at this address; None for any."""
    return (*LOOPBACK, host) if is_loopback(host) else None


def url_of(host: str, port: int) -> str:
    """The address of the page.

    Example:
        >>> url_of("::1", 8000)
        'http://[::1]:8000/'
    """
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()


def bound(host: str, port: int) -> socket.socket:
    """A socket of this address that does not listen yet: who connects before the models are warm is refused.

    Raises: ConfigError if the address cannot be used.
    """
    if not 0 <= port <= 65_535:  # the system would take the rest of a division
        raise ConfigError(f"port is {port}; expected 0 to 65535, where 0 takes a free one.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen at {host}, port {port} ({reason}). Choose others with --host and --port; 0 is a free port."
        ) from error
    return listener
