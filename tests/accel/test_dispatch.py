"""The fast operator: right for every shape and algorithm, the same for every number of threads, robust."""

import math
import os
import subprocess
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from vggnet.accel import reference
from vggnet.accel.algorithms import im2col as unfold
from vggnet.accel.algorithms import winograd
from vggnet.accel.algorithms.winograd_matrices import F2, F4
from vggnet.accel.dispatch import conv3x3
from vggnet.accel.kernels.llvm import ROWS

ALGORITHMS = ["direct", "direct_nchw", "dense", "unfold", "winograd2", "winograd4"]
TOLERANCE = 5e-5  # of the largest value


@pytest.fixture(params=ALGORITHMS)
def algorithm(request, monkeypatch):
    monkeypatch.setenv("VGGNET_CONV", request.param)
    return request.param


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def relative_error(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


def assert_right(x, weight, bias, grad):
    """Output and gradients against float64 direct convolution."""
    ours = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    exact = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    y, expected = conv3x3(*ours), F.conv2d(*exact, padding=1)
    assert relative_error(y, expected) < TOLERANCE
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.backward(grad)
    expected.backward(grad.double())
    for found, wanted in zip(ours, exact, strict=True):
        assert relative_error(found.grad, wanted.grad) < TOLERANCE


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    n=st.integers(1, 9),
    c=st.sampled_from([1, 3, 16, 32, 48, 80]),
    k=st.sampled_from([1, 16, 48, 112]),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    seed=st.integers(0, 99),
)
def test_every_algorithm_is_right(algorithm, n, c, k, height, width, seed):
    """Oracle: direct convolution in float64, and autograd through it."""
    torch.manual_seed(seed)
    weight = torch.randn(k, c, 3, 3) / (3 * c**0.5)
    assert_right(channels_last(n, c, height, width), weight, torch.randn(k), channels_last(n, k, height, width))


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 5),
    c=st.sampled_from([1, 3, 17, 64]),
    k=st.sampled_from([1, 16, 33]),
    height=st.integers(1, 2),
    width=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_the_dense_product_is_right(n, c, k, height, width, seed):
    """Oracle: as above, on maps of 2x2 pixels and below."""
    torch.manual_seed(seed)
    weight = torch.randn(k, c, 3, 3) / (3 * c**0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGGNET_CONV", "dense")
        assert_right(channels_last(n, c, height, width), weight, torch.randn(k), channels_last(n, k, height, width))


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 5),
    c=st.integers(1, 4),
    k=st.sampled_from([32, 64, 96]),
    height=st.integers(1, 9),
    width=st.integers(ROWS, 3 * ROWS + 1),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_unfolding_equals_the_plain_algorithm(n, c, k, height, width, bias, seed):
    """Oracle: the reference in float64; rows that are no whole number of tiles, maps lower than the kernel."""
    torch.manual_seed(seed)
    x, weight, grad = channels_last(n, c, height, width), torch.randn(k, c, 3, 3), channels_last(n, k, height, width)
    shift = torch.randn(k) if bias else None
    expected = reference.forward_unfolded(x.double(), weight.double())
    if shift is not None:
        expected += shift.view(-1, 1, 1)
    assert relative_error(unfold.forward(x, weight, shift), expected) < TOLERANCE
    assert relative_error(unfold.forward(x, weight, shift, relu=True), expected.relu()) < TOLERANCE
    expected = reference.grad_weight_unfolded(grad.double(), x.double())
    assert relative_error(unfold.grad_weight(grad, x), expected) < TOLERANCE


def test_unfolding_is_right_where_results_bypass_the_caches():
    """Oracle: direct convolution in float64, on a result of 16 MiB and rows longer than a segment."""
    torch.manual_seed(0)
    x, weight, grad = channels_last(1, 3, 259, 255), torch.randn(64, 3, 3, 3), channels_last(1, 64, 259, 255)
    assert unfold.forward(x, weight, None).nbytes >= unfold.STREAM_BYTES
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGGNET_CONV", "unfold")
        assert_right(x, weight, torch.randn(64), grad)


