"""What the server accepts and how long it works on it. No PyTorch here: the command line reads it."""

from dataclasses import dataclass

from vggnet.errors import ConfigError, check_at_least


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a server. What is beyond them is refused with the status 408, 413, 422, 503 or 504.

    Raises:
        ConfigError: a limit is out of range.

    Example:
        >>> Limits(max_images=64, queue=32)
        Traceback (most recent call last):
        vggnet.errors.ConfigError: queue is 32; it must be at least 64.
    """

    max_batch: int = 16  # images for each forward pass; 1 turns batching off
    batch_wait: float = 0.002  # seconds that an image waits for others which are being decoded
    queue: int = 64  # images that a model has accepted and not answered; more are refused with 503
    max_requests: int = 200  # worked on at a time; more are refused with 503
    timeout: float = 30.0  # seconds for a request, once it has arrived
    max_body: int = 20_000_000  # bytes of a request
    body_timeout: float = 20.0  # seconds in which a request has to arrive
    header_timeout: float = 10.0  # seconds in which its headers have to arrive
    max_held: int = 200_000_000  # bytes of all requests that are worked on; more are refused with 503
    max_connections: int = 500  # open at a time
    max_images: int = 16  # in one request
    max_pixels: int = 50_000_000  # of an image; a JPEG may have more, which is decoded smaller
    decoders: int = 2  # processes that decode images
    decode_timeout: float = 10.0  # seconds for an image; a decoder that needs longer is replaced
    decoder_memory: int = 1_500_000_000  # bytes that a decoder may use
    drain_timeout: float = 30.0  # seconds for the requests that are worked on when the server is stopped

    def __post_init__(self) -> None:
        counts = (
            "max_batch", "max_requests", "max_body", "max_connections", "max_images", "max_pixels", "decoders",
            "decoder_memory",
        )  # fmt: skip
        check_at_least(1, **{name: getattr(self, name) for name in counts})
        check_at_least(self.max_images, queue=self.queue)
        check_at_least(self.max_body, max_held=self.max_held)
        for name in ("timeout", "body_timeout", "header_timeout", "decode_timeout", "drain_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0 seconds.")
        if not self.batch_wait >= 0:
            raise ConfigError(f"batch_wait is {self.batch_wait}; it must be 0 or more seconds.")
