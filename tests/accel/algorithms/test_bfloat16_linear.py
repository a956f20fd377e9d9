"""Fully connected layers with products in bfloat16."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vggnet.accel.algorithms import bfloat16_linear
from vggnet.accel.kernels.tiles import has_tiles

pytestmark = pytest.mark.skipif(not has_tiles(), reason="the CPU has no matrix unit for bfloat16 (AMX)")


@settings(max_examples=30)
@given(
    n=st.integers(1, 70), inputs=st.sampled_from([32, 96, 1024]), outputs=st.sampled_from([32, 33, 64, 100, 1000]),
    with_bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_a_product_of_rounded_factors(n, inputs, outputs, with_bias, seed):
    """Oracle: float64 product of the factors as PyTorch rounds them."""
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(n, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    assert bfloat16_linear.supports(weight)
    expected = x.bfloat16().double() @ weight.bfloat16().double().T
    packed = bfloat16_linear.pack(weight)
    found = bfloat16_linear.linear(x, packed, outputs, bias if with_bias else None)
    expected = expected + bias if with_bias else expected
    assert (found.double() - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize(("shape", "fits"), [((32, 32), True), ((31, 32), False), ((64, 33), False)])
def test_what_fits(shape, fits):
    """Oracle: by hand: whole steps of 32 inputs, and a panel of 32 outputs."""
    assert bfloat16_linear.supports(torch.ones(shape)) is fits


def test_threads_change_no_bit():
    """Oracle: one thread."""
    torch.manual_seed(0)
    x, weight, before, found = torch.randn(5, 512), torch.randn(300, 512), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(bfloat16_linear.linear(x, bfloat16_linear.pack(weight), 300, None))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
