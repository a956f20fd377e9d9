"""The same application on a Ray cluster, by Ray Serve: replicas, autoscaling, and a queue that refuses."""

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp

from vggnet.accel.precision import PrecisionChoice
from vggnet.errors import require
from vggnet.ray_cluster import EXTRA, ray_cluster
from vggnet.serving.app import create_app
from vggnet.serving.limits import Limits
from vggnet.serving.replicas import Replicas
from vggnet.serving.run_server import KEEP_ALIVE, bound, hosts_of, url_of
from vggnet.serving.served_model import model_name
from vggnet.serving.service import open_service
from vggnet.weights.registry import locate

NAME = "vggnet"  # of the application on the cluster
RETRY_AFTER = 1.0  # seconds


def run_on_ray(
    sources: Sequence[Path | str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    index: Path | str | None = None,
    device: str | None = None,
    precision: PrecisionChoice = "float32",
    limits: Limits | None = None,
    replicas: Replicas | None = None,
    api_key: str | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve models on the cluster that $RAY_ADDRESS names, or on one of this machine, until SIGTERM or Ctrl-C.

    Requests arrive at the head node, whose proxy gives them to the replicas. Up to twice `Limits.max_batch` are worked
    on by a replica at a time, `Limits.queue` more wait, and the rest are refused with 503. Limits on
    connections and headers are those of Ray's proxy.

    Args:
        sources, index, device, precision, limits, api_key: as for `vggnet.serving.service.open_service`; all machines
            need the files under the same paths.
        host: address at which the head node listens.
        port: 0 takes a free one.
        replicas: see `Replicas`.
        announce: gets a line with the URL once requests are answered.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: the address cannot be used, the cluster cannot be reached, or as `open_service`.
        WeightsError, DataError: as `open_service`.
    """
    start, limits, replicas = perf_counter(), limits or Limits(), replicas or Replicas()
    for source in sources:
        locate(source)
    with bound(host, port) as listener:  # which Ray opens again
        port = listener.getsockname()[1]
    ended = threading.Event()
    with ray_cluster():
        serve: Any = require("ray.serve", EXTRA)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE},
        )
        options = {
            "sources": [_found(source) for source in sources],
            "index": index and Path(index).absolute(),
            "device": device,
            "precision": precision,
            "limits": limits,
            "api_key": api_key,
        }
        try:
            serve.run(_deployment(serve, limits, replicas, device).bind(options, hosts_of(host)), name=NAME)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: ended.set())
            names, seconds = ", ".join(map(model_name, sources)), perf_counter() - start
            announce(f"serving {names} at {url_of(host, port)} (ready after {seconds:.1f} s; Ctrl-C stops)")
            while not ended.wait(1):  # a wait without an end would keep signals from this thread
                pass
        finally:
            serve.shutdown()


class Replica:
    """One copy of the server: it opens the models, and is the application."""

    def __init__(self, options: dict[str, Any], hosts: Sequence[str] | None) -> None:
        self._stack = ExitStack()
        self._service, self._hosts = self._stack.enter_context(open_service(**options)), hosts

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Ray Serve asks for the application."""
        return create_app(self._service, hosts=self._hosts)

    def __del__(self) -> None:
        self._stack.close()


def _deployment(serve: Any, limits: Limits, replicas: Replicas, device: str | None) -> Any:
    on_gpu = device is not None and device.startswith("cuda")
    return serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        max_ongoing_requests=2 * limits.max_batch,
        max_queued_requests=limits.queue,
        backpressure_config={"retry_after_s": RETRY_AFTER},
        graceful_shutdown_timeout_s=limits.drain_timeout,
        ray_actor_options={"num_cpus": replicas.replica_cpus, "num_gpus": 1 if on_gpu else 0},
        autoscaling_config={
            "min_replicas": replicas.min_replicas,
            "max_replicas": replicas.max_replicas,
            "target_ongoing_requests": limits.max_batch,
        },
    )


def _found(source: Path | str) -> str:
    """A name as it is; a path as other processes find it."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else str(source)
