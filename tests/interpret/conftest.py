"""A small network with random weights, and pictures for it."""

import numpy as np
import pytest
import torch
from PIL import Image

from vggnet.data.preprocess import Preprocess
from vggnet.models.vgg import build

CLASSES = ("cat", "dog", "ship")


@pytest.fixture
def make_network():
    """By name and options of `build`; in training mode, as nobody has set another."""

    def make(name="vgg11_bn", **options):
        torch.manual_seed(0)
        network = build(name, **{"num_classes": 3, "head": "gap", "width": 0.1, **options})
        network.classes = CLASSES if network.num_classes == 3 else None
        gray = network.architecture.in_channels == 1
        statistics = {"mean": (0.4,), "std": (0.2,)} if gray else {"mean": (0.4, 0.5, 0.3), "std": (0.2, 0.25, 0.3)}
        network.preprocess = Preprocess(resize=40, crop=36, **statistics)
        return network

    return make


@pytest.fixture
def network(make_network):
    return make_network()


@pytest.fixture
def photo():
    """Smooth, so that resizing keeps what is in it."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)


@pytest.fixture
def image(network, photo):
    """The photo as the network takes it, (1, 3, 36, 36)."""
    return network.preprocess(photo).unsqueeze(0)
