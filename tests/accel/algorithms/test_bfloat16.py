"""The convolution with products in bfloat16."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.grad import conv2d_input, conv2d_weight

from vggnet.accel.algorithm import Shape
from vggnet.accel.algorithms import bfloat16_batch
from vggnet.accel.algorithms.bfloat16 import Bfloat16, SplitBfloat16
from vggnet.accel.kernels.tiles import has_tiles
from vggnet.accel.weight_cache import FoldedWeights

pytestmark = pytest.mark.skipif(not has_tiles(), reason="the CPU has no matrix unit for bfloat16 (AMX)")
TOLERANCE = 1e-6  # of the largest value: the sums are float32


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def rounded(tensor):
    return tensor.bfloat16().double()


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= TOLERANCE * expected.abs().max()


@settings(max_examples=40)
@given(
    n=st.integers(1, 4), c=st.sampled_from([8, 32, 64, 90, 160]), k=st.sampled_from([1, 3, 32, 44, 96]),
    height=st.integers(1, 20),
    width=st.integers(1, 20), with_bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_pass_is_right(n, c, k, height, width, with_bias, seed):
    """Oracle: direct convolution of the rounded factors, and its gradients, in float64."""
    torch.manual_seed(seed)
    x, grad, weight = channels_last(n, c, height, width), channels_last(n, k, height, width), channels_last(k, c, 3, 3)
    bias = torch.randn(k) if with_bias else None
    exact = F.conv2d(rounded(x), rounded(weight), None if bias is None else bias.double(), padding=1)
    assert_close(Bfloat16().forward(x, weight, bias), exact)
    found = Bfloat16().grad_input(grad, weight)
    assert_close(found, conv2d_input(x.shape, rounded(weight), rounded(grad), padding=1))
    expected = conv2d_weight(rounded(x), weight.shape, rounded(grad), padding=1)
    for given_grad, given_x in itertools.product((grad, grad.bfloat16()), (x, x.bfloat16())):
        assert_close(Bfloat16().grad_weight(given_grad, given_x), expected)
    assert torch.equal(Bfloat16().grad_input(grad.bfloat16(), weight), Bfloat16().grad_input(grad, weight))
    conv = nn.Conv2d(c, k, 3, padding=1, bias=with_bias)
    with torch.no_grad():
        conv.weight.copy_(weight)
        if bias is not None:
            conv.bias.copy_(bias)
        assert_close(Bfloat16().inference(x, FoldedWeights(conv, None), True, False), exact.relu())
        if height % 2 == width % 2 == 0:
            expected = F.max_pool2d(exact.relu(), 2)
            assert_close(Bfloat16().inference(x, FoldedWeights(conv, None), True, True), expected)


@settings(max_examples=40)
@given(
    n=st.integers(32, 100), c=st.sampled_from([8, 32, 90]), k=st.sampled_from([3, 32, 96]), height=st.integers(1, 8),
    width=st.integers(1, 8), relu=st.booleans(), block=st.sampled_from([1, 100_000, 1 << 21]), seed=st.integers(0, 99),
)  # fmt: skip
def test_many_small_maps_are_right(n, c, k, height, width, relu, block, seed):
    """Oracle: direct convolution of the rounded factors, and its gradients, in float64.

    A NaN reaches its own neighbors alone. block: bytes of images that are packed at a time.
    """
    assert bfloat16_batch.pays(Shape(n, height, width, c, k))
    torch.manual_seed(seed)
    x, grad, weight = channels_last(n, c, height, width), channels_last(n, k, height, width), channels_last(k, c, 3, 3)
    bias = torch.randn(k) if relu else None
    exact = F.conv2d(rounded(x), rounded(weight), None if bias is None else bias.double(), padding=1)
    exact = exact.relu() if relu else exact
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bfloat16_batch, "CONVOLUTION_BYTES", block)
        patch.setattr(bfloat16_batch, "WEIGHT_BYTES", block)
        assert_close(Bfloat16().forward(x, weight, bias, relu=relu), exact)
        half = Bfloat16().forward(x.bfloat16(), weight, bias, torch.bfloat16, relu=relu)
        assert torch.equal(half, Bfloat16().forward(x, weight, bias, relu=relu).bfloat16())
        expected = conv2d_input(x.shape, rounded(weight), rounded(grad), padding=1)
        assert_close(Bfloat16().grad_input(grad, weight), expected)
        expected = conv2d_weight(rounded(x), weight.shape, rounded(grad), padding=1)
        for given_grad, given_x in itertools.product((grad, grad.bfloat16()), (x, x.bfloat16())):
            assert_close(Bfloat16().grad_weight(given_grad, given_x), expected)
        x[-1, 0, height // 2, width // 2] = float("nan")
        found = Bfloat16().forward(x, weight, bias, relu=relu)
    assert torch.equal(found.isnan(), F.conv2d(x, weight, bias, padding=1).isnan())


@settings(max_examples=40)
@given(
    n=st.integers(1, 4), c=st.sampled_from([3, 32, 90]), k=st.sampled_from([3, 32, 44]), height=st.integers(1, 20),
    width=st.integers(1, 20), side=st.sampled_from([1, 3]), dilation=st.integers(1, 7), seed=st.integers(0, 99),
)  # fmt: skip
def test_other_kernels_are_right(n, c, k, height, width, side, dilation, seed):
    """Oracle: direct convolution of the rounded factors with that kernel, and its gradients, in float64."""
    torch.manual_seed(seed)
    x, grad, bias = channels_last(n, c, height, width), channels_last(n, k, height, width), torch.randn(k)
    weight, dilation = channels_last(k, c, side, side), dilation if side == 3 else 1
    padding = dilation * (side // 2)
    factors = [tensor.requires_grad_() for tensor in (rounded(x), rounded(weight))]
    exact = F.conv2d(*factors, bias.double(), padding=padding, dilation=dilation)
    algorithm = Bfloat16(dilation)
    assert_close(algorithm.forward(x, weight, bias), exact)
    for_x, for_weight = torch.autograd.grad(exact, factors, rounded(grad))
    assert_close(algorithm.grad_input(grad, weight), for_x)
    if side == 1 or dilation > 1 or c > 3:  # else PyTorch's convolution of bfloat16 does it
        assert_close(algorithm.grad_weight(grad, x, side), for_weight)


def test_rests_make_it_exact_for_float32():
    """Oracle: float64; the error is a hundredth of that of rounded factors. A NaN reaches its own neighbors alone."""
    torch.manual_seed(0)
    x, weight = channels_last(2, 96, 12, 12), channels_last(64, 96, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    errors = [(way.forward(x, weight, None) - exact).norm() for way in (SplitBfloat16(), Bfloat16())]
    assert errors[0] < errors[1] / 100
    assert errors[0] < 1e-5 * exact.norm()
    x[0, 5, 4, 4] = float("nan")
    assert torch.equal(SplitBfloat16().forward(x, weight, None).isnan(), F.conv2d(x, weight, padding=1).isnan())


def infer(x, conv, *, relu, pool, dtype):
    shape = Shape.of(x, conv.weight)
    return Bfloat16().prepare(shape, FoldedWeights(conv, None), relu, pool, x.dtype, dtype)(x)


@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=20)
@given(n=st.integers(1, 3), height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_the_first_layer_is_right(channels, n, height, width, seed):
    """Oracle: direct convolution of the rounded factors in float64. A NaN reaches its own neighbors alone."""
    torch.manual_seed(seed)
    x, weight, bias = channels_last(n, channels, height, width), channels_last(64, channels, 3, 3), torch.randn(64)
    exact = F.conv2d(rounded(x), rounded(weight), bias.double(), padding=1)
    assert_close(Bfloat16().forward(x, weight, bias), exact)
    assert torch.equal(Bfloat16().forward(x.bfloat16(), weight, bias), Bfloat16().forward(x, weight, bias))
    conv = nn.Conv2d(channels, 64, 3, padding=1).requires_grad_(False)
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)
    found = infer(x, conv, relu=True, pool=False, dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact.relu().float(), rtol=2**-7, atol=1e-5)
    if height % 2 == width % 2 == 0:
        found = infer(x, conv, relu=True, pool=True, dtype=torch.float32)
        assert_close(found, F.max_pool2d(exact.relu(), 2))
    x[-1, 0, height // 2, width // 2] = float("nan")
    assert torch.equal(Bfloat16().forward(x, weight, bias).isnan(), F.conv2d(x, weight, bias, padding=1).isnan())


@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=25)
@given(
    n=st.integers(1, 5), height=st.integers(1, 24), width=st.integers(1, 24), between=st.sampled_from([32, 64, 96]),
    relu=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 99),
)  # fmt: skip
def test_two_layers_in_one_pass_give_the_same(channels, n, height, width, between, relu, dtype, seed):
    """Oracle: one after the other, to the last bit. A NaN reaches the neighbors of its neighbors alone."""
    torch.manual_seed(seed)
    x = channels_last(n, channels, height, width)
    convs = [nn.Conv2d(channels, between, 3, padding=1), nn.Conv2d(between, 64, 3, padding=1, bias=relu)]
    shapes = [Shape(n, height, width, *conv.weight.shape[1::-1]) for conv in convs]
    weights = [FoldedWeights(conv, None) for conv in convs]
    pool = height % 2 == width % 2 == 0
    first = Bfloat16().prepare(shapes[0], weights[0], relu, False, torch.float32, torch.bfloat16)
    second = Bfloat16().prepare(shapes[1], weights[1], True, pool, torch.bfloat16, dtype)
    both = second.after(first)
    assert torch.equal(both(x), second(first(x)))
    x[-1, 0, height // 2, width // 2] = float("nan")
    assert torch.equal(both(x).isnan(), second(first(x)).isnan())


def test_what_cannot_be_one_pass():
    """Oracle: the contract: a pool between, float32 between, many input channels, three layers."""
    shapes = [Shape(1, 8, 8, 3, 32), Shape(1, 8, 8, 32, 32)]
    weights = [FoldedWeights(nn.Conv2d(c, 32, 3, padding=1), None) for c in (3, 32)]
    float32, bfloat16 = torch.float32, torch.bfloat16
    first = Bfloat16().prepare(shapes[0], weights[0], True, False, float32, bfloat16)
    pooled = Bfloat16().prepare(shapes[0], weights[0], True, True, float32, bfloat16)
    wide = Bfloat16().prepare(shapes[0], weights[0], True, False, float32, float32)
    second = Bfloat16().prepare(shapes[1], weights[1], True, False, bfloat16, bfloat16)
    other = Bfloat16().prepare(shapes[1], weights[1], True, False, float32, float32)
    exact = SplitBfloat16().prepare(shapes[1], weights[1], True, False, float32, float32)
    assert second.after(first) is not None
    assert second.after(pooled) is second.after(wide) is second.after(second) is first.after(first) is None
    assert other.after(first) is exact.after(first) is first.after(exact) is None
    assert second.after(second.after(first)) is None


@pytest.mark.parametrize("shape", [(2, 64, 64, 16, 16), (1, 256, 256, 14, 14), (2, 512, 512, 4, 4)], ids=str)
def test_the_error_is_at_most_that_of_onednn(shape):
    """Oracle: float64. oneDNN's own convolution in bfloat16 of the same values has the error that is allowed, 1.1x."""
    n, c, k, height, width = shape
    torch.manual_seed(0)
    x, weight, grad = channels_last(n, c, height, width), channels_last(k, c, 3, 3), channels_last(n, k, height, width)
    half = [tensor.bfloat16() for tensor in (x, weight, grad)]
    trios = [
        (Bfloat16().forward(x, weight, None), F.conv2d(*half[:2], padding=1),
         F.conv2d(x.double(), weight.double(), padding=1)),
        (Bfloat16().grad_input(grad, weight), conv2d_input(x.shape, half[1], half[2], padding=1),
         conv2d_input(x.shape, weight.double(), grad.double(), padding=1)),
        (Bfloat16().grad_weight(grad, x), conv2d_weight(half[0], weight.shape, half[2], padding=1),
         conv2d_weight(x.double(), weight.shape, grad.double(), padding=1)),
    ]  # fmt: skip
    for ours, theirs, exact in trios:
        assert (ours - exact).norm() <= 1.1 * (theirs - exact).norm()


