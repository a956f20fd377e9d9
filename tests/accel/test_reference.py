"""The plain algorithms: against direct convolution in float64, and against numerical derivatives."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.grad import conv2d_input, conv2d_weight

from vggnet.accel import reference
from vggnet.accel.winograd_matrices import F2, F4

BOTH = pytest.mark.parametrize("winograd", [F2, F4], ids=["F2", "F4"])
SIZES = st.integers(1, 13)


@BOTH
@given(
    n=st.integers(1, 3), c=st.integers(1, 5), k=st.integers(1, 5), height=SIZES, width=SIZES, seed=st.integers(0, 99)
)
def test_equals_direct_convolution(winograd, n, c, k, height, width, seed):
    """Oracle: PyTorch's direct convolution and its gradients, float64."""
    torch.manual_seed(seed)
    x, weight, grad = (
        torch.randn(shape, dtype=torch.float64)
        for shape in [(n, c, height, width), (k, c, 3, 3), (n, k, height, width)]
    )
    close = {"rtol": 1e-10, "atol": 1e-11}
    torch.testing.assert_close(reference.forward(x, weight, winograd), F.conv2d(x, weight, padding=1), **close)
    expected = conv2d_input(x.shape, weight, grad, padding=1)
    torch.testing.assert_close(reference.grad_input(grad, weight, winograd), expected, **close)
    expected = conv2d_weight(x, weight.shape, grad, padding=1)
    torch.testing.assert_close(reference.grad_weight(grad, x, winograd), expected, **close)


@given(
    n=st.integers(1, 3), c=st.integers(1, 5), k=st.integers(1, 5), height=SIZES, width=SIZES, seed=st.integers(0, 99)
)
def test_unfolding_equals_direct_convolution(n, c, k, height, width, seed):
    """Oracle: PyTorch's direct convolution and its gradient, float64."""
    torch.manual_seed(seed)
    x, weight, grad = (
        torch.randn(shape, dtype=torch.float64)
        for shape in [(n, c, height, width), (k, c, 3, 3), (n, k, height, width)]
    )
    torch.testing.assert_close(reference.forward_unfolded(x, weight), F.conv2d(x, weight, padding=1))
    expected = conv2d_weight(x, weight.shape, grad, padding=1)
    torch.testing.assert_close(reference.grad_weight_unfolded(grad, x), expected)


class Winograd(torch.autograd.Function):
    """The reference with its own gradients, for gradcheck."""

    @staticmethod
    def forward(context, x, weight, winograd):
        context.save_for_backward(x, weight)
        context.winograd = winograd
        return reference.forward(x, weight, winograd)

    @staticmethod
    def backward(context, grad):
        x, weight = context.saved_tensors
        return (
            reference.grad_input(grad, weight, context.winograd),
            reference.grad_weight(grad, x, context.winograd),
            None,
        )


@BOTH
def test_gradients_are_numerical_derivatives(winograd):
    """Oracle: gradcheck: differences of the forward pass in float64, of a map that is no multiple of a tile."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, weight: Winograd.apply(x, weight, winograd), (x, weight))


@BOTH
def test_matrices_by_polynomials(winograd):
    """Oracle: Toom-Cook: F(m, 3) in one dimension is a correlation, of whole numbers in plain loops."""
    d = torch.arange(1.0, winograd.side + 1, dtype=torch.float64) ** 2
    g = torch.tensor([2.0, -3.0, 5.0], dtype=torch.float64)
    output, kernel, data = (
        torch.tensor(matrix, dtype=torch.float64) for matrix in (winograd.output, winograd.kernel, winograd.input)
    )
    by_loop = [sum(float(d[i + r] * g[r]) for r in range(3)) for i in range(winograd.m)]
    assert (output @ ((kernel @ g) * (data @ d))).tolist() == pytest.approx(by_loop)
