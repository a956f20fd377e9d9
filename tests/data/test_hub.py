"""The hub: against a local server that speaks enough of its protocol, and against a port where nobody listens."""

import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
from typing import ClassVar

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from vggnet.data.sources.opening import open_source
from vggnet.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import json, sys
from pathlib import Path
from vggnet.data.sources.huggingface import hub_splits, open_hub
from vggnet.errors import DataError

for spec in sys.argv[1:]:
    dataset_id, split = spec.split(":")
    try:
        source = open_hub(dataset_id, split)
        colors = [source.read(i).getpixel((0, 0)) for i in range(len(source))]
        print(json.dumps([source.classes, source.labels.tolist(), colors, hub_splits(dataset_id)]))
    except DataError as error:
        print(json.dumps(str(error)))
"""

STREAMING = """
import json, sys
from vggnet.data.sources.opening import open_source, source_splits
from vggnet.errors import DataError

for spec in sys.argv[1:]:
    try:
        source = open_source(f"stream:{spec}", "train")
        color = source.read(len(source) - 1).getpixel((0, 0))
        splits = source_splits(f"stream:{spec}")
        print(json.dumps([source.classes, source.labels.tolist(), color, source.describe(0), splits]))
    except DataError as error:
        print(json.dumps(str(error)))
"""


def parquet_bytes(colors, labels, *, group=None, side=4, **options):
    images = []
    for color in colors:
        stream = io.BytesIO()
        Image.new("RGB", (side, side), tuple(color)).save(stream, "PNG", **options)
        images.append({"bytes": stream.getvalue(), "path": None})
    image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    stream = io.BytesIO()
    columns = {"img": pyarrow.array(images, type=image_type), "label": labels}
    pyarrow.parquet.write_table(pyarrow.table(columns), stream, row_group_size=group, compression="none")
    return stream.getvalue()


TRAIN, TEST = [[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[1, 2, 3], [4, 5, 6]]
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "data/train-00000-of-00001.parquet": parquet_bytes(TRAIN, ["dog", "cat", "dog"]),
    "data/test-00000-of-00001.parquet": parquet_bytes(TEST, ["cat", "dog"]),
}


MANY = [[value, 0, 0] for value in range(200)]
SHARD = parquet_bytes(MANY, ["a", "b"] * 100, group=10, side=64, compress_level=0)  # 2.5 MB
SHARDS = {f"data/train-0000{n}-of-00002.parquet": SHARD for n in range(2)}
TARS = {"train-0.tar": b"", "train-1.tar": b""}
SETS = {"some/pictures": FILES, "some/shards": SHARDS, "some/tars": TARS}


class Hub(http.server.BaseHTTPRequestHandler):
    """The public data sets SETS; everything else does not exist."""

    protocol_version = "HTTP/1.1"
    sent: ClassVar = []  # how many bytes of a file at a time

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        name = next((name for name in SETS if f"/datasets/{name}" in path), "none/such")
        files, entries = SETS.get(name, {}), entries_of(SETS.get(name, {}))
        file = path.removeprefix(f"/datasets/{name}/resolve/{COMMIT}/").removeprefix(f"/datasets/{name}/resolve/main/")
        api, _, folder = path.partition(f"/tree/{COMMIT}")
        if file in files:
            self.answer_file(files[file], f'"{file.replace("/", "-")}"')
        elif path in (f"/api/datasets/{name}", f"/api/datasets/{name}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in files]
            self.answer_json({"id": name, "sha": COMMIT, "private": False, "siblings": siblings})
        elif path == f"/api/datasets/{name}/paths-info/{COMMIT}":
            self.answer_json([entry for entry in entries if entry["path"] in body.decode().replace("%2F", "/")])
        elif api == f"/api/datasets/{name}":
            recursive = "recursive=true" in self.path.lower()
            inside = [e for e in entries if recursive or e["path"].rpartition("/")[0] == folder.strip("/")]
            self.answer_json(inside)
        else:
            known = path.startswith((f"/datasets/{name}", f"/api/datasets/{name}"))
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})

    do_HEAD = do_POST = do_GET  # noqa: N815

    def answer_file(self, content, tag):
        headers = {"ETag": tag}
        if "Range" in self.headers:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        if self.command == "GET":
            self.sent.append(len(content))
        self.answer(206 if "Range" in self.headers else 200, content, headers)

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


def entries_of(files):
    folders = sorted({name.rpartition("/")[0] for name in files} - {""})
    return [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders] + [
        {"type": "file", "path": name, "oid": f"{i:040x}", "size": len(content)}
        for i, (name, content) in enumerate(files.items())
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


def run(endpoint, home, *specs, program=PROGRAM, **environment):
    """What a fresh process, with its own cache, makes of each "id:split"; it must be silent otherwise."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, *specs],
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


def test_streams_from_the_hub(hub, tmp_path):
    """Oracle: the rows on the server, and what it sent: footers, labels and one row group of twenty; none is kept.

    Then the contract for tar files, and for what is not there.
    """
    Hub.sent.clear()
    found, tars, unknown = run(hub, tmp_path, "some/shards", "some/tars", "some/thing", program=STREAMING)
    place = f"hf://datasets/some/shards@{COMMIT}/data/train-00000-of-00002.parquet, row 0"
    assert found == [["a", "b"], [0, 1] * 200, MANY[-1], place, ["train"]]
    assert 0 < sum(Hub.sent) < sum(map(len, SHARDS.values())) / 4
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".parquet", ".arrow")]
    assert tars == "some/tars: its files are .tar; from the hub only parquet is streamed."
    assert unknown.startswith("some/thing: no such folder, and no such data set on the Hugging Face hub.")


def test_unknown_id_and_split(hub, tmp_path):
    """Oracle: the contract: the id, what is wrong, what to do; in one line."""
    advice = (
        "Its page is https://huggingface.co/datasets/some/thing. "
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

    monkeypatch.setattr("vggnet.data.sources.huggingface.HfApi", Unreachable)
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path))
    with pytest.raises(DataError) as caught:
        open_source("cifar100", "train")
    assert str(caught.value) == (
        "uoft-cs/cifar100: no such folder, and the Hugging Face hub could not be reached (no route to host). "
        "Its page is https://huggingface.co/datasets/uoft-cs/cifar100. "
        f"Put its files train-*.parquet, test-*.parquet in {tmp_path / 'data' / 'cifar100'}."
    )
    assert attempts == [("uoft-cs/cifar100", 5.0)]