@pytest.mark.parametrize(("n", "side"), [(15, 20), (70, 4)])
def test_the_same_for_any_number_of_threads(n, side):
    """Oracle: one thread."""
    torch.manual_seed(0)
    x, grad = channels_last(n, 64, side, side), channels_last(n, 96, side, side)
    weight = channels_last(96, 64, 3, 3)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            algorithm = Bfloat16()
            passes = (algorithm.forward(x, weight, None), algorithm.grad_input(grad, weight))
            found.append((*passes, algorithm.grad_weight(grad, x)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_beside_onednn():
    """Oracle: the results of each alone: both set up the unit of the same threads, in turns."""
    torch.manual_seed(0)
    x, weight = channels_last(2, 64, 20, 20), channels_last(64, 64, 3, 3)
    ours, theirs = Bfloat16().forward(x, weight, None), F.conv2d(x.bfloat16(), weight.bfloat16(), padding=1)
    for _ in range(5):
        assert torch.equal(F.conv2d(x.bfloat16(), weight.bfloat16(), padding=1), theirs)
        assert torch.equal(Bfloat16().forward(x, weight, None), ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("relu", "pool"), [(False, False), (True, False), (True, True)])
def test_what_is_no_number_stays_none(dtype, relu, pool):
    """Oracle: PyTorch's layers: the same places are NaN, also where a window has one; the rest within bfloat16."""
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 32, 3, padding=1).requires_grad_(False)
    for row in range(2, 6):
        x = channels_last(1, 32, 8, 8)
        x[0, 3, row, 3] = float("nan")
        expected = conv(x).relu() if relu else conv(x)
        expected = F.max_pool2d(expected, 2) if pool else expected
        found = infer(x, conv, relu=relu, pool=pool, dtype=dtype)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02, equal_nan=True)
