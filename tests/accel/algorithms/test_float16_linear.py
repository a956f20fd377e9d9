"""Fully connected layers with weights in float16."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vggnet.accel.algorithms import float16_linear
from vggnet.accel.vectors import VECTORS

if VECTORS is None or not VECTORS.float16:
    pytest.skip("this CPU does not convert vectors of float16", allow_module_level=True)


@settings(max_examples=30)
@given(
    n=st.integers(1, 5), inputs=st.sampled_from([16, 512, 4096]), outputs=st.sampled_from([4, 64, 1000]),
    bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_a_product_of_rounded_weights(n, inputs, outputs, bias, seed):
    """Oracle: float64 product with the weights as NumPy rounds them to float16."""
    torch.manual_seed(seed)
    layer, x = nn.Linear(inputs, outputs, bias=bias), torch.randn(n, inputs)
    rounded = torch.from_numpy(layer.weight.detach().numpy().astype("float16").astype("float64"))
    expected = F.linear(x.double(), rounded, layer.bias.double() if bias else None)
    with torch.no_grad():
        found = float16_linear.linear(x, layer.weight.half(), layer.bias)
    assert (found.double() - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1e-30)


@pytest.mark.parametrize(("change", "fits"), [
    (lambda weight: weight, True), (lambda weight: weight[:, :-1], False), (lambda weight: weight[:-1], False),
    (lambda weight: weight * 65504, False),
])  # fmt: skip
def test_what_fits(change, fits):
    """Oracle: by hand: rows and columns that fill vectors, and values below the largest one of float16."""
    assert float16_linear.supports(change(torch.ones(64, 64))) is fits
