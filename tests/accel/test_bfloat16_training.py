"""Training in bfloat16 by one operator for convolution, batch norm, ReLU and max pool."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import vggnet
from vggnet.accel import fusion
from vggnet.accel.bfloat16_training import conv_norm_relu, conv_relu
from vggnet.accel.kernels.tiles import has_tiles
from vggnet.accel.precision import products_in

pytestmark = pytest.mark.skipif(not has_tiles(), reason="the CPU has no matrix unit for bfloat16 (AMX)")
STEP = 2**-7  # from a value in bfloat16 to the next one, relative


def rounded(x):
    """To bfloat16, which is no change for the gradient."""
    return x + (x.float().bfloat16().double() - x).detach()


def reference(x, weight, bias, norm_weight, norm_bias, pool):
    """In float64, with the two roundings of the forward pass."""
    z = rounded(F.conv2d(rounded(x), rounded(weight), bias, padding=1))
    y = F.batch_norm(z, None, None, norm_weight, norm_bias, training=True).relu()
    return F.max_pool2d(y, 2) if pool else y


def make(n, c, k, height, width, seed):
    torch.manual_seed(seed)
    given = (torch.randn(n, c, height, width), torch.randn(k, c, 3, 3) / (9 * c) ** 0.5, torch.randn(k))
    given += (torch.rand(k) + 0.5, torch.randn(k))
    return [tensor.requires_grad_() for tensor in given]


@settings(max_examples=30)
@given(
    n=st.integers(1, 4), c=st.sampled_from([32, 64]), k=st.sampled_from([32, 96]), height=st.integers(1, 12),
    width=st.integers(1, 12), pool=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    given_dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_layers(n, c, k, height, width, pool, dtype, given_dtype, seed):
    """Oracle: the layers in float64, with factors and the convolution's result rounded as here; 2 % for gradients."""
    assume(n * height * width >= 32)  # of fewer values the gradient is a difference of nearly equal numbers
    assume(not pool or height % 2 == width % 2 == 0)
    parameters = make(n, c, k, height, width, seed)
    exact = [tensor.detach().double().requires_grad_() for tensor in parameters]
    x = parameters[0].detach().to(given_dtype).requires_grad_()
    conv, norm = nn.Conv2d(c, k, 3, padding=1), nn.BatchNorm2d(k)
    conv.weight, conv.bias, norm.weight, norm.bias = (nn.Parameter(tensor.detach()) for tensor in parameters[1:])
    y, mean, variance = conv_norm_relu(x, conv, norm, pool, dtype)
    expected = reference(*exact, pool)
    assert y.dtype == dtype
    assert y.shape == expected.shape
    assert (y.double() - expected).abs().max() <= 2 * STEP * expected.abs().max()
    z = rounded(F.conv2d(rounded(exact[0]), rounded(exact[1]), exact[2], padding=1)).detach()
    torch.testing.assert_close(mean.double(), z.mean((0, 2, 3)), rtol=0, atol=1e-3)
    torch.testing.assert_close(variance.double(), z.var((0, 2, 3), correction=0), rtol=1e-2, atol=0)
    grad = torch.randn(y.shape).bfloat16()
    y.backward(grad.to(dtype))
    expected.backward(grad.double())
    for tensor, wanted in zip([x, conv.weight, conv.bias, norm.weight, norm.bias], exact, strict=True):
        if tensor is conv.bias:  # which batch norm subtracts
            assert not tensor.grad.any()
        else:
            assert tensor.grad.dtype == tensor.dtype
            assert (tensor.grad - wanted.grad).norm() <= 0.02 * wanted.grad.norm()


