"""Memory for kernels: results, scratch memory that is used again, and how the process keeps freed memory."""

import ctypes
import math
import sys
import threading
from functools import cache, lru_cache

import torch
from torch import Tensor

from vggnet.accel import arena

FLOAT = 4  # bytes
CACHE_LINE = 64  # bytes


@cache
def keep_freed_memory() -> None:
    """Make GNU's malloc keep freed memory for later use instead of returning it to the system, in the whole process.

    The engine calls this at its first use in a process; later calls do nothing. By default malloc returns every piece
    above 32 MiB at once, and touching fresh pages costs up to a third of the time of the convolution that writes to
    them. The process then holds as much memory as it ever used at one time. Elsewhere than on Linux with GNU's C
    library nothing happens.
    """
    mmap_max, trim_threshold = -4, -1
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uninitialized memory on the CPU that is kept, whatever PyTorch's default type and device are."""
    memory = arena.kept(math.prod(shape) * dtype.itemsize)
    if memory is None:
        return torch.empty(shape, dtype=dtype, device="cpu")
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def feature_maps(n: int, channels: int, height: int, width: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """As `floats`, of shape (n, channels, height, width), channels-last. Not a view, so it may be changed in place."""
    shape = (n, channels, height, width)
    memory = arena.take(math.prod(shape) * dtype.itemsize)
    if memory is None:
        return torch.empty(shape, dtype=dtype, device="cpu", memory_format=torch.channels_last)
    strides = (height * width * channels, 1, width * channels, channels)
    storage = torch.frombuffer(memory, dtype=dtype).untyped_storage()
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, shape, strides)


@lru_cache(maxsize=64)
def constant(channels: int, value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A value for each channel, (channels,), that kernels read only."""
    return torch.full((channels,), value, dtype=dtype, device="cpu")


class _Memory(threading.local):
    """Memory of each Python thread, kept from call to call: fresh pages cost as much as the work in them."""

    def __init__(self) -> None:
        self.scratch = floats(0)
        self.kernels = floats(0)


_memory = _Memory()


def scratch(*sizes: int) -> list[int]:
    """The addresses of pieces of so many bytes, each on a cache line. The next call uses the same memory again."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + math.ceil(size / CACHE_LINE) * CACHE_LINE)
    if _memory.scratch.nbytes < starts[-1]:
        _memory.scratch = floats(math.ceil(starts[-1] / FLOAT))
    return [_memory.scratch.data_ptr() + start for start in starts[:-1]]


def kernel_scratch(count: int) -> Tensor:
    """At least `count` floats for transformed kernels. The next call uses the same memory again."""
    if _memory.kernels.numel() < count:
        _memory.kernels = floats(count)
    return _memory.kernels
