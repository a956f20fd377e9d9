"""A server as a process of its own: what it prints, slow senders, and its end."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from conftest import encoded

from vggnet.cli.main import main

FILE = encoded(1)
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + FILE + b"\r\n--b--\r\n"
)  # fmt: skip
HEAD = (
    "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    f"Content-Length: {len(FORM)}\r\n\r\n"
).encode()

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Server:
    """A process of `vgg serve` that listens."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "vggnet", "serve", *map(str, arguments), "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", self.line)[1])

    def connect(self, sent):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        try:
            connection.sendall(sent)
        except OSError:  # a server that ends has reset it
            connection.close()
            raise
        return connection

    def ask(self, sent):
        """All that comes back until the server closes the connection."""
        return rest(self.connect(sent))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)


def accepts(server):
    """Whether it still listens."""
    try:
        server.connect(b"").close()
    except ConnectionError:
        return False
    return True


def rest(connection):
    received = b""
    while part := connection.recv(1 << 16):
        received += part
    connection.close()
    return received


def is_alive(connection):
    """Whether the server says so, by a connection that stays open."""
    connection.request("GET", "/v2/health/live")
    return json.loads(connection.getresponse().read()) == {"live": True}


@pytest.fixture
def server(sources):
    started = Server(*sources[:2], "--header-timeout", "0.2", "--max-connections", "4", "--max-batch", "1")
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.fixture
def table(sources, tmp_path):
    """What `vgg predict` writes of the file, in a process of its own."""
    (tmp_path / "photo.png").write_bytes(FILE)
    command = [sys.executable, "-m", "vggnet", "predict", sources[0], tmp_path / "photo.png", "--device", "cpu"]
    subprocess.run(list(map(str, [*command, "-o", tmp_path / "out.parquet"])), check=True, capture_output=True)
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    return {name: row[name] for name in ("classes", "probabilities")}


def test_a_server_bends_and_ends(server, table):
    """Slow and broken senders cost no other request its answer; SIGTERM ends it once an accepted one is answered.

    Oracle of an answer, bit for bit: `vgg predict`.
    """
    assert server.line.startswith("serving mine, gray at http://127.0.0.1:")
    pending = server.connect(HEAD + FORM[:-1])
    assert server.ask(b"") == b""  # nothing comes: closed after 0.2 s
    for sent, status, words in (
        (b"GET / HTTP/1.1\r\nHost: loc", 408, "the headers did not arrive within 0.2 s."),
        (b"nonsense\r\n\r\n", 400, "this is not HTTP."),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000, 431, "the headers have more than 16,384 bytes."),
        (b"GET /" + b"x" * 20_000, 431, "the headers have more than 16,384 bytes."),
    ):
        answer = server.ask(sent)
        assert answer.startswith(b"HTTP/1.1 %d" % status)
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": words}
    answer = server.ask(HEAD.replace(b"Host:", b"Connection: close\r\nHost:") + FORM)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"] == [table]
    idle = [server.connect(b"") for _ in range(3)]
    refused = server.ask(b"")
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in refused
    for connection in idle:
        connection.close()
    kept = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(3)]
    assert all(is_alive(connection) for connection in [*kept, *kept[1:]])
    while not server.ask(LIVE).startswith(b"HTTP/1.1 200"):  # until one has waited long enough, and makes room
        pass
    assert kept[0].sock.recv(1) == b""
    assert all(is_alive(connection) for connection in kept[1:])
    for connection in kept:
        connection.close()
    server.stop()
    while accepts(server):
        pass
    pending.sendall(FORM[-1:])
    assert rest(pending).startswith(b"HTTP/1.1 200")
    assert server.process.wait(60) == 0
    assert server.process.stderr.read() == ""


def test_mistakes(capsys, tmp_path):
    """One line and exit code 2, before a model is opened."""
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    for arguments, words in (
        (["--port", "99999"], "port is 99999; expected 0 to 65535"),
        (["--port", port], f"cannot listen at 127.0.0.1, port {port} (Address already in use)"),
        (["--host", "203.0.113.1"], "cannot listen at 203.0.113.1"),
        (["--max-batch", "0"], "max_batch is 0; it must be at least 1"),
        ([str(tmp_path / "none"), "--port", "0"], "no such run folder"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *arguments])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
    taken.close()
