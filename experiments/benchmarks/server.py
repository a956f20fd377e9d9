"""A process of `vgg serve`, and clients that measure it."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

PATIENCE = 60.0  # seconds for an answer, twice the server's deadline
PART = b'--limit\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'


def request_of(images: Sequence[bytes], connection: str) -> bytes:
    """A request of /predict with these files."""
    body = b"".join(PART + image + b"\r\n" for image in images) + b"--limit--\r\n"
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n"
        f"Content-Type: multipart/form-data; boundary=limit\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def inference_request(model: str, inputs: NDArray[np.float32]) -> bytes:
    """A request of the Open Inference Protocol with a binary tensor (N, C, H, W), for binary probabilities."""
    size = {"binary_data_size": inputs.nbytes}
    tensor = {"name": "input", "datatype": "FP32", "shape": inputs.shape, "parameters": size}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = (
        f"POST /v2/models/{quote(model)}/infer HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n"
        f"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {len(text)}\r\n"
        f"Content-Length: {len(text) + inputs.nbytes}\r\n\r\n"
    )
    return head.encode() + text + inputs.astype("<f4").tobytes()


class Answer(NamedTuple):
    """What a request got."""

    status: int  # 0 if the connection was lost
    retry_after: bool
    body: bytes
    seconds: float  # since it was due


class Server:
    """A process of `vgg serve` on the CPU."""

    def __init__(self, model: str, precision: str) -> None:
        options = ["--port", "0", "--device", "cpu", "--precision", precision]
        command = [sys.executable, "-m", "vggnet", "serve", model, *options]
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
        return await self.send(request_of([image], "close"), due)

    async def send(self, request: bytes, due: float | None = None) -> Answer:
        """Send bytes by a connection of their own, and read until the server closes it."""
        start = time.perf_counter() if due is None else due
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(request)
                received = await reader.read()
                writer.close()
        except OSError as error:
            received = f"{type(error).__name__}".encode()
        return _answer(received, start)


class Senders:
    """Connections to a server that are kept.

    Args:
        server: that answers.
        request: what each asks.
    """

    def __init__(self, server: Server, request: bytes) -> None:
        self._server, self._request = server, request
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, due: float | None = None) -> Answer:
        """Send a request by a connection that is free, or by a new one."""
        start = time.perf_counter() if due is None else due
        try:
            async with asyncio.timeout(PATIENCE):
                received = await self._ask()
        except (OSError, EOFError) as error:
            received = f"{type(error).__name__}".encode()
        return _answer(received, start)

    async def _ask(self) -> bytes:
        while self._free and self._free[-1][0].at_eof():
            self._free.pop()[1].close()
        if self._free:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        assert length is not None
        received = head + await reader.readexactly(int(length[1]))
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self._free.append((reader, writer))
        return received


def _answer(received: bytes, start: float) -> Answer:
    headers, _, payload = received.partition(b"\r\n\r\n")
    status = int(headers.split()[1]) if headers.startswith(b"HTTP/") else 0
    return Answer(status, b"retry-after" in headers.lower(), payload or headers, time.perf_counter() - start)


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
