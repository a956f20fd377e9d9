"""The limits that every request passes, by messages of ASGI made by hand."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from vggnet.serving.gate import Gate
from vggnet.serving.limits import Limits
from vggnet.serving.telemetry import Telemetry

NEVER = object()
ORDINARY = {"max_body": 10, "max_held": 15, "body_timeout": 60, "timeout": 60}


def ask(*chunks, path="/x", headers=(), app=None, hosts=None, api_key=None, others=0, working=0, **limits):
    """Send the chunks of a body; returns status, headers, and the JSON of the answer. NEVER: nothing comes any more."""
    telemetry, sent, messages = Telemetry(), [], []
    for number, chunk in enumerate(chunks or (b"",), start=1):
        messages.append(chunk if chunk is NEVER else message(chunk, number < len(chunks)))
    service = SimpleNamespace(limits=Limits(**(ORDINARY | limits)), telemetry=telemetry, api_key=api_key)

    async def receive():
        if not messages or messages[0] is NEVER:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(part):
        sent.append(part)

    async def main():
        gate = Gate(app or echo, service, hosts)
        gate.hold(others)
        gate._working = working
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]
        scope = {"type": "http", "method": "POST", "path": path, "headers": raw, "query_string": b""}
        await gate(scope, receive, send)
        assert (gate._held, gate._working) == (others, working)

    asyncio.run(main())
    start, *bodies = sent
    names = {name.decode(): value.decode() for name, value in start["headers"]}
    assert f'vggnet_requests_total{{endpoint="other",status="{start["status"]}"}} 1.0' in telemetry.text()
    return start["status"], names, json.loads(b"".join(part.get("body", b"") for part in bodies))


def message(chunk, more):
    return chunk if isinstance(chunk, dict) else {"type": "http.request", "body": chunk, "more_body": more}


async def echo(scope, receive, send):
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(body.decode()).encode()})


async def stuck(scope, receive, send):
    await asyncio.Event().wait()


def test_a_request_arrives_as_a_whole():
    status, headers, body = ask(b"01234", b"56789")
    assert (status, body) == (200, "0123456789")
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]


def test_a_body_that_is_too_large():
    """The rest is read, so that the sender comes to read the answer; of an endless one the connection is closed."""
    status, headers, body = ask(b"0123456789", b"0", b"1")
    assert (status, body["error"]) == (413, "the body has more than 10 bytes, the limit of this server.")
    assert "connection" not in headers
    status, headers, _ = ask(b"0123456789", b"0" * 70_000_000, b"rest")
    assert (status, headers["connection"]) == (413, "close")


def test_a_sender_that_is_too_slow():
    status, headers, body = ask(b"0", NEVER, body_timeout=0.01)
    assert (status, headers["connection"]) == (408, "close")
    assert "did not arrive within 0.01 s" in body["error"]


def test_an_answer_that_takes_too_long():
    status, _, body = ask(b"0", app=stuck, timeout=0.01)
    assert (status, body["error"]) == (504, "the answer took longer than 0.01 s.")


def test_work_ends_when_the_sender_is_gone():
    cancelled = []

    async def noting(scope, receive, send):
        try:
            await stuck(scope, receive, send)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(ValueError, match="not enough values"):  # there is no answer
        ask(message(b"0", False), {"type": "http.disconnect"}, app=noting)
    assert cancelled == [True]


def test_requests_that_fill_the_memory():
    status, headers, body = ask(b"012345", others=10)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "fill the memory" in body["error"]
    assert ask(b"01234", others=10)[0] == 200


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("/predict", (), 401),
        ("/predict", (("Authorization", "Bearer wrong"),), 401),
        ("/predict", (("Authorization", "Bearer schlüssel"),), 200),
        ("/metrics", (("Authorization", "schlüssel"),), 401),
        ("/v2/health/ready", (), 200),
    ],
)
def test_the_key(path, given, status):
    found, headers, _ = ask(path=path, headers=given, api_key="schlüssel")
    assert found == status
    assert headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("[::1]:8000", 200), ("[::1]", 200), ("rebound.example:8000", 400), ("", 400)],
)
def test_hosts(host, status):
    """A page of a browser that reaches this machine by a name of its own is refused."""
    assert ask(headers=[("Host", host)], hosts=("localhost", "[::1]"))[0] == status


def test_a_compressed_body():
    assert ask(b"0", headers=[("Content-Encoding", "gzip")])[0] == 415


def test_headers_that_are_too_large():
    assert ask(headers=[("X", "x" * 16_000)])[0] == 200
    assert ask(headers=[("X", "x" * 8_200), ("Y", "y" * 8_200)])[0] == 431


def test_too_many_requests():
    status, headers, body = ask(working=2, max_requests=2)
    assert (status, headers["retry-after"]) == (503, "1")
    assert body["error"] == "the server works on 2 requests; try again in 1 s."
    assert ask(working=1, max_requests=2)[0] == 200
