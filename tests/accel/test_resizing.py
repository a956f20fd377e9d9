"""The 2x2 max pool, and a map that is enlarged and joined with another one: PyTorch's operators, to the last bit."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vggnet.accel.api import accelerate
from vggnet.accel.compilation import problem
from vggnet.accel.resizing import enlarge_and_join, max_pool
from vggnet.accel.startup import startup

pytestmark = pytest.mark.skipif(bool(problem()), reason="no kernels can be compiled here")
TYPES = st.sampled_from([torch.float32, torch.bfloat16])
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 5), st.integers(1, 5))


@pytest.fixture(autouse=True)
def kernels():
    startup().start()


def random_map(*shape, dtype, values=None):
    """With gradients; of few values, many are equal."""
    x = torch.randint(-values, values, shape).to(dtype) if values else torch.randn(shape).to(dtype)
    return x.to(memory_format=torch.channels_last).requires_grad_()


def joined_by_pytorch(small, large):
    return torch.cat([F.interpolate(small, scale_factor=2.0, mode="nearest"), large], 1)


@given(size=SIZES, dtype=TYPES, values=st.sampled_from([None, 2]))
def test_a_pool_and_its_gradient(size, dtype, values):
    """Oracle: PyTorch's pool; of equal values the first one has the gradient."""
    n, channels, height, width = size
    x = random_map(n, channels, 2 * height, 2 * width, dtype=dtype, values=values)
    found, expected = max_pool(x), F.max_pool2d(x, 2)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(expected)
    assert torch.equal(*(torch.autograd.grad(y, x, grad)[0] for y in (found, expected)))


@given(size=SIZES, more=st.integers(1, 40), dtype=TYPES)
def test_a_join_and_its_gradients(size, more, dtype):
    """Oracle: PyTorch's operators; a gradient's sum of four in float64, rounded once for each of three additions."""
    n, channels, height, width = size
    small = random_map(n, channels, height, width, dtype=dtype)
    large = random_map(n, more, 2 * height, 2 * width, dtype=dtype)
    found, expected = enlarge_and_join(small, large), joined_by_pytorch(small, large)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(expected)
    for_small, for_large = torch.autograd.grad(found, (small, large), grad)
    assert torch.equal(for_large, grad[:, channels:])
    exact = F.avg_pool2d(grad[:, :channels].double(), 2) * 4
    bound = 4 * F.avg_pool2d(grad[:, :channels].double().abs(), 2) * 3 * 2**-24 + exact.abs() * torch.finfo(dtype).eps
    assert ((for_small.double() - exact).abs() <= bound).all()


def test_what_is_not_a_number_stays_so():
    """Oracle: PyTorch's pool."""
    x = torch.randn(1, 4, 8, 8)
    x[0, :, ::3, ::3] = torch.nan
    torch.testing.assert_close(max_pool(x), F.max_pool2d(x, 2), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(3, 8, 8), (2, 3, 7, 8), (2, 3, 8, 8)])
def test_pools_of_a_sequence(size):
    """Oracle: PyTorch's layers: also for one image without a batch, and for odd sizes."""
    for pool in (torch.nn.MaxPool2d(2), torch.nn.MaxPool2d(2, ceil_mode=True), torch.nn.MaxPool2d(3, 2, padding=1)):
        x, plain = torch.randn(size), torch.nn.Sequential(pool, torch.nn.Identity())
        assert torch.equal(accelerate(torch.nn.Sequential(pool, torch.nn.Identity()))(x), plain(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types(dtype):
    """Oracle: PyTorch's operators."""
    small, large = torch.randn(2, 3, 4, 4).to(dtype), torch.randn(2, 5, 8, 8).to(dtype)
    assert torch.equal(enlarge_and_join(small, large), joined_by_pytorch(small, large))
    assert torch.equal(max_pool(large), F.max_pool2d(large, 2))
    mixed = enlarge_and_join(small.bfloat16(), large.float())
    assert torch.equal(mixed, joined_by_pytorch(small.bfloat16(), large.float()))
