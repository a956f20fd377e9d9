"""The operator conv3x3: right for every shape and algorithm, and robust."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from vggnet.accel import conv3x3

ALGORITHMS = ["direct", "direct_nchw", "matmul", "im2col", "winograd2", "winograd4"]
TOLERANCE = 5e-5  # of the largest value


@pytest.fixture(params=ALGORITHMS)
def algorithm(request, monkeypatch):
    monkeypatch.setenv("VGGNET_CONV", request.param)
    return request.param


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def relative_error(found, expected, typical=0.0):
    """Relative to the largest value, or to the `typical` size of such sums where all of them nearly cancel."""
    largest = expected.abs().max().clamp(min=max(float(typical), 1e-30))
    return ((found.double() - expected).abs().max() / largest).item()


def assert_right(x, weight, bias, grad):
    """Output and gradients against float64 direct convolution."""
    ours = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    exact = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    squares = [tensor.double().square().requires_grad_() for tensor in (x, weight, bias)]  # a sum's variance
    y, expected, variance = conv3x3(*ours), F.conv2d(*exact, padding=1), F.conv2d(*squares, padding=1)
    assert relative_error(y, expected, variance.detach().max() ** 0.5) < TOLERANCE
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.backward(grad)
    expected.backward(grad.double())
    variance.backward(grad.double().square())
    for found, wanted, squared in zip(ours[:2], exact[:2], squares[:2], strict=True):
        assert relative_error(found.grad, wanted.grad, squared.grad.max() ** 0.5) < TOLERANCE
    terms = grad.abs().sum((0, 2, 3))  # the bias has a gradient of sums that may be near 0
    assert bool(((ours[2].grad.double() - exact[2].grad).abs() < TOLERANCE * terms).all())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    n=st.integers(1, 9),
    c=st.sampled_from([1, 3, 16, 32, 48, 80]),
    k=st.sampled_from([1, 16, 48, 112]),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    seed=st.integers(0, 99),
)
def test_every_algorithm_is_right(algorithm, n, c, k, height, width, seed):
    """Oracle: direct convolution in float64, and autograd through it."""
    torch.manual_seed(seed)
    weight = torch.randn(k, c, 3, 3) / (3 * c**0.5)
    assert_right(channels_last(n, c, height, width), weight, torch.randn(k), channels_last(n, k, height, width))


def test_results_may_be_changed_in_place(algorithm):
    """Oracle: F.conv2d and F.relu; torchvision's VGGs have nn.ReLU(inplace=True) after each convolution."""
    torch.manual_seed(0)
    for height, width in ((2, 2), (9, 6)):
        x, weight = channels_last(2, 16, height, width), torch.randn(16, 16, 3, 3)
        ours, stock = [[tensor.clone().requires_grad_() for tensor in (x, weight)] for _ in range(2)]
        F.relu(conv3x3(*ours), inplace=True).sum().backward()
        F.relu(F.conv2d(*stock, padding=1)).sum().backward()
        for found, expected in zip(ours, stock, strict=True):
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-4)


def test_the_default_type_and_device_are_not_looked_at(algorithm):
    """Oracle: the same without; memory of another type would be read as nonsense."""
    x, weight = channels_last(2, 16, 9, 9), torch.randn(16, 16, 3, 3)
    expected = conv3x3(x, weight)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = conv3x3(x, weight)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(1, 513, 5, 5, 16), (2, 512, 9, 7, 512), (130, 256, 2, 2, 64), (3, 16, 61, 35, 32)])
def test_odd_and_large_shapes(algorithm, shape):
    """Oracle: as above: odd channels, sums of 4608 products, more tiles than a block, edges that cut tiles."""
    n, c, height, width, k = shape
    torch.manual_seed(0)
    weight = torch.randn(k, c, 3, 3) / (3 * c**0.5)
    assert_right(channels_last(n, c, height, width), weight, torch.randn(k), channels_last(n, k, height, width))


def test_nan_stays_nan(algorithm):
    """Oracle: the outputs that see the pixel, by hand; a tile may spread it, but never hide it."""
    x = channels_last(2, 16, 8, 8)
    x[0, 3, 4, 4] = float("nan")
    y = conv3x3(x, torch.ones(16, 16, 3, 3))
    assert y[0, :, 3:6, 3:6].isnan().all()
    assert not y[1].isnan().any()


def test_other_cases_are_pytorchs():
    """Oracle: F.conv2d itself, bit for bit: float64, an empty batch, no batch, bfloat16."""
    weight, bias = torch.randn(16, 16, 3, 3), torch.randn(16)
    cases = [
        torch.randn(2, 16, 8, 8).double(),
        torch.randn(0, 16, 8, 8),
        torch.randn(16, 8, 8),
        torch.randn(1, 16, 8, 8).bfloat16(),
    ]
    for x in cases:
        given = x, weight.to(x.dtype), bias.to(x.dtype)
        assert torch.equal(conv3x3(*given), F.conv2d(*given, padding=1))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv3x3(torch.randn(1, 16, 8, 8), weight).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="channels"):
        conv3x3(torch.randn(2, 8, 8, 8), weight)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of PyTorch's own check
def test_it_is_a_sound_operator():
    """Oracle: PyTorch's own checks of schema, fake tensors and autograd registration."""
    given = channels_last(2, 16, 6, 5).requires_grad_(), torch.randn(16, 16, 3, 3, requires_grad=True), torch.randn(16)
    torch.library.opcheck(torch.ops.vggnet.conv3x3.default, given)


def test_modules_of_other_libraries_are_left_alone():
    """Oracle: F.conv2d through an ordinary module, beside the operator."""
    conv = nn.Conv2d(16, 16, 3, padding=1)
    x = channels_last(2, 16, 8, 8)
    torch.testing.assert_close(conv3x3(x, conv.weight, conv.bias), conv(x), rtol=1e-3, atol=1e-4)


NO_CACHE = """
import torch
from vggnet.accel.dispatch import conv3x3
x = torch.randn(2, 16, 8, 8)
y = conv3x3(x, torch.ones(16, 16, 3, 3))
torch.testing.assert_close(y, torch.nn.functional.conv2d(x, torch.ones(16, 16, 3, 3), padding=1), rtol=1e-4, atol=1e-4)
print("done")
"""


def test_without_any_writable_cache(tmp_path):
    """Oracle: direct convolution; neither compiled kernels nor choices can be kept."""
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(nowhere / "numba"), "VGGNET_CACHE": str(nowhere / "choices")}
    done = subprocess.run(
        [sys.executable, "-c", NO_CACHE], capture_output=True, text=True, env=environment, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
