"""`vgg serve` under load: throughput, latency, ten times too much, hostile images. Client and server share a machine.

python -m experiments.benchmarks.serving MODEL PHOTO [--parts load overload hostile]

The server is a process of `vgg serve` with its default limits. "loop" is the network alone, in batches of 16 that are
preprocessed, in one process, measured before and after the load; "file_loop" also decodes each image. "tensors" asks
for what "loop" does, by requests of the Open Inference Protocol with 16 preprocessed images. "one" and "many" send 1
and 16 image files, which the server also decodes. The load and the overload come from senders that keep their
connections; among the hostile images each request has a connection of its own. Latency is counted from the moment at
which a request was due (open loop), so that waiting counts; the gaps between requests are all the same, or exponential.
A row is added to serving.jsonl, and the page is written anew.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tyro.conf import Positional

import vggnet
from experiments import page
from experiments.benchmarks.hostile import hostile_requests
from experiments.benchmarks.server import PATIENCE, Answer, Senders, Server, inference_request, request_of
from experiments.benchmarks.serving_page import write_page
from experiments.rows import append_row
from vggnet.accel.precision import allowed_precision, products_in
from vggnet.data.decoding import decode_image
from vggnet.devices import environment
from vggnet.errors import ConfigError
from vggnet.models.vgg import VGG
from vggnet.report.text import to_json
from vggnet.serving.served_model import model_name
from vggnet.tasks.class_prediction import class_logits
from vggnet.tasks.results import Prediction
from vggnet.weights.checkpoint import OpenModel, inference_mode, open_model

BATCH = 16
ROWS = Path(__file__).with_name("serving.jsonl")


Part = Literal["load", "overload", "hostile"]


IsRight = Callable[[Answer], bool]
Gap = Callable[[float], float]  # requests a second -> seconds from one to the next


def main(
    model: Positional[str | None] = None,
    photo: Positional[Path | None] = None,
    seconds: float = 20.0,
    bodies: int = 2000,
    rate: float | None = None,
    seed: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
    note: str = "",
    parts: tuple[Part, ...] = ("load", "overload", "hostile"),
    rows: Path = ROWS,
) -> None:
    """Measure, add a row, and write the page.

    Args:
        model: what `vgg serve` takes; without it the page is written from the rows.
        photo: an image file that is sent.
        seconds: of each load.
        bodies: hostile images.
        rate: sustainable images a second; by default measured by the part "load".
        seed: of the times of requests, and of the hostile images.
        precision: of the server and of the loop.
        note: what else the machine did.
        parts: what is measured.
        rows: the file of rows.
    """
    if model is not None:
        if photo is None:
            raise ConfigError("a server is asked about an image file. Give one behind the model.")
        found = _measured(model, photo.read_bytes(), seconds, bodies, rate, seed, precision, parts) | {"note": note}
        append_row(rows, found)
        print(to_json(found))
    write_page(rows)


def _measured(
    model: str,
    image: bytes,
    seconds: float,
    bodies: int,
    rate: float | None,
    seed: int,
    precision: Literal["float32", "bfloat16"],
    parts: Sequence[Part],
) -> dict[str, Any]:
    server = Server(model, precision)
    found: dict[str, Any] = {"model": model, "precision": precision, "photo_bytes": len(image), "seconds": seconds}
    try:
        with products_in(precision):
            found |= asyncio.run(_measure(server, model, image, seconds, bodies, seed, parts, rate))
        server.process.terminate()
        found["exit_code"] = server.process.wait(PATIENCE)
    finally:
        server.process.kill()
    return {**found, "environment": environment(torch.device("cpu"))}


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
    found: dict[str, Any] = {"rate": rate}
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
    """Throughput by requests of three kinds, and latency at half of the load with one image each."""
    opened = open_model(model, device="cpu")
    inputs = torch.stack([opened.preprocess(decode_image(image))] * BATCH)
    one = Senders(server, request_of([image], "keep-alive"))
    many = Senders(server, request_of([image] * BATCH, "keep-alive"))
    tensors = Senders(server, inference_request(model_name(model), inputs.numpy()))
    has_right_values = _value_checker(class_logits(opened, inputs).softmax(1).float().numpy())
    loads = (
        ("one", one, 1, 2 * BATCH, is_right),
        ("many", many, BATCH, 3, is_right),
        ("tensors", tensors, BATCH, 3, has_right_values),
    )
    found: dict[str, Any] = {
        "loop_before": _loop(opened.network, inputs, seconds / 4),
        "file_loop_before": _file_loop(opened, image, seconds / 4),
    }
    await _closed_loop(one, 2.0, 2 * BATCH)
    for name, senders, images, count, check in loads:
        before = server.processor()
        answers, took = await _closed_loop(senders, seconds, count)
        images *= len(answers)
        found[name] = {
            "images_per_second": images / took,
            "server_processor_ms": 1e3 * (server.processor() - before) / images,
            "statuses": _statuses(answers),
            "all_right": all(map(check, answers)),
        }
    found["loop_after"] = _loop(opened.network, inputs, seconds / 4)
    found["file_loop_after"] = _file_loop(opened, image, seconds / 4)
    alone = [(await one.ask()).seconds for _ in range(60)][10:]
    found["half_load"] = {"ms_alone_median": 1e3 * median(alone)}
    gaps: dict[str, Gap] = {"regular": lambda rate: 1 / rate, "random": random.Random(seed).expovariate}
    for name, gap in gaps.items():
        half = await _open_loop(one.ask, found["one"]["images_per_second"] / 2, seconds, gap)
        found["half_load"][name] = {
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
    senders = Senders(server, request_of([image], "keep-alive"))
    answers = await _open_loop(senders.ask, rate, seconds, random.Random(seed).expovariate)
    watcher.cancel()
    start = time.perf_counter()
    while (await server.ask(image)).status != 200:
        pass
    served = [answer for answer in answers if answer.status == 200]
    return {
        "requests": len(answers),
        "connections": "kept",
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


async def _open_loop(ask: Callable[[float], Awaitable[Answer]], rate: float, seconds: float, gap: Gap) -> list[Answer]:
    """Requests at their times, `rate` a second in the mean, whatever the server does, or as many as can be sent."""
    start, tasks = time.perf_counter(), []
    due = start
    while (due := due + gap(rate)) < start + seconds > time.perf_counter():
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask(due)))
    return await asyncio.gather(*tasks)


async def _hostile(server: Server, image: bytes, bodies: int, seed: int) -> tuple[list[Answer], list[Answer]]:
    """Hostile requests, eight at a time, and a good one after every twentieth; some senders never end theirs."""
    hostile: list[Answer] = []
    beside: list[Answer] = []
    queue = list(enumerate(hostile_requests(image, bodies, seed)))[::-1]

    async def sender() -> None:
        while queue:
            number, request = queue.pop()
            hostile.append(await server.send(request))
            if number % 20 == 0:
                beside.append(await server.ask(image))

    good = request_of([image], "close")
    slow = (server.send(good[:length]) for length in (20, 100, 250, len(good) - 1))
    ended, _ = await asyncio.gather(asyncio.gather(*slow), asyncio.gather(*(sender() for _ in range(8))))
    return [*hostile, *ended], beside


def _loop(network: VGG, inputs: Tensor, seconds: float) -> float:
    """Images a second of the network alone."""
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    with inference_mode(network):
        for _ in range(20):
            network(inputs)
        images, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            network(inputs)
            images += len(inputs)
    return images / (time.perf_counter() - start)


def _file_loop(opened: OpenModel, image: bytes, seconds: float) -> float:
    """Images a second where each is decoded before the network gets its batch."""
    images, start = 0, time.perf_counter()
    with inference_mode(opened.network):
        while time.perf_counter() < start + seconds:
            inputs = torch.stack([opened.preprocess(decode_image(image)) for _ in range(BATCH)])
            opened.network(inputs.contiguous(memory_format=torch.channels_last))
            images += BATCH
    return images / (time.perf_counter() - start)


def _checker(expected: Sequence[float]) -> Callable[[Answer], bool]:
    def is_right(answer: Answer) -> bool:
        if answer.status != 200:
            return False
        found = [one["probabilities"] for one in json.loads(answer.body)["predictions"]]
        return bool(np.allclose(found, expected, rtol=0, atol=_tolerance()))

    return is_right


def _value_checker(expected: NDArray[np.float32]) -> IsRight:
    def is_right(answer: Answer) -> bool:
        if answer.status != 200:
            return False
        found = np.frombuffer(answer.body[-expected.nbytes :], "<f4").reshape(expected.shape)
        return bool(np.allclose(found, expected, rtol=0, atol=_tolerance()))

    return is_right


def _tolerance() -> float:
    """Of probabilities that were computed in batches of other sizes."""
    return 1e-5 if allowed_precision() == "float32" else 1e-2


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


if __name__ == "__main__":
    page.run(main)
