"""How factors are packed for the matrix unit, and the instructions of the unit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vggnet.accel.kernels import bfloat16_kernels as kernels
from vggnet.accel.kernels import bfloat16_packing as packing
from vggnet.accel.kernels.bfloat16_batch_kernels import find_neighbors


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def bits(tensor):
    """The 16 bits of each value, rounded by PyTorch."""
    return tensor.bfloat16().view(torch.int16).numpy()


def positions(x, gap=1):
    """Plain loops: the pixels of each row, then so many positions of zeros; after each image as many rows. (P, C)."""
    n, channels, height, width = x.shape
    rows = []
    for image in range(n):
        for row in range(height + gap):
            for column in range(width + gap):
                inside = row < height and column < width
                rows.append(x[image, :, row, column] if inside else torch.zeros(channels))
    return torch.stack(rows)


SIZES = {
    "n": st.integers(1, 3),
    "height": st.integers(1, 6),
    "width": st.integers(1, 6),
    "c": st.sampled_from([32, 96]),
}


def find(x, zeros, start, stop, gap=1):
    """The addresses of a range of positions."""
    n, channels, height, width = x.shape
    pixel_bytes = channels * x.element_size()
    return packing.find_pixels(start, stop, n, height, width, gap, pixel_bytes, x.data_ptr(), zeros.data_ptr())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=20)
@given(**SIZES, gap=st.integers(0, 7))
def test_pixels(dtype, n, height, width, c, gap):
    """Oracle: plain loops, and PyTorch's rounding."""
    x = channels_last(n, c, height, width).to(dtype)
    first, expected = gap * (width + gap + 1), positions(x, gap)
    packed, zeros = torch.full((c // 32, len(expected) + 2 * first, 32), 7, dtype=torch.int16), torch.zeros(c)
    row, half = packed.stride(0) * 2, len(expected) // 2
    for start, stop in ((-first, half), (half, len(expected) + first)):
        place = packed.data_ptr() + (first + start) * 64
        packing.pack_pixels(find(x, zeros, start, stop, gap), c, x.element_size(), place, row)
    end = first + len(expected)
    assert not packed[:, :first].any()
    assert not packed[:, end:].any()
    inner = packed[:, first:end].permute(1, 0, 2).reshape(len(expected), c).numpy()
    np.testing.assert_array_equal(inner, bits(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=20)
@given(**SIZES)
def test_pairs(dtype, n, height, width, c):
    """Oracle: plain loops, and PyTorch's rounding."""
    x, zeros = channels_last(n, c, height, width).to(dtype), torch.zeros(c)
    expected = positions(x)
    count = -(-len(expected) // 32) * 32
    packed = torch.full((c // 32, count // 2, 32, 2), 7, dtype=torch.int16)
    packing.pack_pairs(find(x, zeros, 0, count), c, x.element_size(), packed.data_ptr(), packed.stride(0) * 2)
    flat = packed.permute(1, 3, 0, 2).reshape(count, c).numpy()
    np.testing.assert_array_equal(flat[: len(expected)], bits(expected))
    assert not flat[len(expected) :].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=20)
@given(**SIZES)
def test_transposed(dtype, n, height, width, c):
    """Oracle: plain loops, and PyTorch's rounding; the first 16 channels are left out."""
    x, zeros = channels_last(n, c, height, width).to(dtype), torch.zeros(c)
    first, expected = width + 2, positions(x)[:, 16:]
    columns = -(-(len(expected) + 2 * first) // 16) * 16
    packed = torch.full((c - 16, columns), 7, dtype=torch.int16)
    addresses = find(x, zeros, -first, columns - first)
    packing.pack_transposed(addresses, 16, c - 16, x.element_size(), packed.data_ptr(), packed.stride(0) * 2)
    assert not packed[:, :first].any()
    end = first + len(expected)
    np.testing.assert_array_equal(packed[:, first:end].numpy(), bits(expected.T))
    assert not packed[:, end:].any()


@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "turned"])
@pytest.mark.parametrize("side", [3, 1])
def test_weights(side, turned):
    """Oracle: plain loops over panels, steps, taps and pairs."""
    k, c, taps = 64, 96, side**2
    weight = channels_last(k, c, side, side)
    columns, depth = (c, k) if turned else (k, c)
    packed = torch.empty(columns // 32, depth // 32, taps, 16, 32, 2, dtype=torch.int16)
    kernels.pack_weights(
        blocks=k // 32, in_channels=c, out_channels=k, taps=taps, w=weight, packed=packed, turned=int(turned)
    )
    rounded = weight.bfloat16().view(torch.int16)
    for panel, step, tap in np.ndindex(columns // 32, depth // 32, taps):
        for pair, column, odd in ((0, 0, 0), (0, 31, 1), (5, 16, 0), (15, 15, 1)):
            one, other = panel * 32 + column, step * 32 + 2 * pair + odd
            row, place = divmod(taps - 1 - tap if turned else tap, side)
            expected = rounded[other, one, row, place] if turned else rounded[one, other, row, place]
            assert packed[panel, step, tap, pair, column, odd] == expected


def test_rounding():
    """Oracle: PyTorch: ties to even, infinities, the largest number, and what is no number."""
    special = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, float("inf"), float("-inf"), 3.4028235e38, 1e-30, -0.0]
    x = torch.tensor(special + [0.1] * 24).view(1, 32, 1, 1).contiguous(memory_format=torch.channels_last)
    packed, zeros = torch.zeros(1, 32, dtype=torch.int16), torch.zeros(32)
    arguments = (find(x, zeros, 0, 1), 32, 4, packed.data_ptr(), 0)
    packing.pack_pixels(*arguments)
    np.testing.assert_array_equal(packed[0].numpy(), bits(x.flatten()))
    x[0, 5] = float("nan")
    packing.pack_pixels(*arguments)
    assert packed.view(torch.bfloat16)[0, 5].isnan()


@given(height=st.integers(1, 6), width=st.integers(1, 6))
def test_neighbors_on_a_map(height, width):
    """Oracle: PyTorch's convolution of a map with one pixel that is 1, by a kernel that numbers its taps."""
    starts, positions, taps = find_neighbors(height, width)
    numbers = torch.arange(1.0, 10).view(1, 1, 3, 3)
    assert starts[-1] == len(positions) == len(taps)
    for pixel in range(height * width):
        one = torch.zeros(height * width)
        one[pixel] = 1
        expected = torch.conv2d(one.view(1, 1, height, width), numbers, padding=1).flatten()
        for position in range(height * width):
            part = slice(starts[position], starts[position + 1])
            found = dict(zip(positions[part].tolist(), (taps[part] + 1).tolist(), strict=True))
            assert found.get(pixel, 0) == expected[position]