def test_results_may_be_changed_in_place(algorithm):
    """Oracle: F.conv2d and F.relu; torchvision's VGGs have nn.ReLU(inplace=True) after each convolution."""
    torch.manual_seed(0)
    for height, width in ((2, 2), (9, 6)):
        x, weight = channels_last(2, 16, height, width), torch.randn(16, 16, 3, 3)
        ours, stock = [[tensor.clone().requires_grad_() for tensor in (x, weight)] for _ in range(2)]
        F.relu(conv3x3(*ours), inplace=True).sum().backward()
        F.relu(F.conv2d(*stock, padding=1)).sum().backward()
        for found, expected in zip(ours, stock, strict=True):
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-4)


def test_the_default_type_and_device_are_not_looked_at(algorithm):
    """Oracle: the same without; memory of another type would be read as nonsense."""
    x, weight = channels_last(2, 16, 9, 9), torch.randn(16, 16, 3, 3)
    expected = conv3x3(x, weight)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = conv3x3(x, weight)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(1, 513, 5, 5, 16), (2, 512, 9, 7, 512), (130, 256, 2, 2, 64), (3, 16, 61, 35, 32)])
def test_odd_and_large_shapes(algorithm, shape):
    """Oracle: as above: odd channels, sums of 4608 products, more tiles than a block, edges that cut tiles."""
    n, c, height, width, k = shape
    torch.manual_seed(0)
    weight = torch.randn(k, c, 3, 3) / (3 * c**0.5)
    assert_right(channels_last(n, c, height, width), weight, torch.randn(k), channels_last(n, k, height, width))


@pytest.mark.parametrize("tile", [F2, F4], ids=["F2", "F4"])
def test_kernels_equal_the_plain_algorithm(tile):
    """Oracle: the reference in float64, pass by pass."""
    torch.manual_seed(0)
    x, weight, grad = channels_last(3, 32, 10, 7), channels_last(48, 32, 3, 3), channels_last(3, 48, 10, 7)
    pairs = [
        (winograd.forward(x, weight, None, tile.m), reference.forward(x.double(), weight.double(), tile)),
        (winograd.grad_input(grad, weight, tile.m), reference.grad_input(grad.double(), weight.double(), tile)),
        (winograd.grad_weight(grad, x, tile.m), reference.grad_weight(grad.double(), x.double(), tile)),
    ]
    for found, expected in pairs:
        assert relative_error(found, expected) < 1e-5


@given(tiles=st.integers(1, 3000), threads=st.integers(1, 5))
def test_the_busiest_thread_has_the_least_to_do(tiles, threads):
    """Oracle: brute force over every size of a block from half to twice the usual one."""

    def most_work(size):
        return math.ceil(math.ceil(tiles / size) / threads) * size

    chosen = winograd._block(tiles, threads)
    assert chosen % ROWS == 0
    if tiles > winograd.TILE_BLOCK:
        usual = winograd.TILE_BLOCK
        sizes = [size for size in range(ROWS, 2 * usual + 1, ROWS) if size >= min(usual / 2, tiles / threads)]
        assert most_work(chosen) <= min(map(most_work, sizes))


def passes(x, weight, grad):
    return [
        winograd.forward(x, weight, None, 4),
        winograd.grad_input(grad, weight, 4),
        winograd.grad_weight(grad, x, 4),
    ]


