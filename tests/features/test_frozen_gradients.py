"""Gradients through frozen features: fast ones against float64, exact ones, and what runs in which case."""

import io
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import nn

import vggnet
from vggnet.data.preprocess import Preprocess
from vggnet.errors import InputError
from vggnet.features.frozen_network import FrozenFeatures, checked_pair
from vggnet.features.perceptual import DISTANCES

FLOWERS = Path(__file__).parents[3] / "shared" / "data" / "flowers17" / "train"
SIZE = 64


@pytest.fixture
def winograd(monkeypatch):
    monkeypatch.setenv("VGGNET_CONV", "winograd4")


@pytest.fixture(params=[
    ("winograd2", None), ("winograd4", None), ("bfloat16x3", None), ("winograd2", torch.bfloat16),
    ("winograd2", torch.float16),
])  # fmt: skip
def autocast(request, monkeypatch):
    """Which precision autocast has, if any. Without it, kernels of ours are used wherever they can be."""
    algorithm, precision = request.param
    monkeypatch.setenv("VGGNET_CONV", algorithm)
    return precision


def pixels(image):
    small = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return torch.from_numpy(small.copy()).permute(2, 0, 1)[None] / 127.5 - 1


def jpeg(image):
    file = io.BytesIO()
    image.resize((SIZE, SIZE)).save(file, "JPEG", quality=20)
    return Image.open(file)


def pairs():
    """Real pairs: other flowers, and the same one blurred, compressed, with a flat part and nearly the same."""
    files = sorted(FLOWERS.rglob("*.jpg"))[::160][:4]
    if not files:
        pytest.skip("../shared/data/flowers17 is not here")
    one, two, three, four = (Image.open(file).convert("RGB") for file in files)
    yield "other", pixels(one), pixels(two)
    yield "blurred", pixels(three), pixels(three.filter(ImageFilter.GaussianBlur(9)))
    yield "compressed", pixels(four), pixels(jpeg(four))
    flat = pixels(one)
    flat[..., :30, 13:] = 1
    flat[..., 40:, :29] = -1
    yield "flat part", flat, pixels(one)
    yield "near", pixels(two), (pixels(two) + 0.01).clamp(-1, 1)


@pytest.fixture(scope="module")
def make(weights):
    def make(name, **options):
        if name == "dists":
            pytest.importorskip("DISTS_pytorch", reason="the package DISTS-pytorch is not installed")
        return DISTANCES[name](weights, **options)

    return make


def gradient(distance, images, others, autocast=None):
    """With the forward pass under autocast, as PyTorch's documentation has it."""
    leaf = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        value = distance(leaf, others).sum()
    return torch.autograd.grad(value, leaf)[0]


@pytest.fixture(scope="module")
def exact_gradients(make):
    """Those of the pairs in float64, by autograd."""

    @cache
    def gradients(name):
        exact = make(name, exact=True).double()
        return [gradient(exact, images.double(), others.double()).flatten() for _, images, others in pairs()]

    return gradients


@pytest.mark.parametrize("name", DISTANCES)
def test_gradients_of_real_pairs(make, exact_gradients, name, autocast):
    """Oracle: autograd in float64: a cosine of at least 0.9999, also under autocast."""
    found = make(name)
    for (kind, images, others), exact in zip(pairs(), exact_gradients(name), strict=True):
        fast = gradient(found, images, others, autocast).double().flatten()
        cosine = F.cosine_similarity(fast, exact, dim=0)
        assert cosine >= 0.9999, (kind, cosine)


@pytest.mark.parametrize("name", DISTANCES)
def test_gradients_of_flat_and_equal_images_are_finite(make, name, autocast):
    """Oracle: by hand: finite; of equal images the distance is 0, whichever of them has a gradient."""
    distance = make(name)
    random = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    black, white, gray = (torch.full((3, 32, 32), value) for value in (-1.0, 1.0, 0.1))
    one, other = map(torch.stack, zip(*product((random, black, white, gray), repeat=2), strict=True))
    found = gradient(distance, one, other, autocast)
    assert found.isfinite().all()
    equal = torch.arange(4) * 5  # the places of an image and itself
    assert found[equal].abs().max() == 0
    leaf = one[equal].requires_grad_()
    assert distance(leaf, other[equal]).abs().max() == distance(other[equal], leaf).abs().max() == 0


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.usefixtures("winograd")
def test_exact_gradients_have_gradients(make, name):
    """Oracle: the difference quotient of the gradient in float64; by default there is PyTorch's error."""
    random = torch.Generator().manual_seed(0)
    one, other, step = (torch.rand(1, 3, 16, 16, generator=random).double() * 2 - 1 for _ in range(3))
    exact = make(name, exact=True).double()
    leaf = one.clone().requires_grad_()
    (first,) = torch.autograd.grad(exact(leaf, other).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * step).sum(), leaf)
    near = [gradient(exact, one + sign * 1e-6 * step, other) for sign in (1, -1)]
    torch.testing.assert_close(second, (near[0] - near[1]) / 2e-6, rtol=1e-3, atol=1e-4 * second.abs().max().item())
    leaf = one.float().requires_grad_()
    (first,) = torch.autograd.grad(make(name)(leaf, other.float()).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (first * step).sum().backward()


def test_replicas_of_data_parallel(make, monkeypatch):
    """Oracle: the distance itself. The replicas have no parameters; copying to devices is replaced, for CPUs."""
    distance = make("lpips")
    module = import_module("torch.nn.parallel.replicate")
    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", lambda found, *_, **__: [[t.clone() for t in found]])
    (replica,) = module.replicate(distance, [0])
    assert not list(replica.parameters())
    random = torch.Generator().manual_seed(0)
    images, others = (torch.rand(1, 3, 32, 32, generator=random) for _ in range(2))
    torch.testing.assert_close(replica(images, others), distance(images, others))


def test_the_range_is_checked_once_on_other_devices():
    """Oracle: by hand: looking at values waits for a GPU; the CPU has no one to wait for."""
    sound, bytes_ = torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 255.0)
    checked = set()
    checked_pair(sound, sound, False, checked)
    assert checked == set()
    with pytest.raises(InputError, match="images / 127.5 - 1"):
        checked_pair(bytes_, sound, False, checked)
    assert checked_pair(bytes_, sound, False, {torch.device("cpu")})[0] is bytes_


def test_pytorchs_operators_run_where_they_should(monkeypatch):
    """Oracle: by hand: exact gradients, and compiled programs, which hold no operator of this package."""
    network = vggnet.create_model("vgg16", head="none", width=0.25)
    network.preprocess = Preprocess.imagenet()
    monkeypatch.setenv("VGGNET_CONV", "winograd2")
    used, forward = [], nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: used.append(1) or forward(self, x))
    images = torch.zeros(1, 3, 32, 32)
    for exact, wanted, expected in ((False, True, 0), (True, True, 2), (True, False, 0)):
        used.clear()
        FrozenFeatures(network, ["relu1_2"], exact=exact)(images.clone().requires_grad_(wanted))
        assert len(used) == expected
    program = torch.export.export(FrozenFeatures(network, ["relu1_2"]), (images,))
    assert "vggnet" not in str(program.graph)
