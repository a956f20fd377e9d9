"""Muon: orthogonal updates of kernels, plain SGD for everything else."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from vggnet.accel.kernels.tiles import has_tiles
from vggnet.accel.precision import products_in
from vggnet.training.muon import Muon, orthogonalize

# Jordan's polynomial of singular values, of kellerjordan.github.io/posts/muon, and what the documentation says of ours.
A, B, C = 3.4445, -4.7750, 2.0315
TIMES = 3
MOMENTUM = 0.6


def turned(matrix):
    """numpy's singular value decomposition with the polynomial applied to each value by itself, in float64."""
    u, values, v = np.linalg.svd(np.asarray(matrix, dtype=np.float64), full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for _ in range(TIMES):
        values = A * values + B * values**3 + C * values**5
    return u @ np.diag(values) @ v


@given(rows=st.integers(1, 24), columns=st.integers(1, 60), seed=st.integers(0, 99))
@example(rows=1, columns=1, seed=19)  # a matrix of small norm
def test_singular_vectors_stay_and_values_go_through_the_polynomial(rows, columns, seed):
    """Oracle: numpy's singular value decomposition."""
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    found = orthogonalize(torch.from_numpy(matrix)).numpy()
    np.testing.assert_allclose(found, turned(matrix), rtol=1e-5, atol=1e-5)


def test_a_gaussian_matrix_becomes_nearly_orthogonal():
    """Oracle: the definition; Jordan's coefficients leave singular values between 0.7 and 1.2 or so."""
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(64, 576)))
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 0.02), ("float32", 1e-5)])
def test_updates_in_the_precision_of_convolutions(precision, error):
    """Oracle: the step in float64; PyTorch's switch for matrices, which the block for convolutions does not set."""
    kernel = nn.Parameter(torch.randn(64, 64, 3, 3, generator=torch.manual_seed(0)))
    gradient = torch.randn(64, 64, 3, 3)
    steps = []
    for dtype in (torch.float64, torch.float32):
        copied = nn.Parameter(kernel.detach().to(dtype, copy=True))
        copied.grad = gradient.to(dtype)
        with products_in(precision):
            before = torch.backends.mkldnn.matmul.fp32_precision
            Muon([{"params": [copied], "kernels": True, "lr": 0.1}], lr=0.1).step()
            assert torch.backends.mkldnn.matmul.fp32_precision == before
        steps.append(copied.grad.double())
    expected, found = steps
    assert (found - expected).norm() <= error * expected.norm()


@pytest.mark.skipif(not has_tiles(), reason="the CPU has no matrix unit for bfloat16 (AMX)")
def test_bfloat16_is_what_pytorch_computes_in():
    """Oracle: the updates differ, by more than float32 explains."""
    gradient, found = torch.randn(64, 64, 3, 3, generator=torch.manual_seed(0)), []
    for precision in ("bfloat16", "float32"):
        kernel = nn.Parameter(torch.ones(64, 64, 3, 3))
        kernel.grad = gradient.clone()
        with products_in(precision):
            Muon([{"params": [kernel], "kernels": True, "lr": 0.1}], lr=0.1).step()
        found.append(kernel.grad)
    assert (found[0] - found[1]).norm() > 1e-3 * found[1].norm()


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5))
    return layers.to(memory_format=torch.channels_last)


def muon_for(model, rate):
    kernels = [p for p in model.parameters() if p.ndim == 4]
    others = [p for p in model.parameters() if p.ndim != 4]
    groups = [{"params": kernels, "kernels": True, "momentum": 0.0, "nesterov": False, "lr": rate}, {"params": others}]
    return Muon(groups, lr=0.1, momentum=0.9, nesterov=True)


def train(model, optimizer, steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(6, 3, 4, 4, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.arange(6) % 5).backward()
        yield
        optimizer.step()


def test_a_kernels_step_is_the_formula():
    """Oracle: the update written out in numpy, over three steps."""
    model = network()
    kernel, average, expected = model[0].weight, np.zeros((8, 27)), None
    for _ in train(model, muon_for(model, 0.2), 3):
        now = kernel.detach().numpy().astype(np.float64)
        if expected is not None:
            np.testing.assert_allclose(now, expected, rtol=1e-4, atol=1e-4)
        gradient = kernel.grad.numpy().reshape(8, 27).astype(np.float64)
        average = MOMENTUM * average + gradient
        step = turned(gradient + MOMENTUM * average).reshape(8, 3, 3, 3)
        expected = now * (8**0.5 / np.sqrt((now**2).sum())) - 0.2 * step
    np.testing.assert_allclose(kernel.detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_the_other_parameters_take_the_steps_of_sgd():
    """Oracle: PyTorch's SGD on a copy that is given the same kernels before every step."""
    ours, theirs = network(), network()
    others = [p for p in theirs.parameters() if p.ndim != 4]
    sgd = torch.optim.SGD(others, lr=0.1, momentum=0.9, nesterov=True)
    for _ in zip(train(ours, muon_for(ours, 0.2), 4), train(theirs, sgd, 4), strict=True):
        for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
            if found.ndim != 4:
                torch.testing.assert_close(found, expected)
        theirs[0].weight.data.copy_(ours[0].weight.data)
        ours.zero_grad()
        theirs.zero_grad()
        shared = torch.randn(6, 3, 4, 4)
        for model in (ours, theirs):
            F.cross_entropy(model(shared), torch.arange(6) % 5).backward()


def test_its_state_can_be_saved_and_goes_on_exactly():
    """Invariant: four steps at once and two times two with the state handed over are the same bits."""
    whole = network()
    list(train(whole, muon_for(whole, 0.2), 2))
    half = copy.deepcopy(whole)
    first = muon_for(whole, 0.2)
    list(train(whole, first, 2))
    saved = copy.deepcopy(first.state_dict())
    half.load_state_dict(whole.state_dict())
    second = muon_for(half, 0.2)
    second.load_state_dict(saved)
    list(train(whole, first, 2))
    list(train(half, second, 2))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(4, 2, 3, 3), (40, 1, 3, 3)])
def test_tall_and_wide_kernels(shape):
    """Oracle: a matrix and its transpose are turned alike."""
    torch.manual_seed(0)
    matrix = torch.randn(shape).flatten(1)
    torch.testing.assert_close(orthogonalize(matrix), orthogonalize(matrix.T).T)
