"""Convolution of few channels by unfolded rows."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.grad import conv2d_weight

from vggnet.accel import reference
from vggnet.accel.algorithms.im2col import STREAM_BYTES, Im2col
from vggnet.accel.kernels.llvm import ROWS

IM2COL = Im2col()
TOLERANCE = 5e-5  # of the largest value


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def relative_error(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


@settings(max_examples=40)
@given(
    n=st.integers(1, 5),
    c=st.integers(1, 4),
    k=st.sampled_from([32, 64, 96]),
    height=st.integers(1, 9),
    width=st.integers(ROWS, 3 * ROWS + 1),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_the_plain_algorithm(n, c, k, height, width, bias, seed):
    """Oracle: the reference in float64; rows that are no whole number of tiles, maps lower than the kernel."""
    torch.manual_seed(seed)
    x, weight, grad = channels_last(n, c, height, width), torch.randn(k, c, 3, 3), channels_last(n, k, height, width)
    shift = torch.randn(k) if bias else None
    expected = reference.forward_unfolded(x.double(), weight.double())
    if shift is not None:
        expected += shift.view(-1, 1, 1)
    assert relative_error(IM2COL.forward(x, weight, shift), expected) < TOLERANCE
    assert relative_error(IM2COL.forward(x, weight, shift, relu=True), expected.relu()) < TOLERANCE
    expected = reference.grad_weight_unfolded(grad.double(), x.double())
    assert relative_error(IM2COL.grad_weight(grad, x), expected) < TOLERANCE


def test_results_that_bypass_the_caches():
    """Oracle: direct convolution in float64, on a result of 16 MiB and rows longer than a segment."""
    torch.manual_seed(0)
    x, weight, grad = channels_last(1, 3, 259, 255), torch.randn(64, 3, 3, 3), channels_last(1, 64, 259, 255)
    y = IM2COL.forward(x, weight, None)
    assert y.nbytes >= STREAM_BYTES
    assert relative_error(y, F.conv2d(x.double(), weight.double(), padding=1)) < TOLERANCE
    expected = conv2d_weight(x.double(), weight.shape, grad.double(), padding=1)
    assert relative_error(IM2COL.grad_weight(grad, x), expected) < TOLERANCE