@settings(max_examples=30)
@given(
    n=st.integers(1, 4), c=st.sampled_from([3, 32, 64]), k=st.sampled_from([32, 96]), height=st.integers(1, 12),
    width=st.integers(1, 12), pool=st.booleans(), bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 99),
    given_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_equals_the_layers_without_norm(n, c, k, height, width, pool, bias, dtype, given_dtype, seed):
    """Oracle: the layers in float64, with factors and stored results rounded as here; 2 % for gradients."""
    assume(not pool or height % 2 == width % 2 == 0)
    parameters = make(n, c, k, height, width, seed)[: 2 + bias]
    exact = [tensor.detach().double().requires_grad_() for tensor in parameters]
    x = parameters[0].detach().to(given_dtype).requires_grad_(c > 3)  # images get none
    conv = nn.Conv2d(c, k, 3, padding=1, bias=bias)
    conv.weight = nn.Parameter(parameters[1].detach())
    if bias:
        conv.bias = nn.Parameter(parameters[2].detach())
    y = conv_relu(x, conv, pool, dtype)
    z = F.conv2d(rounded(exact[0]), rounded(exact[1]), exact[2] if bias else None, padding=1)
    expected = F.max_pool2d(rounded(z).relu(), 2) if pool else z.relu()
    assert y.dtype == dtype
    assert y.shape == expected.shape
    assert (y.double() - expected).abs().max() <= 2 * STEP * expected.abs().max()
    grad = torch.randn(y.shape).bfloat16()
    y.backward(grad.to(dtype))
    expected.backward(grad.double())
    for tensor, wanted in list(zip([x, *conv.parameters()], exact, strict=True))[c == 3 :]:
        assert tensor.grad.dtype == tensor.dtype
        assert (tensor.grad - wanted.grad).norm() <= 0.02 * wanted.grad.norm() + 1e-6


def network(norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    layers = [(nn.Conv2d(c, k, 3, padding=1), norm(k), nn.ReLU()) for c, k in ((3, 32), (32, 64), (64, 64))]
    kept = [layer for layer in itertools.chain(*layers) if not isinstance(layer, nn.Identity)]
    return nn.Sequential(*kept, nn.MaxPool2d(2))


def step(model, x, weights):
    """The result, and the gradients of all parameters."""
    y = model(x)
    (y.float() * weights).sum().backward()
    return [y.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.Identity])
def test_the_error_is_at_most_that_of_autocast(norm):
    """Oracle: float64; the error of PyTorch's own way to train in bfloat16 is what is allowed, 1.1x in all."""
    plain, x, weights = network(norm), torch.randn(16, 3, 16, 16), torch.randn(16, 64, 8, 8)
    exact = step(copy.deepcopy(plain).double(), x.double(), weights.double())
    with products_in("bfloat16"):
        ours = step(vggnet.accelerate(copy.deepcopy(plain)), x, weights)
    model = copy.deepcopy(plain)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    (y.float() * weights).sum().backward()
    theirs = [y.detach(), *(parameter.grad for parameter in model.parameters())]
    names = ["y", *(name for name, _ in plain.named_parameters())]
    before_norm = ("0.bias", "3.bias", "6.bias") if norm is nn.BatchNorm2d else ()  # 0 but for rounding
    kept = [i for i, name in enumerate(names) if name not in before_norm]
    errors = [sum(((way[i] - exact[i]).norm() / exact[i].norm()).square() for i in kept) for way in (ours, theirs)]
    assert errors[0].sqrt() <= 1.1 * errors[1].sqrt()


@pytest.fixture
def results(monkeypatch):
    """The number of layers and the type of the result of each operator that runs."""
    found, run = [], fusion._Group.run

    def noting(self, x, **options):
        result = run(self, x, **options)
        found.append((self.count, result.dtype))
        return result

    monkeypatch.setattr(fusion._Group, "run", noting)
    return found


NARROW, WIDE = torch.bfloat16, torch.float32


