"""Inference: fused convolutions and float16 weights, against PyTorch's layers in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from vggnet.accel.api import accelerate, restore
from vggnet.accel.modules import LargeLinear
from vggnet.accel.precision import products_in
from vggnet.models.vgg import build


@pytest.fixture(params=["direct_nchw", "matmul", "im2col", "winograd2", "winograd4"])
def algorithm(request, monkeypatch):
    monkeypatch.setenv("VGGNET_CONV", request.param)
    return request.param


def layers(c, k, *, bias, norm, relu, pool):
    modules = [nn.Conv2d(c, k, 3, padding=1, bias=bias)]
    if norm:
        modules.append(nn.BatchNorm2d(k))
        with torch.no_grad():
            modules[1].weight.uniform_(-1.5, 1.5)
            modules[1].bias.normal_()
            modules[1].running_mean.normal_()
            modules[1].running_var.uniform_(0.5, 2)
    if relu:
        modules.append(nn.ReLU())
    if pool:
        modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules).eval()


def agree(found, expected, tolerance=5e-5):
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    n=st.integers(1, 4), c=st.sampled_from([3, 16, 48]), k=st.sampled_from([16, 80]), height=st.integers(1, 11),
    width=st.integers(1, 11), bias=st.booleans(), norm=st.booleans(), relu=st.booleans(), pool=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_layers_one_by_one(algorithm, n, c, k, height, width, bias, norm, relu, pool, seed):
    """Oracle: PyTorch's layers in float64."""
    torch.manual_seed(seed)
    pool = pool and min(height, width) > 1
    plain = layers(c, k, bias=bias, norm=norm, relu=relu, pool=pool)
    x = torch.randn(n, c, height, width)
    with torch.no_grad():
        found = accelerate(copy.deepcopy(plain))(x)
        agree(found, plain.double()(x.double()))


@pytest.mark.parametrize("make", [
    lambda: build("vgg13_bn", num_classes=7, head="gap", width=0.25),
    lambda: build("vgg11", num_classes=7, head="paper", width=0.25),
    lambda: torchvision.models.resnet18(num_classes=7),
    lambda: torchvision.models.squeezenet1_1(num_classes=7),
], ids=["vgg13_bn", "vgg11", "resnet18", "squeezenet"])  # fmt: skip
def test_whole_networks_with_autotuning(make):
    """Oracle: the network in float64; twice, so that cached weights are used; batches of one and more."""
    torch.manual_seed(0)
    plain = make().eval()
    ours = accelerate(copy.deepcopy(plain))
    plain = plain.double()
    for batch in (1, 3, 1):
        x = torch.randn(batch, 3, 64, 64)
        with torch.inference_mode():
            agree(ours(x), plain(x.double()), 1e-3)


def test_nan_is_not_hidden(algorithm):
    """Oracle: the outputs that see the pixel, by hand."""
    x = torch.randn(1, 16, 8, 8)
    x[0, 3, 4, 4] = float("nan")
    for pool, seen in ((False, slice(3, 6)), (True, slice(1, 3))):
        model = accelerate(layers(16, 16, bias=True, norm=False, relu=True, pool=pool))
        with torch.no_grad():
            assert model(x)[0, :, seen, seen].isnan().all()


# fully connected layers


def test_inference_tensors_and_gradients_are_left_to_pytorch():
    """Oracle: PyTorch's layers; weights that do not count their changes, and outputs with gradients."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 6, 6)
    with torch.inference_mode():
        model = layers(16, 16, bias=True, norm=True, relu=True, pool=True)
        expected = model(x)
        agree(accelerate(model)(x), expected.double())
        model[0].weight.mul_(2)
        agree(model(x), restore(model)(x).double())
    model = accelerate(layers(16, 16, bias=True, norm=True, relu=True, pool=True))
    given = x.clone().requires_grad_()
    model(given).sum().backward()
    assert given.grad.abs().sum() > 0


def test_a_large_layer_is_within_the_bound_and_trains_in_float32(monkeypatch):
    """Oracle: PyTorch's layer in float64: 1e-3 of the largest output; gradients of the float32 layer itself."""
    torch.manual_seed(0)
    plain = nn.Linear(4096, 1000).eval()
    ours = accelerate(nn.Sequential(copy.deepcopy(plain)))
    assert type(ours[0]) is LargeLinear
    x = torch.randn(1, 4096)
    for algorithm in ("float16", "direct", ""):
        monkeypatch.setenv("VGGNET_CONV", algorithm)
        with torch.no_grad():
            agree(ours(x), F.linear(x.double(), plain.weight.double(), plain.bias.double()), 1e-3)
    assert torch.equal(ours(x), plain(x))  # with gradients
    with torch.no_grad():
        monkeypatch.setenv("VGGNET_CONV", "float16")
        ours[0].weight[0] = 1e6  # more than float16 holds
        plain.weight[0] = 1e6
        agree(ours(x), plain(x).double(), 1e-5)
    assert type(restore(ours)[0]) is nn.Linear


@pytest.mark.parametrize("images", [1, 40])
def test_a_large_layer_in_bfloat16(images, monkeypatch):
    """Oracle: float64 of the rounded factors; the rounded result is off by at most 2^-8 of itself. No bias, and one."""
    torch.manual_seed(0)
    monkeypatch.setenv("VGGNET_CONV", "bfloat16")
    x = torch.randn(images, 2048)
    for bias in (False, True):
        plain = nn.Linear(2048, 512, bias=bias).eval()
        ours = accelerate(nn.Sequential(copy.deepcopy(plain)))
        product = F.linear(x.bfloat16().double(), plain.weight.bfloat16().double())
        with torch.no_grad(), products_in("bfloat16"):
            found = ours(x)
            assert found.dtype == torch.float32
            error = (found - product - (plain.bias if bias else 0)).abs()
            assert bool((error <= 2**-8 * product.abs() + 1e-6).all())
            ours[0].weight.mul_(2)
            assert not torch.equal(ours(x), found)
