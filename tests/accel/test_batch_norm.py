"""Batch norm, ReLU and max pool as one operator, against PyTorch's three layers in float64."""

import copy

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from vggnet.accel.api import accelerate
from vggnet.accel.batch_norm import gradients, norm_relu, normalize, statistics
from vggnet.accel.fusion import FusedSequential


def three(channels, pool):
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(-1.5, 1.5)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(norm, nn.ReLU(), *([nn.MaxPool2d(2)] if pool else []))


def is_decided(z, pool):
    """Where rounding decides neither whether ReLU lets z through, nor which value of a 2x2 window is the largest."""
    if not pool:
        return z.abs() > 1e-4
    first, second = z.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2).topk(2).values.unbind(-1)
    return (first.abs() > 1e-4) & (first - second > 1e-4)


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


@given(
    n=st.integers(1, 5), channels=st.sampled_from([1, 3, 8, 16, 70]), height=st.integers(1, 9), width=st.integers(1, 9),
    offset=st.sampled_from([0.0, 3.0]), pool=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_the_three_layers(n, channels, height, width, offset, pool, seed):
    """Oracle: PyTorch's layers in float64: output, gradients, running statistics; then eval mode."""
    assume(n * height * width >= 8)  # of fewer values the gradient is a difference of nearly equal numbers
    assume(not pool or min(height, width) >= 2)
    torch.manual_seed(seed)
    plain = three(channels, pool)
    ours = accelerate(copy.deepcopy(plain))
    assert type(ours) is FusedSequential
    plain = plain.double()
    x = torch.randn(n, channels, height, width).contiguous(memory_format=torch.channels_last) + offset
    x_ours, x_plain = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = ours(x_ours), plain(x_plain)
    close(y, expected, 1e-4)
    grad = torch.randn(expected.shape) * is_decided(copy.deepcopy(plain[0])(x.double()), pool)
    y.backward(grad)
    expected.backward(grad.double())
    close(x_ours.grad, x_plain.grad, 1e-3)
    for found, wanted in zip(ours.parameters(), plain.parameters(), strict=True):
        close(found.grad, wanted.grad, 1e-3)
    plain = three(channels, pool).double()
    ours = accelerate(three(channels, pool))
    ours(x)
    plain(x.double())
    for found, wanted in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        close(ours.eval()(x), plain.eval()(x.double()), 1e-4)


def test_many_blocks_and_a_large_mean():
    """Oracle: float64; a mean of a thousand deviations, where sums of squares would lose everything."""
    torch.manual_seed(0)
    x = (torch.randn(64, 32, 32, 32) + 1000).contiguous(memory_format=torch.channels_last)
    _, mean, variance = norm_relu(x, torch.ones(32), torch.zeros(32), 1e-5, False)
    torch.testing.assert_close(mean.double(), x.double().mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), x.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=0)


def test_threads_change_no_bit():
    """Oracle: one thread."""
    torch.manual_seed(0)
    x = torch.randn(16, 48, 20, 20).contiguous(memory_format=torch.channels_last)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            given = [tensor.requires_grad_() for tensor in (x.clone(), torch.ones(48), torch.zeros(48))]
            y, _, _ = norm_relu(*given, 1e-5, True)
            y.square().sum().backward()
            results.append([y.detach(), *(tensor.grad for tensor in given)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("types", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16),
                                   (torch.bfloat16, torch.float32)], ids=str)  # fmt: skip
def test_activations_in_bfloat16(types, pool):
    """Oracle: the same work on the same values in float32, whose results are rounded by PyTorch."""
    torch.manual_seed(0)
    for_x, for_y = types
    x = torch.randn(3, 40, 6, 10).contiguous(memory_format=torch.channels_last).to(for_x)
    weight, bias, scale, shift = torch.randn(4, 40)
    for found, expected in zip(statistics(x), statistics(x.float()), strict=True):
        assert torch.equal(found, expected)
    y = normalize(x, scale, shift, pool, for_y)
    assert y.dtype == for_y
    assert torch.equal(y, normalize(x.float(), scale, shift, pool, torch.float32).to(for_y))
    mean, variance = statistics(x)
    grad = torch.randn_like(y)
    found = gradients(grad, x, weight, bias, mean, variance, 1e-5, pool)
    expected = gradients(grad.float(), x.float(), weight, bias, mean, variance, 1e-5, pool)
    assert found[0].dtype == for_x
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other.to(one.dtype))


def test_nan_is_not_hidden():
    """Oracle: a NaN of a channel makes its mean NaN, and so all of the channel."""
    x = torch.randn(4, 16, 6, 6)
    x[1, 5, 2, 2] = float("nan")
    for pool in (False, True):
        y = accelerate(three(16, pool))(x)
        assert y[:, 5].isnan().all()
        assert not y[:, :5].isnan().any()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of PyTorch's own check
def test_it_is_a_sound_operator():
    """Oracle: PyTorch's own checks of schema, fake tensors and autograd registration."""
    given = (
        torch.randn(2, 16, 6, 6, requires_grad=True),
        torch.ones(16, requires_grad=True),
        torch.zeros(16),
        1e-5,
        True,
        torch.float32,
    )
    torch.library.opcheck(torch.ops.vggnet.norm_relu.default, given)
