"""Requests of `vgg serve` that are broken, or that mean harm."""

import io
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments.benchmarks.server import request_of


def hostile_requests(image: bytes, count: int, seed: int) -> list[bytes]:
    """Requests with damaged images; every tenth is broken in another way."""
    draw, good = random.Random(seed), request_of([image], "close")
    others = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 60_000 + b"\r\n\r\n",
        good.replace(b"multipart/form-data; boundary=limit", b"image/png"),
        good.replace(b"boundary=limit", b"boundary=other"),
        good.replace(b'name="image"', b'name="../../etc/passwd"'),
        good.replace(b"multipart/form-data; boundary=limit", b"application/json"),
        good.replace(b"/predict", b"/predict?model=../../etc"),
        good.replace(b"Host: localhost", b"Host: attacker.example"),
        good.replace(b"Connection: close", b"Content-Encoding: gzip\r\nConnection: close"),
        request_of([_bomb()], "close"),
        request_of([image] * 17, "close"),
    )
    images = iter(hostile_images(count, seed))
    return [draw.choice(others) if number % 10 == 9 else request_of([next(images)], "close") for number in range(count)]


def _bomb() -> bytes:
    """A PNG of 100 megapixels in 12 kB."""
    return _encoded(Image.new("1", (10_000, 10_000)), "PNG")


def hostile_images(count: int, seed: int) -> list[bytes]:
    """Damaged, truncated, mixed and lying image files, and other data."""
    draw = random.Random(seed)
    pixels = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    good = [_encoded(pixels, kind, **options) for kind, options in _KINDS]
    return [_damaged(draw, draw.choice(good), draw.choice(good)) for _ in range(count)]


_KINDS: Sequence[tuple[str, dict[str, Any]]] = (
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("GIF", {}), ("TIFF", {}), ("BMP", {}),
)  # fmt: skip


def _damaged(draw: random.Random, file: bytes, other: bytes) -> bytes:
    way, place = draw.randrange(6), draw.randrange(1, len(file))
    if way == 0:
        return file[:place]
    if way == 1:
        return file[:place] + other[draw.randrange(len(other)) :]
    if way == 2:
        return draw.randbytes(draw.randrange(3000))
    changed = bytearray(file)
    header = min(len(file), 700)  # where sizes and counts are
    for _ in range(draw.choice((1, 3, 30))):
        changed[draw.randrange(header if way < 5 else len(file))] = draw.choice((0, 0x7F, 0xFF, draw.randrange(256)))
    return bytes(changed)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
