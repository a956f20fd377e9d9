"""The metrics of a server, in the format of Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

Stage = Literal["decode", "wait", "compute"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Telemetry:
    """The metrics of one server.

    Example:
        >>> telemetry = Telemetry()
        >>> telemetry.requests.labels("/predict", "200").inc()
        >>> 'vggnet_requests_total{endpoint="/predict",status="200"} 1.0' in telemetry.text()
        True
    """

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter("vggnet_requests", "Requests, by outcome.", ["endpoint", "status"], registry=registry)
        self.request_seconds = Histogram(
            "vggnet_request_seconds",
            "From the arrival of a request to its answer.",
            ["endpoint"],
            buckets=SECONDS,
            registry=registry,
        )
        self.active = Gauge("vggnet_active_requests", "Requests that are received or worked on.", registry=registry)
        self.held = Gauge("vggnet_held_bytes", "Bytes of the requests that are worked on.", registry=registry)
        self.queue = Gauge(
            "vggnet_queue_images", "Images that are accepted and not answered.", ["model"], registry=registry
        )
        self.batches = Histogram(
            "vggnet_batch_images", "Images of a forward pass.", ["model"], buckets=IMAGES, registry=registry
        )
        self.stages = Histogram(
            "vggnet_stage_seconds",
            "Time of an image in a stage.",
            ["model", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.lost_decoders = Counter(
            "vggnet_lost_decoders", "Decoders that were replaced.", ["reason"], registry=registry
        )
        self.reloads = Counter(
            "vggnet_reloads", "Changed files that were opened.", ["model", "outcome"], registry=registry
        )

    def text(self) -> str:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry).decode()

    @contextmanager
    def timed(self, model: str, stage: Stage) -> Iterator[None]:
        """Measure the time of a block, as a stage of this model."""
        start = perf_counter()
        try:
            yield
        finally:
            self.stages.labels(model, stage).observe(perf_counter() - start)
