"""The Winograd algorithms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vggnet.accel import reference
from vggnet.accel.algorithms.winograd import TILE_BLOCK, Winograd, _tile_block
from vggnet.accel.kernels.llvm import ROWS
from vggnet.accel.winograd_matrices import F2, F4


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def relative_error(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


@pytest.mark.parametrize("tile", [F2, F4], ids=["F2", "F4"])
def test_kernels_equal_the_plain_algorithm(tile):
    """Oracle: the reference in float64, pass by pass."""
    torch.manual_seed(0)
    x, weight, grad = channels_last(3, 32, 10, 7), channels_last(48, 32, 3, 3), channels_last(3, 48, 10, 7)
    pairs = [
        (Winograd(tile.m).forward(x, weight, None), reference.forward(x.double(), weight.double(), tile)),
        (Winograd(tile.m).grad_input(grad, weight), reference.grad_input(grad.double(), weight.double(), tile)),
        (Winograd(tile.m).grad_weight(grad, x), reference.grad_weight(grad.double(), x.double(), tile)),
    ]
    for found, expected in pairs:
        assert relative_error(found, expected) < 1e-5


@given(tiles=st.integers(1, 3000), threads=st.integers(1, 5), usual=st.sampled_from([TILE_BLOCK, 2 * TILE_BLOCK]))
def test_the_busiest_thread_has_the_least_to_do(tiles, threads, usual):
    """Oracle: brute force over every size of a block from half to twice the usual one."""

    def most_work(size):
        return math.ceil(math.ceil(tiles / size) / threads) * size

    chosen = _tile_block(tiles, threads, usual)
    assert chosen % ROWS == 0
    if tiles > usual:
        sizes = [size for size in range(ROWS, 2 * usual + 1, ROWS) if size >= min(usual / 2, tiles / threads)]
        assert most_work(chosen) <= min(map(most_work, sizes))
