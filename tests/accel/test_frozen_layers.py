"""Frozen layers (eval mode, no parameter requires a gradient): the gradient of their input, against float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vggnet.accel.algorithms.all import ALGORITHMS
from vggnet.accel.api import accelerate
from vggnet.accel.fused_inference import convolve
from vggnet.accel.weight_cache import FoldedWeights


@pytest.fixture(params=["direct_nchw", "matmul", "im2col", "winograd2", "winograd4"])
def algorithm(request, monkeypatch):
    monkeypatch.setenv("VGGNET_CONV", request.param)
    return request.param


def layers(c=16, k=32, *, norm=True):
    """3x3 convolution, batch norm, ReLU and max pool, frozen."""
    modules = [nn.Conv2d(c, k, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    if norm:
        modules.insert(1, nn.BatchNorm2d(k))
        with torch.no_grad():
            modules[1].weight.uniform_(-1.5, 1.5)
            modules[1].bias.normal_()
            modules[1].running_mean.normal_()
            modules[1].running_var.uniform_(0.5, 2)
    return nn.Sequential(*modules).eval().requires_grad_(False)


def value_and_gradient(model, x, weights):
    x = x.clone().requires_grad_()
    y = model(x)
    return y.detach(), *torch.autograd.grad(y, x, weights.to(y.dtype))


def agree(found, expected, tolerance=5e-5):
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-30)


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
@pytest.mark.parametrize(("c", "k"), [(3, 32), (16, 32), (48, 16)])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (8, 10), (9, 7), (16, 16)])
def test_value_and_gradient_of_fused_layers(algorithm, kept, c, k, height, width):
    """Oracle: PyTorch's layers in float64; twice, so that cached weights are used."""
    torch.manual_seed(0)
    plain = layers(c, k)[:kept]
    ours, x = accelerate(copy.deepcopy(plain)), torch.randn(2, c, height, width)
    weights = torch.randn_like(plain(x))
    expected = value_and_gradient(plain.double(), x.double(), weights)
    for _ in range(2):
        for found, exact in zip(value_and_gradient(ours, x, weights), expected, strict=True):
            agree(found, exact)
    assert all(parameter.grad is None for parameter in ours.parameters())


@pytest.mark.parametrize("name", ["direct", "direct_nchw", "winograd2"])
def test_pools_of_flat_and_striped_parts_choose_the_first(name, monkeypatch):
    """Oracle: float64. Equal columns and equal rows begin at odd places, so that windows of the pool have ties."""
    monkeypatch.setenv("VGGNET_CONV", name)
    torch.manual_seed(0)
    plain = layers(32, 32, norm=False)
    x = torch.randn(1, 32, 24, 24)
    x[:, :, :, 9:] = x[:, :, :1, 9:10]
    x[:, :, 13:] = x[:, :, 13:14]
    weights = torch.randn(1, 32, 12, 12)
    (found,) = value_and_gradient(accelerate(copy.deepcopy(plain)), x, weights)[1:]
    (expected,) = value_and_gradient(plain.double(), x.double(), weights)[1:]
    assert F.cosine_similarity(found.double().flatten(), expected.flatten(), dim=0) > 1 - 1e-9


def test_algorithms_that_do_not_keep_ties_are_not_used(monkeypatch):
    """Oracle: the list, by hand, and a marker in the result of that algorithm."""
    from_channels = {algorithm.name: algorithm.keeps_ties_from for algorithm in ALGORITHMS if algorithm.keeps_ties_from}
    assert from_channels == {"winograd4": math.inf, "bfloat16x3": 256}
    (winograd4,) = (algorithm for algorithm in ALGORITHMS if algorithm.name == "winograd4")
    monkeypatch.setenv("VGGNET_CONV", "winograd4")
    monkeypatch.setattr(winograd4, "inference", lambda x, weights, relu, pool: torch.full_like(x, 7))
    conv, x = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False), torch.randn(1, 16, 8, 8).requires_grad_()
    y = convolve(conv, None, x, relu=True, pool=False)
    torch.testing.assert_close(y, F.conv2d(x, conv.weight, conv.bias, padding=1).relu())
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient == 7).all()  # rounding decides nothing there


def test_a_change_of_the_weights_is_seen(algorithm):
    """Oracle: PyTorch's layers after the change; its error for a change between the two passes."""
    torch.manual_seed(0)
    plain = layers()
    ours, x = accelerate(copy.deepcopy(plain)), torch.randn(2, 16, 6, 6)
    weights = torch.randn(2, 32, 3, 3)
    value_and_gradient(ours, x, weights)
    for model in (plain, ours):
        model[0].weight.mul_(-2)
        model[1].running_mean.add_(0.5)
    expected = value_and_gradient(plain.double(), x.double(), weights)
    for found, exact in zip(value_and_gradient(ours, x, weights), expected, strict=True):
        agree(found, exact)
    y = ours(x.requires_grad_())
    ours[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_autocast_around_the_backward_pass(algorithm):
    """Oracle: the same pass without it: what was float32 stays float32."""
    model, x = accelerate(layers()), torch.randn(2, 16, 6, 6)
    gradients = []
    for enabled in (False, True):
        given = x.clone().requires_grad_()
        y = model(given).sum()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            gradients += torch.autograd.grad(y, given)
    assert torch.equal(*gradients)


def test_gradients_can_be_taken_once():
    """Oracle: PyTorch's error, not a wrong value."""
    x = torch.randn(1, 16, 6, 6).requires_grad_()
    y = convolve(nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False), None, x, relu=True, pool=False)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_frozen_layers_after_layers_that_learn():
    """Oracle: PyTorch's layers: the gradients of the layers before and after."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), layers(), nn.Conv2d(32, 16, 3, padding=1))
    ours, x = accelerate(copy.deepcopy(plain)), torch.randn(2, 3, 8, 8)
    for model in (plain, ours):
        model(x).square().sum().backward()
    for found, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        assert (found.grad is None) == (expected.grad is None)
        if expected.grad is not None:
            agree(found.grad, expected.grad.double(), 1e-4)


def test_functional_transforms_of_frozen_layers():
    """Oracle: autograd."""
    model, x = accelerate(layers()), torch.randn(1, 16, 6, 6)
    (expected,) = value_and_gradient(model, x, torch.ones(1, 32, 3, 3))[1:]
    torch.testing.assert_close(torch.func.grad(lambda given: model(given).sum())(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.vmap(model)(x[None])[0], model(x), rtol=1e-4, atol=1e-5)


def test_turned_weights_by_hand():
    """Oracle: a kernel with one tap: its place turned by 180 degrees, C and K exchanged."""
    conv = nn.Conv2d(16, 32, 3, padding=1).requires_grad_(False)
    conv.weight.zero_()
    conv.weight[5, 2, 0, 1] = 3
    turned = FoldedWeights(conv, None).turned()
    assert turned.weight.shape == (16, 32, 3, 3)
    assert turned.weight[2, 5, 2, 1] == 3
    assert turned.weight.sum() == 3
    assert turned.bias is None
