"""`vgg serve` under load: throughput, latency, ten times too much, hostile images. Client and server share a machine.

python -m experiments.benchmarks.serving MODEL PHOTO [--parts load overload hostile]

The server is a process of `vgg serve` with its default limits. "loop" is the network alone, in batches of 16, in one
process, measured before and after the load. The load comes from senders that keep their connections; in the overload
and among the hostile images each request has a connection of its own. Latency is counted from the moment at which a
request was due (open loop), so that waiting counts. A row is added to serving.jsonl.
"""

import asyncio
import io
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from tyro.conf import Positional

import vggnet
from experiments import page
from experiments.rows import append_row
from vggnet.devices import environment
from vggnet.report.text import to_json
from vggnet.tasks.results import Prediction
from vggnet.weights.checkpoint import inference_mode, open_model

BATCH = 16
PART = b'--limit\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
ROWS = Path(__file__).with_name("serving.jsonl")
PATIENCE = 60.0  # seconds for an answer, twice the server's deadline


Part = Literal["load", "overload", "hostile"]


class Answer(NamedTuple):
    """What a request got."""

    status: int  # 0 if the connection was lost
    retry_after: bool
    body: bytes
    seconds: float  # since it was due


IsRight = Callable[[Answer], bool]


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

    def processor(self) -> float:
        """Seconds of processors that it and the processes that it has started have used."""
        return sum(map(_processor, [self.process.pid, *_children(self.process.pid)]))

    async def ask(self, image: bytes, due: float | None = None) -> Answer:
        """Send an image to /predict by a connection of its own."""
        start = time.perf_counter() if due is None else due
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(_request([image], "close"))
                received = await reader.read()
                writer.close()
        except OSError as error:
            received = f"{type(error).__name__}".encode()
        return _answer(received, start)


class Senders:
    """Connections to a server that are kept.

    Args:
        server: that answers.
        images: of each request.
    """

    def __init__(self, server: Server, images: Sequence[bytes]) -> None:
        self._server, self._request = server, _request(images, "keep-alive")
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, due: float | None = None) -> Answer:
        """Send a request by a connection that is free, or by a new one."""
        start = time.perf_counter() if due is None else due
        while self._free and self._free[-1][0].at_eof():
            self._free.pop()
        if self._free:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        answer = _answer(head + await reader.readexactly(int(length[1])), start)
        self._free.append((reader, writer))
        return answer


def _request(images: Sequence[bytes], connection: str) -> bytes:
    body = b"".join(PART + image + b"\r\n" for image in images) + b"--limit--\r\n"
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n"
        f"Content-Type: multipart/form-data; boundary=limit\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _answer(received: bytes, start: float) -> Answer:
    headers, _, payload = received.partition(b"\r\n\r\n")
    status = int(headers.split()[1]) if headers.startswith(b"HTTP/") else 0
    return Answer(status, b"retry-after" in headers.lower(), payload or headers, time.perf_counter() - start)


def main(
    model: Positional[str],
    photo: Positional[Path],
    seconds: float = 20.0,
    bodies: int = 2000,
    rate: float | None = None,
    seed: int = 0,
    parts: tuple[Part, ...] = ("load", "overload", "hostile"),
    rows: Path = ROWS,
) -> None:
    """Measure, and add a row.

    Args:
        model: what `vgg serve` takes.
        photo: an image file that is sent.
        seconds: of each load.
        bodies: hostile images.
        rate: sustainable images a second; by default measured by the part "load".
        seed: of the times of requests, and of the hostile images.
        parts: what is measured.
        rows: the file of rows.
    """
    image, server = photo.read_bytes(), Server(model)
    found: dict[str, Any] = {"model": model, "photo_bytes": len(image), "seconds": seconds, "rate": rate}
    try:
        found |= asyncio.run(_measure(server, model, image, seconds, bodies, seed, parts, rate))
        server.process.terminate()
        found["exit_code"] = server.process.wait(PATIENCE)
    finally:
        server.process.kill()
    found["environment"] = environment(torch.device("cpu"))
    append_row(rows, found)
    print(to_json(found))


async def _measure(
    server: Server,
    model: str,
    image: bytes,
    seconds: float,
    bodies: int,
    seed: int,
    parts: Sequence[Part],
    rate: float | None,
) -> dict[str, Any]:
    expected = vggnet.predict(model, [image], device="cpu")[0]
    assert isinstance(expected, Prediction)
    is_right = _checker(expected.probabilities)
    found: dict[str, Any] = {}
    if "load" in parts:
        found["load"] = await _load(server, model, image, seconds, seed, is_right)
        rate = rate or found["load"]["one"]["images_per_second"]
    if "overload" in parts:
        assert rate is not None
        found["overload"] = await _overload(server, image, 10 * rate, seconds, seed, is_right)
    if "hostile" in parts:
        hostile, beside = await _hostile(server, image, bodies, seed)
        found["hostile"] = {
            "statuses": _statuses(hostile),
            "slowest_seconds": max(one.seconds for one in hostile),
            "each_4xx_has_a_message": all(_error_of(one) for one in hostile if one.status != 200),
            "good_beside": len(beside),
            "good_beside_right": all(map(is_right, beside)),
        }
    return found


