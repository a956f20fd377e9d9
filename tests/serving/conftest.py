"""Tiny networks, pictures, and servers of them."""

import io
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from vggnet.data.preprocess import Preprocess
from vggnet.features.retrieval import build_index
from vggnet.models.vgg import build
from vggnet.serving.app import create_app
from vggnet.serving.limits import Limits
from vggnet.serving.run_server import make_server
from vggnet.serving.service import open_service
from vggnet.weights.checkpoint import save

CLASSES = ["cat", "dog", "owl"]


def encoded(seed=0, kind="PNG", size=(60, 48), mode="RGB"):
    """The bytes of a picture file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def save_network(path, seed=0, classes=CLASSES, preprocess=None, **options):
    torch.manual_seed(seed)
    preprocess = preprocess or Preprocess(resize=40, crop=32)
    options = {
        "num_classes": len(classes),
        "head": "gap",
        "width": 0.05,
        "in_channels": preprocess.in_channels,
    } | options
    save(build("vgg11_bn", **options), path, classes=classes, preprocess=preprocess)
    return path


@pytest.fixture(scope="package")
def sources(tmp_path_factory):
    """A run folder, a gray network in a file, and one without a head."""
    folder = tmp_path_factory.mktemp("models")
    run = save_network(folder / "mine" / "weights.safetensors").parent
    gray = save_network(
        folder / "gray.safetensors", 1, preprocess=Preprocess(resize=32, crop=32, mean=(0.4,), std=(0.2,))
    )
    bare = save_network(folder / "bare.safetensors", 2, classes=[], head="none", num_classes=0)
    return [run, gray, bare]


@pytest.fixture(scope="package")
def photos(tmp_path_factory):
    """Files of an index, in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        file = folder / f"{number % 2}" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded(number))
    return folder


@pytest.fixture(scope="package")
def index(sources, photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "index.safetensors"
    build_index(sources[0], photos, path, layers=["relu4_2", "relu5_2"])
    return path


@pytest.fixture(scope="package")
def service(sources, index):
    """Without batching."""
    with open_service(sources, index=index, device="cpu", limits=Limits(max_batch=1, max_images=4)) as opened:
        yield opened


@pytest.fixture(scope="package")
def client(service):
    with TestClient(create_app(service)) as connected:
        yield connected


@contextmanager
def listening(service):
    """A server in a thread of this process; its host and port."""
    listener, started = socket.socket(), threading.Event()
    listener.bind(("127.0.0.1", 0))
    server = make_server(service, "127.0.0.1", started=started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert started.wait(60)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="package")
def address(service):
    with listening(service) as found:
        yield found


def upload(*files):
    """The form of a request."""
    return {"files": [("image", ("photo", file)) for file in files]}
