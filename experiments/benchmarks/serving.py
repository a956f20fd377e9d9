"""`vgg serve` under load: throughput, latency, ten times too much, hostile images. Client and server share a machine.

python -m experiments.benchmarks.serving MODEL PHOTO

The server is a process of `vgg serve` with its default limits. Rates are of single images, each in a request and a
connection of its own. "loop" is the network alone, in batches of 16, in one process. Latency is counted from the
moment at which a request was due (open loop), so that waiting counts.
"""

import asyncio
import io
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tyro.conf import Positional

import vggnet
from experiments import page
from vggnet.report.text import to_json
from vggnet.tasks.results import Prediction
from vggnet.weights.checkpoint import inference_mode, open_model

BATCH = 16
BEFORE, AFTER = b'--limit\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n', b"\r\n--limit--\r\n"
PATIENCE = 60.0  # seconds for an answer, twice the server's deadline


class Answer(NamedTuple):
    """What a request got."""

    status: int  # 0 if the connection was lost
    retry_after: bool
    body: bytes
    seconds: float  # since it was due


class Server:
    """A process of `vgg serve`."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-m", "vggnet", "serve", model, "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.process.stdout.readline())
        assert found is not None
        self.port = int(found[1])

    def memory(self) -> int:
        """Bytes in use by the process and those that it has started; shared pages count once."""
        processes = [self.process.pid, *_children(self.process.pid)]
        lines = (line for process in processes for line in _memory(process) if line.startswith("Pss:"))
        return sum(1024 * int(line.split()[1]) for line in lines)

    async def ask(self, image: bytes, due: float | None = None) -> Answer:
        """Send an image to /predict."""
        start = time.perf_counter() if due is None else due
        body = BEFORE + image + AFTER
        head = (
            "POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: multipart/form-data; boundary=limit\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(head.encode() + body)
                received = await reader.read()
                writer.close()
        except OSError:
            received = b""
        headers, _, payload = received.partition(b"\r\n\r\n")
        status = int(headers.split()[1]) if headers else 0
        return Answer(status, b"retry-after" in headers.lower(), payload, time.perf_counter() - start)


def main(
    model: Positional[str], photo: Positional[Path], seconds: float = 20.0, bodies: int = 2000, seed: int = 0
) -> None:
    """Measure, and print one JSON object.

    Args:
        model: what `vgg serve` takes.
        photo: an image file that is sent.
        seconds: of each load.
        bodies: hostile images.
        seed: of the times of requests, and of the hostile images.
    """
    image, server = photo.read_bytes(), Server(model)
    try:
        found = {"model": model, "images_per_second_loop": _loop(model, seconds / 4)}
        found |= asyncio.run(_measure(server, model, image, seconds, bodies, seed))
        server.process.terminate()
        found["exit_code"] = server.process.wait(PATIENCE)
    finally:
        server.process.kill()
    print(to_json(found))


async def _measure(server: Server, model: str, image: bytes, seconds: float, bodies: int, seed: int) -> dict[str, Any]:
    expected = vggnet.predict(model, [image], device="cpu")[0]
    assert isinstance(expected, Prediction)
    is_right = _checker(expected.probabilities)
    alone = [(await server.ask(image)).seconds for _ in range(30)][10:]
    answers = await _closed_loop(server, image, seconds)
    rate = len(answers) / seconds
    half = await _open_loop(server, image, rate / 2, seconds, seed)
    before = server.memory()
    answers = await _open_loop(server, image, 10 * rate, seconds, seed)
    peak, start = server.memory(), time.perf_counter()
    while (await server.ask(image)).status != 200:
        pass
    ready = time.perf_counter() - start
    hostile, beside = await _hostile(server, image, bodies, seed)
    served = [answer for answer in answers if answer.status == 200]
    return {
        "ms_alone": 1e3 * median(alone),
        "images_per_second": rate,
        "all_right": all(map(is_right, answers)),
        "half_load": {
            "ms_median": _percentile(half, 50),
            "ms_p99": _percentile(half, 99),
            "statuses": _statuses(half),
            "all_right": all(map(is_right, half)),
        },
        "ten_times": {
            "requests": len(answers),
            "statuses": _statuses(answers),
            "served_right": all(map(is_right, served)),
            "refused_with_retry_after": all(one.retry_after for one in answers if one.status == 503),
            "served_ms_p99": _percentile(served, 99),
            "memory_mb": [round(before / 1e6), round(peak / 1e6)],
            "seconds_until_ready": ready,
        },
        "hostile": {
            "statuses": _statuses(hostile),
            "slowest_seconds": max(one.seconds for one in hostile),
            "each_4xx_has_a_message": all("error" in json.loads(one.body) for one in hostile if one.status != 200),
            "good_beside": len(beside),
            "good_beside_right": all(map(is_right, beside)),
        },
    }


async def _closed_loop(server: Server, image: bytes, seconds: float) -> list[Answer]:
    """As many requests as are answered, from 2 BATCH senders that each wait for their answers."""
    answers: list[Answer] = []
    end = time.perf_counter() + seconds

    async def sender() -> None:
        while time.perf_counter() < end:
            answers.append(await server.ask(image))

    await asyncio.gather(*(sender() for _ in range(2 * BATCH)))
    return answers


async def _open_loop(server: Server, image: bytes, rate: float, seconds: float, seed: int) -> list[Answer]:
    """Requests at random times, `rate` a second in the mean, whatever the server does."""
    times, start, tasks = random.Random(seed), time.perf_counter(), []
    due = start
    while (due := due + times.expovariate(rate)) < start + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(server.ask(image, due)))
    return await asyncio.gather(*tasks)


async def _hostile(server: Server, image: bytes, bodies: int, seed: int) -> tuple[list[Answer], list[Answer]]:
    """Hostile images, eight at a time, and a good one after every twentieth."""
    hostile: list[Answer] = []
    beside: list[Answer] = []
    queue = list(enumerate(hostile_images(bodies, seed)))[::-1]

    async def sender() -> None:
        while queue:
            number, body = queue.pop()
            hostile.append(await server.ask(body))
            if number % 20 == 0:
                beside.append(await server.ask(image))

    await asyncio.gather(*(sender() for _ in range(8)))
    return hostile, beside


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


def _loop(model: str, seconds: float) -> float:
    """Images a second of the network alone."""
    opened = open_model(model, device="cpu")
    preprocess = opened.preprocess
    inputs = torch.zeros(BATCH, preprocess.in_channels, preprocess.crop, preprocess.crop)
    with inference_mode(opened.network):
        for _ in range(20):
            opened.network(inputs)
        images, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            opened.network(inputs)
            images += BATCH
    return images / (time.perf_counter() - start)


def _checker(expected: Sequence[float]) -> Callable[[Answer], bool]:
    def is_right(answer: Answer) -> bool:
        if answer.status != 200:
            return False
        found = json.loads(answer.body)["predictions"][0]["probabilities"]
        return bool(np.allclose(found, expected, rtol=0, atol=1e-5))

    return is_right


def _percentile(answers: Sequence[Answer], percent: int) -> float:
    return 1e3 * float(np.percentile([answer.seconds for answer in answers], percent))


def _statuses(answers: Sequence[Answer]) -> dict[int, int]:
    return dict(sorted(Counter(answer.status for answer in answers).items()))


def _memory(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it has ended
        return []


def _children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task")
    lists = (task / "children" for task in path.iterdir())
    found = [int(child) for file in lists for child in file.read_text(encoding="ascii").split()]
    return [one for child in found for one in (child, *_children(child))]


if __name__ == "__main__":
    page.run(main)