def test_threads_change_no_bit():
    """Oracle: one thread."""
    torch.manual_seed(0)
    x, weight, grad = channels_last(40, 64, 13, 9), channels_last(96, 64, 3, 3), channels_last(40, 96, 13, 9)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = passes(x, weight, grad)
        for threads in (2, 3, 2):
            torch.set_num_threads(threads)
            for found, expected in zip(passes(x, weight, grad), alone, strict=True):
                assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def test_several_python_threads():
    """Oracle: the same calls one after the other."""
    torch.manual_seed(0)
    inputs = [(channels_last(4, 32, 9, 9), torch.randn(32, 32, 3, 3), channels_last(4, 32, 9, 9)) for _ in range(4)]
    expected = [passes(*given) for given in inputs]
    found = [None] * 4

    def work(index):
        for _ in range(5):
            found[index] = passes(*inputs[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


FORKING = """
import torch
from torch.utils.data import DataLoader, Dataset
from vggnet.accel.algorithms import winograd
torch.manual_seed(0)
x = torch.randn(8, 32, 16, 16).contiguous(memory_format=torch.channels_last)
weight = torch.randn(32, 32, 3, 3)
torch.set_num_threads(2)
expected = winograd.forward(x, weight, None, 4)

class Convolved(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return winograd.forward(x, weight, None, 4)

for batch in DataLoader(Convolved(), num_workers=2, multiprocessing_context="fork"):
    assert torch.equal(batch[0], expected)
assert torch.equal(winograd.forward(x, weight, None, 4), expected)
print("all agree")
"""


def test_forked_loader_workers_compute_the_same():
    """Oracle: the parent, before and after; OpenMP's threads do not survive a fork."""
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "all agree\n"), done.stderr


def test_without_pytorchs_openmp(monkeypatch):
    """Oracle: the same with it; where PyTorch brings another library, a pool of Python threads does the work."""
    from vggnet.accel import threads

    torch.manual_seed(0)
    given = channels_last(8, 32, 16, 16), channels_last(32, 32, 3, 3), channels_last(8, 32, 16, 16)
    expected, before = passes(*given), torch.get_num_threads()
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(one, other) for one, other in zip(passes(*given), expected, strict=True))
    finally:
        torch.set_num_threads(before)


def test_nan_stays_nan(algorithm):
    """Oracle: the outputs that see the pixel, by hand; a tile may spread it, but never hide it."""
    x = channels_last(2, 16, 8, 8)
    x[0, 3, 4, 4] = float("nan")
    y = conv3x3(x, torch.ones(16, 16, 3, 3))
    assert y[0, :, 3:6, 3:6].isnan().all()
    assert not y[1].isnan().any()


def test_other_cases_are_pytorchs():
    """Oracle: F.conv2d itself, bit for bit: float64, an empty batch, no batch, bfloat16."""
    weight, bias = torch.randn(16, 16, 3, 3), torch.randn(16)
    cases = [
        torch.randn(2, 16, 8, 8).double(),
        torch.randn(0, 16, 8, 8),
        torch.randn(16, 8, 8),
        torch.randn(1, 16, 8, 8).bfloat16(),
    ]
    for x in cases:
        given = x, weight.to(x.dtype), bias.to(x.dtype)
        assert torch.equal(conv3x3(*given), F.conv2d(*given, padding=1))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv3x3(torch.randn(1, 16, 8, 8), weight).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="channels"):
        conv3x3(torch.randn(2, 8, 8, 8), weight)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of PyTorch's own check
def test_it_is_a_sound_operator():
    """Oracle: PyTorch's own checks of schema, fake tensors and autograd registration."""
    given = channels_last(2, 16, 6, 5).requires_grad_(), torch.randn(16, 16, 3, 3, requires_grad=True), torch.randn(16)
    torch.library.opcheck(torch.ops.vggnet.conv3x3.default, given)


NO_CACHE = """
import torch
from vggnet.accel.dispatch import conv3x3
x = torch.randn(2, 16, 8, 8)
y = conv3x3(x, torch.ones(16, 16, 3, 3))
torch.testing.assert_close(y, torch.nn.functional.conv2d(x, torch.ones(16, 16, 3, 3), padding=1), rtol=1e-4, atol=1e-4)
print("done")
"""


def test_without_any_writable_cache(tmp_path):
    """Oracle: direct convolution; neither compiled kernels nor choices can be kept."""
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(nowhere / "numba"), "VGGNET_CACHE": str(nowhere / "choices")}
    done = subprocess.run(
        [sys.executable, "-c", NO_CACHE], capture_output=True, text=True, env=environment, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_modules_of_other_libraries_are_left_alone():
    """Oracle: F.conv2d through an ordinary module, beside the operator."""
    conv = nn.Conv2d(16, 16, 3, padding=1)
    x = channels_last(2, 16, 8, 8)
    torch.testing.assert_close(conv3x3(x, conv.weight, conv.bias), conv(x), rtol=1e-3, atol=1e-4)
