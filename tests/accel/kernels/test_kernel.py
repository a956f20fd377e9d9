"""How threads share the blocks of a kernel."""

import numpy as np
import pytest
import torch
from numba import carray

from vggnet.accel.kernels.kernel import kernel, task_type
from vggnet.accel.kernels.llvm import fetch_add, floats_at

TASK = task_type("counts", "size", "threads")


@kernel(TASK)
def count(task, thread, block):
    """Add the block's number and the field `size` to its own count; note the largest number of a thread."""
    counts = carray(floats_at(task.counts), task.blocks)
    counts[block] += block + task.size
    fetch_add(task.threads + 8 * thread, 1)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("blocks", [0, 1, 100])
def test_every_block_runs_once(threads, blocks):
    """Oracle: by hand; as many blocks as asked for, by threads whose numbers are below their count."""
    counts, drawn, before = torch.zeros(blocks), np.zeros(8, np.int64), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        count(blocks=blocks, counts=counts, size=7, threads=drawn.ctypes.data)
    finally:
        torch.set_num_threads(before)
    assert counts.tolist() == [block + 7 for block in range(blocks)]
    assert drawn.sum() == blocks
    assert not drawn[threads:].any()


@kernel(TASK)
def double(task, thread, block):
    """Twice a value."""
    counts = carray(floats_at(task.counts), task.blocks)
    counts[block] *= 2


@pytest.mark.parametrize("threads", [1, 2])
def test_denormal_numbers_are_zeros_in_kernels_alone(threads):
    """Oracle: IEEE 754: the least normal float32 is 2^-126, below which numbers are denormal; PyTorch keeps these."""
    numbers = torch.tensor([2.0**-125, 2.0**-126, -(2.0**-126), 2.0**-127, 2.0**-149, 0.0]).repeat(50_000)
    counts, before = numbers.clone(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        double(blocks=len(counts), counts=counts)
        assert torch.equal((numbers * 2 / 2).view(torch.int32), numbers.view(torch.int32))  # bits, as 0 may equal any
    finally:
        torch.set_num_threads(before)
    expected = torch.where(numbers.abs() < 2.0**-126, 0, numbers * 2)
    assert torch.equal(counts, expected)


def test_a_field_that_the_task_lacks_is_an_error():
    """Oracle: a misspelled name."""
    with pytest.raises(TypeError, match="sise"):
        count(blocks=1, sise=7)