async def _load(
    server: Server, model: str, image: bytes, seconds: float, seed: int, is_right: IsRight
) -> dict[str, Any]:
    """Throughput with one and with 16 images a request, and latency at half of the load with one."""
    one, many = Senders(server, [image]), Senders(server, [image] * BATCH)
    found: dict[str, Any] = {"loop_before": _loop(model, seconds / 4)}
    await _closed_loop(one, 2.0, 2 * BATCH)
    for name, senders, images, count in (("one", one, 1, 2 * BATCH), ("many", many, BATCH, 3)):
        before = server.processor()
        answers, took = await _closed_loop(senders, seconds, count)
        images *= len(answers)
        found[name] = {
            "images_per_second": images / took,
            "server_processor_ms": 1e3 * (server.processor() - before) / images,
            "statuses": _statuses(answers),
            "all_right": all(map(is_right, answers)),
        }
    found["loop_after"] = _loop(model, seconds / 4)
    alone = [(await one.ask()).seconds for _ in range(60)][10:]
    half = await _open_loop(one.ask, found["one"]["images_per_second"] / 2, seconds, seed)
    found["half_load"] = {
        "ms_alone_median": 1e3 * median(alone),
        "ms_median": _percentile(half, 50),
        "ms_p99": _percentile(half, 99),
        "statuses": _statuses(half),
        "all_right": all(map(is_right, half)),
    }
    return found


async def _overload(
    server: Server, image: bytes, rate: float, seconds: float, seed: int, is_right: IsRight
) -> dict[str, Any]:
    before, peaks = server.memory(), [0]

    async def watch() -> None:
        while True:
            peaks.append(server.memory())
            await asyncio.sleep(2)

    watcher = asyncio.create_task(watch())
    answers = await _open_loop(lambda due: server.ask(image, due), rate, seconds, seed)
    watcher.cancel()
    start = time.perf_counter()
    while (await server.ask(image)).status != 200:
        pass
    served = [answer for answer in answers if answer.status == 200]
    return {
        "requests": len(answers),
        "requests_per_second": {"wanted": rate, "sent": len(answers) / seconds},
        "statuses": _statuses(answers),
        "lost": dict(Counter(answer.body.decode()[:40] for answer in answers if answer.status == 0)),
        "served_right": all(map(is_right, served)),
        "refused_with_retry_after": all(one.retry_after for one in answers if one.status == 503),
        "served_ms_p99": _percentile(served, 99),
        "memory_mb": {"before": round(before / 1e6), "peak": round(max(peaks) / 1e6)},
        "seconds_until_ready": time.perf_counter() - start,
    }


async def _closed_loop(senders: Senders, seconds: float, count: int) -> tuple[list[Answer], float]:
    """As many requests as are answered to `count` senders that each wait for their answers, and the seconds."""
    answers: list[Answer] = []
    start = time.perf_counter()

    async def sender() -> None:
        while time.perf_counter() < start + seconds:
            answers.append(await senders.ask())

    await asyncio.gather(*(sender() for _ in range(count)))
    return answers, time.perf_counter() - start


async def _open_loop(ask: Callable[[float], Awaitable[Answer]], rate: float, seconds: float, seed: int) -> list[Answer]:
    """Requests at random times, `rate` a second in the mean, whatever the server does; fewer where this process lags."""
    times, start, tasks = random.Random(seed), time.perf_counter(), []
    due = start
    while (due := due + times.expovariate(rate)) < start + seconds > time.perf_counter():
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask(due)))
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
        found = [one["probabilities"] for one in json.loads(answer.body)["predictions"]]
        return bool(np.allclose(found, expected, rtol=0, atol=1e-5))

    return is_right


def _percentile(answers: Sequence[Answer], percent: int) -> float:
    return 1e3 * float(np.percentile([answer.seconds for answer in answers], percent))


def _statuses(answers: Sequence[Answer]) -> dict[int, int]:
    return dict(sorted(Counter(answer.status for answer in answers).items()))


def _error_of(answer: Answer) -> str:
    """The message of a refusal; empty if there is none."""
    try:
        return str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def _processor(process: int) -> float:
    """Seconds."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
