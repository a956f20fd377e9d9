"""Every algorithm in every pass that it supports, and the list of them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.grad import conv2d_input, conv2d_weight

from vggnet.accel.algorithm import Shape, round_up
from vggnet.accel.algorithms.all import ALGORITHMS
from vggnet.accel.kernels.llvm import ROWS
from vggnet.accel.kernels.tiles import has_tiles
from vggnet.accel.weight_cache import FoldedWeights

TOLERANCE = 5e-5  # of the largest value
SIDE, CHANNELS, FULL = st.integers(1, 14), st.sampled_from([1, 3, 16, 33, 80]), st.sampled_from([16, 48, 112])
SHAPES = {  # input channels, output channels, height, width
    "direct": (CHANNELS, CHANNELS, SIDE, SIDE),
    "direct_nchw": (CHANNELS, CHANNELS, SIDE, SIDE),
    "matmul": (CHANNELS, CHANNELS, st.integers(1, 2), st.integers(1, 2)),
    "im2col": (st.integers(1, 4), st.sampled_from([32, 64, 96]), SIDE, st.integers(ROWS, 3 * ROWS + 1)),
    "winograd4": (FULL, FULL, SIDE, SIDE),
    "winograd2": (FULL, FULL, SIDE, SIDE),
    "bfloat16x3": (st.sampled_from([32, 96]), st.sampled_from([32, 64]), SIDE, SIDE),
}
PASSES = {name: ["forward", "grad_input", "grad_weight", "inference"] for name in SHAPES}
PASSES["im2col"].remove("grad_input")
PASSES["bfloat16x3"].remove("grad_weight")


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_names():
    """Oracle: the names that caches, checkpoints and $VGGNET_CONV have, typed by hand."""
    names = [algorithm.name for algorithm in ALGORITHMS]
    assert names == ["direct", "direct_nchw", "matmul", "im2col", "winograd4", "winograd2", "bfloat16x3", "bfloat16"]
    assert [algorithm.name for algorithm in ALGORITHMS if algorithm.precision == "bfloat16"] == ["bfloat16"]


IN_FLOAT32 = [algorithm for algorithm in ALGORITHMS if algorithm.precision == "float32"]


@pytest.mark.parametrize("algorithm", IN_FLOAT32, ids=lambda algorithm: algorithm.name)
@settings(max_examples=30)
@given(data=st.data(), n=st.integers(1, 5), with_bias=st.booleans(), seed=st.integers(0, 99))
def test_every_supported_pass_is_right(algorithm, data, n, with_bias, seed):
    """Oracle: direct convolution and its gradients in float64; which passes each one offers, typed by hand."""
    c, k, height, width = (data.draw(strategy) for strategy in SHAPES[algorithm.name])
    shape = Shape(n, height, width, c, k)
    if algorithm.name == "bfloat16x3" and not has_tiles():
        pytest.skip("the CPU has no matrix unit for bfloat16 (AMX)")
    passes = [work for work in ("forward", "grad_input", "grad_weight", "inference") if algorithm.supports(work, shape)]
    assert passes == PASSES[algorithm.name]
    torch.manual_seed(seed)
    x, grad = channels_last(n, c, height, width), channels_last(n, k, height, width)
    weight, bias = channels_last(k, c, 3, 3) / (3 * c**0.5), torch.randn(k) if with_bias else None
    exact = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=1)
    assert_close(algorithm.forward(x, weight, bias), exact)
    if "grad_weight" in passes:
        expected = conv2d_weight(x.double(), weight.shape, grad.double(), padding=1)
        assert_close(algorithm.grad_weight(grad, x), expected)
    if "grad_input" in passes:
        assert_close(
            algorithm.grad_input(grad, weight), conv2d_input(x.shape, weight.double(), grad.double(), padding=1)
        )
    conv = nn.Conv2d(c, k, 3, padding=1, bias=with_bias)
    with torch.no_grad():
        conv.weight.copy_(weight)
        if bias is not None:
            conv.bias.copy_(bias)
        assert_close(algorithm.inference(x, FoldedWeights(conv, None), False, False), exact)
        assert_close(algorithm.inference(x, FoldedWeights(conv, None), True, False), exact.relu())
        if height % 2 == width % 2 == 0:
            expected = F.max_pool2d(exact.relu(), 2)
            assert_close(algorithm.inference(x, FoldedWeights(conv, None), True, True), expected)


@pytest.mark.parametrize(("name", "shape"), [
    ("matmul", Shape(2, 2, 3, 16, 16)), ("matmul", Shape(2, 3, 1, 16, 16)),
    ("im2col", Shape(2, 32, 32, 5, 64)), ("im2col", Shape(2, 32, 32, 3, 72)), ("im2col", Shape(2, 32, ROWS - 1, 3, 64)),
    ("winograd4", Shape(2, 8, 8, 16, 24)), ("winograd2", Shape(2, 8, 8, 3, 16)),
    ("bfloat16x3", Shape(2, 8, 8, 32, 48)), ("bfloat16x3", Shape(2, 8, 8, 3, 32)),
])  # fmt: skip
def test_other_shapes_are_refused(name, shape):
    """Oracle: the limits that the guide states, one shape beyond each."""
    (algorithm,) = (algorithm for algorithm in ALGORITHMS if algorithm.name == name)
    assert not any(algorithm.supports(work, shape) for work in ("forward", "grad_input", "grad_weight", "inference"))


def test_keys_of_the_cache():
    """Oracle: by hand: the next power of two for the batch, sizes of at most three binary digits and zeros."""
    assert Shape(100, 224, 225, 3, 64).key("forward") == "forward n<=128 224x256 3->64"
    assert Shape(1, 7, 9, 16, 32).key("grad_input") == "grad_input n<=1 7x10 16->32"
    assert [round_up(size) for size in (1, 8, 9, 15, 33, 500)] == [1, 8, 10, 16, 40, 512]