@pytest.mark.parametrize(("hooked", "algorithm", "expected"), [
    (None, "", [(2, NARROW), (3, NARROW), (4, WIDE)]),
    (None, "bfloat16", [(2, NARROW), (3, NARROW), (4, WIDE)]),
    (None, "winograd4", [(2, WIDE), (2, WIDE), (3, WIDE)]),
    (3, "", [(2, WIDE), (2, NARROW), (4, WIDE)]),  # a convolution
    (4, "", [(2, WIDE), (4, WIDE)]),  # a batch norm
    (8, "", [(2, NARROW), (3, WIDE)]),  # a ReLU
    (9, "", [(2, NARROW), (3, NARROW), (3, WIDE)]),  # the pool
])  # fmt: skip
def test_which_layers_are_one_operator(results, monkeypatch, hooked, algorithm, expected):
    """Oracle: by hand; only what another such operator gets is in bfloat16, and hooks see float32."""
    monkeypatch.setenv("VGGNET_CONV", algorithm)
    model = vggnet.accelerate(network())
    if hooked is not None:
        model[hooked].register_forward_hook(lambda module, given, output: results.append(output.dtype))
    with products_in("bfloat16"):
        model(torch.randn(2, 3, 8, 8))
    assert [result for result in results if isinstance(result, tuple)] == expected
    assert [result for result in results if not isinstance(result, tuple)] == [WIDE] * (hooked is not None)
    results.clear()
    model(torch.randn(2, 3, 8, 8))
    assert {dtype for _, dtype in (result for result in results if isinstance(result, tuple))} == {WIDE}


def test_running_statistics_are_those_of_the_layers():
    """Oracle: PyTorch's layers in float32, of whose values these are means; then no gradients."""
    plain, x = network(), torch.randn(16, 3, 16, 16)
    model = vggnet.accelerate(copy.deepcopy(plain))
    with products_in("bfloat16"), torch.no_grad():
        model(x)
        model(x)
    plain(x)
    plain(x)
    for found, expected in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)


def test_without_norm_only_what_is_recorded_is_one_operator(results):
    """Oracle: by hand: each convolution with its ReLU, and the pool; not the first where images get a gradient."""
    model = vggnet.accelerate(network(nn.Identity))
    with products_in("bfloat16"):
        model(torch.randn(2, 3, 8, 8))
        assert results == [(2, NARROW), (2, NARROW), (3, WIDE)]
        results.clear()
        with torch.no_grad():
            model(torch.randn(2, 3, 8, 8))
        assert results == []
        model.requires_grad_(False)(torch.randn(2, 3, 8, 8))
        assert results == []
        model(torch.randn(2, 3, 8, 8).requires_grad_())
        assert results == [(2, NARROW), (3, WIDE)]
    results.clear()
    model(torch.randn(2, 3, 8, 8).requires_grad_())
    assert results == []


def test_only_gradients_that_are_wanted():
    """Oracle: all gradients of the same network; frozen parameters have none."""
    plain, x, weights = network(), torch.randn(4, 3, 8, 8), torch.randn(4, 64, 4, 4)
    with products_in("bfloat16"):
        everything = step(vggnet.accelerate(copy.deepcopy(plain)), x, weights)
        model = vggnet.accelerate(plain)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in ("4.bias", "6.weight"))
        found = step(model, x, weights)
    names = ["y", *(name for name, _ in model.named_parameters())]
    for name, one, other in zip(names, found, everything, strict=True):
        assert (one is None) if name not in ("y", "4.bias", "6.weight") else torch.equal(one, other)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.Identity])
def test_threads_change_no_bit(norm):
    """Oracle: one thread."""
    x, weights, before, found = torch.randn(9, 3, 20, 20), torch.randn(9, 64, 10, 10), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with products_in("bfloat16"):
                model = vggnet.accelerate(network(norm))[1:]
                found.append(step(model, x.new_ones(9, 32, 20, 20) * x[:, :1], weights))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_what_is_no_number_stays_none():
    """Oracle: a NaN of an image makes the statistics of all channels NaN."""
    x = torch.randn(2, 3, 8, 8)
    x[1, 1, 3, 3] = float("nan")
    with products_in("bfloat16"):
        assert vggnet.accelerate(network())(x).isnan().all()
    plain = network(nn.Identity)[2:]
    x = torch.randn(2, 32, 8, 8)
    x[1, 1, 3, 3] = float("nan")
    with products_in("bfloat16"):
        found = vggnet.accelerate(copy.deepcopy(plain))(x)
    assert torch.equal(found.isnan(), plain(x).isnan())
