"""The hub: against a local server that speaks enough of its protocol, and against a port where nobody listens."""

import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from vggnet.data.opening import open_source
from vggnet.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import json, sys
from pathlib import Path
from vggnet.data.parquet import hub_splits, open_hub
from vggnet.errors import DataError

for spec in sys.argv[1:]:
    dataset_id, split = spec.split(":")
    try:
        source = open_hub(dataset_id, split)
        colours = [source.read(i).getpixel((0, 0)) for i in range(len(source))]
        print(json.dumps([source.classes, source.labels.tolist(), colours, hub_splits(dataset_id)]))
    except DataError as error:
        print(json.dumps(str(error)))
"""


def parquet_bytes(colours, labels):
    images = []
    for colour in colours:
        stream = io.BytesIO()
        Image.new("RGB", (4, 4), tuple(colour)).save(stream, "PNG")
        images.append({"bytes": stream.getvalue(), "path": None})
    image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    stream = io.BytesIO()
    columns = {"img": pyarrow.array(images, type=image_type), "label": labels}
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


TRAIN, TEST = [[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[1, 2, 3], [4, 5, 6]]
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "data/train-00000-of-00001.parquet": parquet_bytes(TRAIN, ["dog", "cat", "dog"]),
    "data/test-00000-of-00001.parquet": parquet_bytes(TEST, ["cat", "dog"]),
}


class Hub(http.server.BaseHTTPRequestHandler):
    """One public data set, some/pictures; everything else does not exist."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        file = path.removeprefix(f"/datasets/some/pictures/resolve/{COMMIT}/")
        file = file.removeprefix("/datasets/some/pictures/resolve/main/")
        api, _, folder = path.partition(f"/tree/{COMMIT}")
        if file in FILES:
            self.answer(200, FILES[file], {"ETag": f'"{file.replace("/", "-")}"'})
        elif path in ("/api/datasets/some/pictures", f"/api/datasets/some/pictures/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer_json({"id": "some/pictures", "sha": COMMIT, "private": False, "siblings": siblings})
        elif path == f"/api/datasets/some/pictures/paths-info/{COMMIT}":
            self.answer_json([entry for entry in ENTRIES if entry["path"] in body.decode().replace("%2F", "/")])
        elif api == "/api/datasets/some/pictures":
            recursive = "recursive=true" in self.path.lower()
            inside = [e for e in ENTRIES if recursive or e["path"].rpartition("/")[0] == folder.strip("/")]
            self.answer_json(inside)
        else:
            known = path.startswith(("/datasets/some/pictures", "/api/datasets/some/pictures"))
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})

    do_HEAD = do_POST = do_GET  # noqa: N815

    def answer_json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


ENTRIES = [{"type": "directory", "path": "data", "oid": "0" * 40, "size": 0}] + [
    {"type": "file", "path": name, "oid": f"{i:040x}", "size": len(content)}
    for i, (name, content) in enumerate(FILES.items())
]


@pytest.fixture(scope="module")
def hub():
    """The server's address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def nobody():
    """An address that is bound and does not listen: connections are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def run(endpoint, home, *specs, **environment):
    """What a fresh process, with its own cache, makes of each "id:split"; it must be silent otherwise."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *specs],
        env={**inherited, **settings, **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_data_set_from_the_hub(hub, nobody, tmp_path):
    """Oracle: the rows on the server; then, with the hub gone, or offline mode set, the copy in the cache."""
    expected = [
        [["cat", "dog"], [1, 0, 1], TRAIN, ["train", "test"]],
        [["cat", "dog"], [0, 1], TEST, ["train", "test"]],
    ]
    assert run(hub, tmp_path, "some/pictures:train", "some/pictures:test") == expected
    assert run(nobody, tmp_path, "some/pictures:train", HF_HUB_OFFLINE="1") == expected[:1]
    assert run(nobody, tmp_path, "some/pictures:train") == expected[:1]


def test_unknown_id_and_split(hub, tmp_path):
    """Oracle: the contract: the id, what is wrong, what to do; in one line."""
    advice = (
        "It lives at https://huggingface.co/datasets/some/thing. "
        "Put its files train-*.parquet, test-*.parquet in a folder and pass --data FOLDER."
    )
    unknown_id, unknown_split = run(hub, tmp_path, "some/thing:train", "some/pictures:val")
    assert unknown_id == f"some/thing: no such folder, and no such data set on the Hugging Face hub. {advice}"
    assert unknown_split.startswith("some/pictures: cannot be loaded from the Hugging Face hub (")
    assert "val" in unknown_split
    assert "'train', 'test'" in unknown_split
    assert "\n" not in unknown_split


def test_nobody_answers(nobody, tmp_path):
    """Oracle: the contract."""
    (message,) = run(nobody, tmp_path, "some/pictures:train")
    assert message.startswith("some/pictures: no such folder, and the Hugging Face hub could not be reached (")
    assert message.endswith(". Put its files train-*.parquet, test-*.parquet in a folder and pass --data FOLDER.")
    assert "\n" not in message


def test_offline_is_answered_without_a_retry(monkeypatch, tmp_path):
    """Oracle: the number of attempts; the hub's own client would retry for 23 seconds. The advice names the folder."""
    attempts = []

    class Unreachable:
        def dataset_info(self, dataset_id, *, timeout):
            attempts.append((dataset_id, timeout))
            raise ConnectionError("no route\nto host")

    monkeypatch.setattr("vggnet.data.parquet.HfApi", Unreachable)
    monkeypatch.setenv("VGGNET_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        open_source("cifar100", "train")
    assert str(caught.value) == (
        "uoft-cs/cifar100: no such folder, and the Hugging Face hub could not be reached (no route). "
        "It lives at https://huggingface.co/datasets/uoft-cs/cifar100. "
        f"Put its files train-*.parquet, test-*.parquet in {tmp_path / 'cifar100'}."
    )
    assert attempts == [("uoft-cs/cifar100", 5.0)]
