"""The distance of unit vectors and its gradient, against autograd in float64."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vggnet.accel.unit_vectors import unit_distance


def by_definition(first, second, weight):
    """In float64, with autograd."""
    units = [F.normalize(maps.double(), dim=1, eps=1e-10) for maps in (first, second)]
    return ((units[0] - units[1]).square() * weight.double()[:, None, None]).sum(1)


@settings(max_examples=40)
@given(
    n=st.integers(1, 3), channels=st.sampled_from([1, 3, 16, 61, 64, 512]), height=st.integers(1, 9),
    width=st.integers(1, 9), last=st.booleans(), size=st.sampled_from([1e-6, 1.0, 1e6]), seed=st.integers(0, 99),
)  # fmt: skip
def test_value_and_both_gradients(n, channels, height, width, last, size, seed):
    """Oracle: autograd in float64, to 1e-6 of the largest value."""
    torch.manual_seed(seed)
    format_ = torch.channels_last if last else torch.contiguous_format
    maps = [size * torch.rand(n, channels, height, width).contiguous(memory_format=format_) for _ in range(2)]
    weight, grad = torch.rand(channels), torch.randn(n, height, width)
    found, expected = [], []
    for function, results in ((unit_distance, found), (by_definition, expected)):
        given_maps = [tensor.clone().requires_grad_() for tensor in maps]
        values = function(*given_maps, weight)
        results += [values.detach(), *torch.autograd.grad(values, given_maps, grad.to(values.dtype))]
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        lengths = 1 if channels > 1 else 1 / size  # of one channel the gradient is 0
        assert (one - other).abs().max() <= 1e-6 * max(other.abs().max().item(), lengths)


def test_equal_maps_are_at_distance_0():
    """Oracle: by hand: not 1e-14, and no gradient."""
    first = torch.randn(2, 64, 8, 8).requires_grad_()
    second = first.detach().clone().requires_grad_()
    values = unit_distance(first, second, torch.rand(64))
    assert values.abs().max() == 0
    for gradient in torch.autograd.grad(values.sum(), [first, second]):
        assert gradient.abs().max() == 0


def test_a_vector_of_zeros_has_no_gradient():
    """Oracle: by hand: the other vector's part of the distance is the sum of its weights."""
    zeros, others = torch.zeros(1, 16, 2, 2, requires_grad=True), torch.ones(1, 16, 2, 2, requires_grad=True)
    values = unit_distance(zeros, others, torch.ones(16))
    torch.testing.assert_close(values, torch.ones(1, 2, 2))
    for gradient in torch.autograd.grad(values.sum(), [zeros, others]):
        assert gradient.abs().max() < 1e-6
    with_itself = unit_distance(zeros, zeros.detach(), torch.ones(16))
    assert with_itself.abs().max() == 0


def test_one_gradient_alone_and_none():
    """Oracle: both at once."""
    first, second, weight = torch.rand(2, 32, 3, 5), torch.rand(2, 32, 3, 5), torch.rand(32)
    both = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    expected = torch.autograd.grad(unit_distance(*both, weight).sum(), both)
    (found,) = torch.autograd.grad(unit_distance(both[0], second, weight).sum(), both[0])
    assert torch.equal(found, expected[0])
    (found,) = torch.autograd.grad(unit_distance(first, both[1], weight).sum(), both[1])
    assert torch.equal(found, expected[1])
    assert not unit_distance(first, second, weight).requires_grad


def test_nan_is_not_hidden():
    """Oracle: by hand: the place of the NaN."""
    first = torch.rand(1, 16, 2, 2)
    first[0, 3, 1, 0] = torch.nan
    first.requires_grad_()
    values = unit_distance(first, torch.rand(1, 16, 2, 2), torch.ones(16))
    (gradient,) = torch.autograd.grad(values.sum(), first)
    expected = torch.tensor([[[False, False], [True, False]]])
    assert torch.equal(values.isnan(), expected)
    assert torch.equal(gradient.isnan().all(1), expected)
